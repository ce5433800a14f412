"""What a person sees while a study runs: a live view, or plain lines where it is no terminal."""

import time
from collections import Counter
from collections.abc import Callable
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
from orchestrator.prunings import amount, sentence
from orchestrator.work import Finished, Item, Progress

PLAIN_EVERY = 10.0  # seconds between plain lines


class Tally:
    """Counts of a running study, from what its observer hears."""

    def __init__(self, plan: Plan, value_of: Callable[[Trial], float | None]) -> None:
        self.plan = plan
        self.statuses: Counter[Status] = Counter()
        self.running: dict[str, tuple[Item, Progress | None]] = {}
        self.best: tuple[float, Trial] | None = None
        self.victims_left = len(plan.scenarios)
        self._value_of = value_of
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}
        self._durations: dict[str, list[float]] = {
            kind: [] for kind in ("helper", "victim", "ascent", "trial")
        }

    def start(self, item: Item) -> None:
        self.running[item.name] = (item, None)
        self._begun[item.name] = time.monotonic()

    def end(self, name: str) -> None:
        self.running.pop(name, None)
        if name in self._begun:
            spent = time.monotonic() - self._begun.pop(name)
            self._durations[name.partition("-")[0]].append(spent)

    def decided(self, verdict: Verdict) -> None:
        self.statuses[verdict.status] += 1
        value = self._value_of(verdict.trial) if verdict.status is Status.DONE else None
        if value is not None and (self.best is None or self._better(value, self.best[0])):
            self.best = (value, verdict.trial)

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()

    @property
    def decided_count(self) -> int:
        return self.statuses.total()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds until the end, from what items of each kind took so far, once known."""
        trials = self._durations["trial"]
        if len(trials) < 3:
            return None
        ahead = {
            "victim": self.victims_left,
            "ascent": self.victims_left,
            "trial": len(self.plan.trials) - self.decided_count,
        }
        work = sum(
            count * sum(self._durations[kind]) / len(self._durations[kind])
            for kind, count in ahead.items()
            if self._durations[kind]
        )
        return work / max(1, len(self.running))

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
            objective = self.plan.study.objective
            shown = f"{objective.value.upper()} {amount(objective, value)}"
            parts.append(f"best {shown} ({trial.setting.text})")
        if self.left is not None:
            parts.append(f"about {span(self.left)} left")
        return "; ".join(parts)

    def doing(self) -> str:
        """Return what runs, in one line."""
        shown = (
            f"{item.text if progress is None else progress.stage} of "
            f"{self.plan.name_of(item.scenario)}"
            + (f" {progress.epoch}/{progress.epochs}" if progress is not None else "")
            for item, progress in list(self.running.values())[:4]
        )
        return "; ".join(shown)

    def _better(self, value: float, than: float) -> bool:
        objective: Objective = self.plan.study.objective
        return value > than if objective.maximise else value < than


class Screen:
    """The observer that keeps the terminal up to date."""

    def __init__(self, console: Console, tally: Tally) -> None:
        self._console = console
        self._tally = tally
        self._live: Live | None = None
        self._open = False
        self._next_line = 0.0

    def __enter__(self) -> Self:
        self._tally.begin()
        self._open = True
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
        self._tally.start(item)
        self._tick()

    def progressed(self, item: Item, progress: Progress) -> None:
        if item.name in self._tally.running:
            self._tally.running[item.name] = (item, progress)
        self._tick()

    def ended(self, item: Item, result: Finished) -> None:
        self._tally.end(item.name)
        if result.error:
            self.say(
                f"failed: {item.name} ({self._tally.plan.name_of(item.scenario)}): {result.reason}",
                "red",
            )
        self._tick()

    def victim(self, scenario: Scenario, finding: VictimFinding) -> None:
        self._tally.victims_left -= 1
        rule, reached = self._tally.plan.study.victim_rule, finding.evaluation.selection
        if not rule.admits(reached):
            name = self._tally.plan.name_of(scenario)
            reach = f"ACC {reached.acc:.1%}, ASR {reached.asr:.1%}"
            self.say(f"weak victim: {name}: {reach}", "yellow")

    def decided(self, verdict: Verdict) -> None:
        self._tally.running.pop(verdict.trial.name, None)  # stopped, if it still runs
        self._tally.decided(verdict)
        if self._open and verdict.pruning is not None:
            self.say(sentence(self._tally.plan, verdict.pruning), "magenta")
        self._tick()

    def _tick(self) -> None:
        if not self._open or self._live is not None or time.monotonic() < self._next_line:
            return
        self._next_line = time.monotonic() + PLAIN_EVERY
        self.say(f"{span(self._tally.elapsed)}  {self._tally.line()}")
        if self._tally.running:
            self.say(f"      {self._tally.doing()}")

    def _render(self) -> Group:
        tally = self._tally
        bar = ProgressBar(total=len(tally.plan.trials), completed=tally.decided_count, width=40)
        head = Table.grid(padding=(0, 2))
        head.add_row(bar, Text(span(tally.elapsed)), Text(tally.line()))
        running = Table.grid(padding=(0, 2))
        for item, progress in list(tally.running.values())[:16]:
            where = "starts"
            if progress is not None:
                where = f"{progress.stage} {progress.epoch}/{progress.epochs}"
            name = tally.plan.name_of(item.scenario)
            running.add_row(Text(item.name, style="cyan"), where, Text(name), Text(item.text))
        return Group(head, running)


DAY = 24 * 3600.0
LONG = 3 * DAY  # from there on nobody counts hours


def span(seconds: float) -> str:
    """Return a duration as people write it: 0:42, 3:05, 2:10:00, 5.2 days."""
    if seconds >= LONG:
        return f"{seconds / DAY:,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
