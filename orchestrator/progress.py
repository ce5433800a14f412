"""What a person sees while a study runs: a live view, or plain lines where it is no terminal."""

import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.decisions import Status, Verdict
from orchestrator.definition import Objective
from orchestrator.findings import VictimFinding
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import Finished, Item, Progress

PLAIN_EVERY = 10.0  # seconds between plain lines


class Tally:
    """Counts of a running study, from what its observer hears."""

    def __init__(self, plan: Plan, value_of: Callable[[Trial], float | None]) -> None:
        self.plan = plan
        self.statuses: Counter[Status] = Counter()
        self.running: dict[str, tuple[Item, Progress | None]] = {}
        self.best: tuple[float, Trial] | None = None
        self._value_of = value_of
        self._started = time.monotonic()
        self._before = 0  # trials that were decided when the study started

    def decided(self, verdict: Verdict) -> None:
        self.statuses[verdict.status] += 1
        value = self._value_of(verdict.trial) if verdict.status is Status.DONE else None
        if value is not None and (self.best is None or self._better(value, self.best[0])):
            self.best = (value, verdict.trial)

    def begin(self) -> None:
        """Start the clock: what is decided by now was stored."""
        self._started = time.monotonic()
        self._before = self.decided_count

    @property
    def decided_count(self) -> int:
        return self.statuses.total()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds until the end if it goes on as so far, once there is a basis."""
        made = self.decided_count - self._before
        if made < 5:
            return None
        return self.elapsed / made * (len(self.plan.trials) - self.decided_count)

    def line(self) -> str:
        """Return the state of the study in one line."""
        counts = ", ".join(
            f"{self.statuses[status]} {status}" for status in Status if self.statuses[status]
        )
        parts = [f"{self.decided_count}/{len(self.plan.trials)} trials"]
        if counts:
            parts[0] += f" ({counts})"
        if self.best is not None:
            value, trial = self.best
            name = self.plan.study.objective.value.upper()
            shown = f"{value:.3f}" if name == "DER" else f"{value:.1%}"
            parts.append(f"best {name} {shown} ({trial.setting.text})")
        if self.left is not None:
            parts.append(f"about {span(self.left)} left")
        return "; ".join(parts)

    def _better(self, value: float, than: float) -> bool:
        objective: Objective = self.plan.study.objective
        return value > than if objective.maximise else value < than


class Screen:
    """The observer that keeps the terminal up to date."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally
        self._live: Live | None = None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._tally.begin()
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render, console=self._console, refresh_per_second=4
            )
            self._live.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        if self._live is not None:
            self._live.update(Text(""), refresh=True)
            self._live.__exit__(None, None, None)
            self._live = None

    def say(self, text: str, style: str = "") -> None:
        """Print a line that stays."""
        self._console.print(Text(text, style=style), soft_wrap=True)

    def started(self, item: Item) -> None:
        self._tally.running[item.name] = (item, None)

    def progressed(self, item: Item, progress: Progress) -> None:
        if item.name in self._tally.running:
            self._tally.running[item.name] = (item, progress)
        self._tick()

    def ended(self, item: Item, result: Finished) -> None:
        self._tally.running.pop(item.name, None)
        if result.error:
            self.say(f"failed: {item.name} ({item.scenario.text}): {result.error}", "red")
        self._tick()

    def victim(self, scenario: Scenario, finding: VictimFinding) -> None:
        rule, reached = self._tally.plan.study.victim_rule, finding.evaluation.selection
        if reached.acc < rule.min_acc or reached.asr < rule.min_asr:
            self.say(
                f"weak victim: {scenario.text}: ACC {reached.acc:.1%}, ASR {reached.asr:.1%}",
                "yellow",
            )

    def decided(self, verdict: Verdict) -> None:
        self._tally.running.pop(verdict.trial.name, None)
        self._tally.decided(verdict)
        self._tick()

    def _tick(self) -> None:
        if self._live is not None or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + PLAIN_EVERY
        self.say(f"{span(self._tally.elapsed)}  {self._tally.line()}")

    def _render(self) -> Group:
        tally = self._tally
        bar = ProgressBar(total=len(tally.plan.trials), completed=tally.decided_count, width=40)
        head = Table.grid(padding=(0, 2))
        head.add_row(bar, Text(span(tally.elapsed)), Text(tally.line()))
        running = Table.grid(padding=(0, 2))
        for item, progress in list(tally.running.values())[:16]:
            where = f"{progress.stage} {progress.epoch}/{progress.epochs}" if progress else "starts"
            running.add_row(Text(item.name, style="cyan"), where, item.scenario.text, item.text)
        return Group(head, running)


def span(seconds: float) -> str:
    """Return a duration as people write it: 0:42, 3:05, 2:10:00."""
    text = str(timedelta(seconds=round(seconds)))
    return (
        text.removeprefix("0:").removeprefix("0")
        if text.startswith("0:0")
        else (text.removeprefix("0:"))
    )
