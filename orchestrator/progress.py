"""What a person sees while a study runs: a live view, or plain lines where it is no terminal."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from orchestrator.decisions import Verdict
from orchestrator.findings import VictimFinding
from orchestrator.plan import Scenario, Trial
from orchestrator.plural import span
from orchestrator.prunings import amount, sentence
from orchestrator.signals import PLAIN_EVERY
from orchestrator.tally import Reached, Tally
from orchestrator.work import Finished, Item, Progress

SILENCE = 30.0  # seconds without news, after which a line says so
LOOK = 1.0  # seconds between looks for that
ROWS = 16  # of running items on a screen
SHOWN = 4  # running items in a plain line
STAGES = {"train_victim": "train victim"}  # what a stage is called on a screen


class Screen:
    """The observer that keeps the terminal up to date.

    Args:
        console: Where to write.
        tally: What to write.
        log_of: Where the log of an item lies, by its name.
    """

    def __init__(
        self, console: Console, tally: Tally, log_of: Callable[[str], Path] | None = None
    ) -> None:
        self._console = console
        self._tally = tally
        self._log_of = log_of
        self._live: Live | None = None
        self._open = False
        self._next_line = 0.0
        self._heard = 0.0
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self._tally.begin()
        self._open = True
        self._heard = time.monotonic()
        self._left.clear()
        threading.Thread(target=self._listen, daemon=True).start()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._left.set()
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.__exit__(None, None, None)
            self._live = None
        elif self._open and not any(reason):
            self.say(self._line())
        self._open = False

    def say(self, text: str, style: str = "", item: str = "") -> None:
        """Print a line that stays; `item` is whose log it leads to."""
        self._console.print(Text(text, style=self._style(style, item)), soft_wrap=True)

    def started(self, item: Item) -> None:
        self._tally.start(item)
        self._tick()

    def progressed(self, item: Item, progress: Progress) -> None:
        self._tally.progress(item, progress)
        self._tick()

    def ended(self, item: Item, result: Finished) -> None:
        self._tally.end(item, result)
        if result.error:
            text = f"failed: {item.name} ({self._tally.name(item.scenario)}): {result.reason}"
            self.say(text, "red", item.name)
        self._tick()

    def victim(self, scenario: Scenario, finding: VictimFinding) -> None:
        rule, reached = self._tally.plan.study.victim_rule, finding.evaluation.selection
        weak = not rule.admits(reached)
        self._tally.victim(scenario, weak=weak)
        if weak:
            name = self._tally.name(scenario)
            wanted = f"wanted {rule.min_acc:.1%} and {rule.min_asr:.1%}"
            reach = f"ACC {reached.acc:.1%}, ASR {reached.asr:.1%}"
            self.say(f"weak victim: {name}: {reach}; {wanted}", "yellow")

    def decided(self, verdict: Verdict) -> None:
        self._tally.decided(verdict)
        if self._open and verdict.pruning is not None:
            text = sentence(self._tally.plan, verdict.pruning)
            self.say(text, "magenta", verdict.trial.name)
        self._tick()

    def _style(self, style: str, item: str) -> Style:
        """Return a style that a terminal which can makes a link to an item's log."""
        link = self._log_of(item).as_uri() if item and self._log_of is not None else None
        return Style.parse(style) + Style(link=link)

    def _listen(self) -> None:
        """Say that nothing is heard, at ever longer intervals: of a node that is cut off, say."""
        heard, patience = self._heard, SILENCE
        while not self._left.wait(LOOK):
            if heard != self._heard:
                heard, patience = self._heard, SILENCE
            silence = time.monotonic() - heard
            running = [self._doing(item, progress) for item, progress in self._active()]
            if running and silence >= patience:
                patience *= 2
                more = f"; {len(running) - SHOWN} more" if len(running) > SHOWN else ""
                of = "; ".join(running[:SHOWN])
                self.say(f"{span(self._tally.elapsed)}  no news for {span(silence)} of {of}{more}")

    def _tick(self) -> None:
        self._heard = time.monotonic()
        if not self._open or self._live is not None or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + PLAIN_EVERY
        self.say(self._line())
        running = [self._doing(item, progress) for item, progress in self._active()]
        if running:
            more = f"; {len(running) - SHOWN} more" if len(running) > SHOWN else ""
            self.say(f"      {'; '.join(running[:SHOWN])}{more}")
        if self._tally.recent:
            self.say(f"      last: {self._outcome(*self._tally.recent[-1])}")

    def _line(self) -> str:
        """Return the state of the study in one line."""
        tally = self._tally
        left = tally.left
        parts = (
            tally.counts(),
            tally.best(),
            "" if left is None or not tally.running else f"about {span(left)} left",
        )
        return f"{span(tally.elapsed)}  {'; '.join(part for part in parts if part)}"

    def _active(self) -> list[tuple[Item, Progress | None]]:
        """Return what workers are at, first those that have said so."""
        running = list(self._tally.running.values())
        return sorted(running, key=lambda pair: pair[1] is None)

    def _doing(self, item: Item, progress: Progress | None) -> str:
        what = item.text if progress is None else _stage(progress)
        worker = "" if progress is None else self._tally.worker(progress.place)
        place = f" on {worker}" if "/" in worker else ""
        return f"{what} of {self._tally.name(item.scenario)}{place}"

    def _outcome(self, trial: Trial, reached: Reached) -> str:
        """Return what a trial came to, in a line."""
        objective, metrics = self._tally.plan.study.objective, reached.metrics
        parts = [f"ACC {metrics.acc:.1%}", f"ASR {metrics.asr:.1%}"]
        if objective.value not in ("acc", "asr"):
            parts.append(f"{objective.value.upper()} {amount(objective, reached.value)}")
        where = self._tally.name(trial.scenario)
        return f"{trial.name} {', '.join(parts)} ({where}; {trial.setting.text})"

    def _render(self) -> Group:
        tally = self._tally
        total, left = tally.plan.most_trials, tally.left
        width = max(10, min(40, self._console.width - 40))
        head = Table.grid(padding=(0, 1))
        time_left = "" if left is None else f", about {span(left)} left"
        head.add_row(
            ProgressBar(total=total, completed=tally.decided_count, width=width),
            Text(f"{span(tally.elapsed)}{time_left}"),
        )
        scenarios = len(tally.plan.scenarios)
        victims = f"victims {scenarios - tally.victims_left}/{scenarios}"
        if tally.weak:
            victims += f" ({len(tally.weak)} weak)"
        given_up = f"; {len(tally.abandoned)} settings abandoned" if tally.abandoned else ""
        lines = [Text(f"{tally.counts()}; {victims}{given_up}")]
        if best := tally.best():
            lines.append(Text(best, style="bold"))
        return Group(head, *lines, self._workers(), self._recent())

    def _workers(self) -> Table:
        """Return a row for each item in work: worker, item, stage and epoch, what it is about."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        active = self._active()
        for item, progress in active[:ROWS]:
            place = "" if progress is None else self._tally.worker(progress.place)
            stage = "waits" if progress is None else _stage(progress)
            about = Text(self._tally.name(item.scenario))
            if item.text not in ("victim", "ascent"):  # what its name says already
                about.append(f"  {item.text}", style="dim")
            named = Text(item.name, style=self._style("cyan", item.name))
            table.add_row(Text(place, style="dim"), named, stage, about)
        if len(active) > ROWS:
            table.add_row("", Text(f"and {len(active) - ROWS} more", style="dim"), "", "")
        return table

    def _recent(self) -> Group:
        lines = []
        for trial, reached in self._tally.recent:
            style = self._style("green", trial.name)
            lines.append(Text(self._outcome(trial, reached), style=style))
        return Group(*lines)


def _stage(progress: Progress) -> str:
    name = STAGES.get(progress.stage, progress.stage)
    if progress.pause:
        return f"{name} by another study"
    return f"{name} {progress.epoch}/{progress.epochs}" if progress.epochs else name
