"""The live view of a study."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from orchestrator.cli.remaining_time import RemainingTime
from orchestrator.plan.columns import DRAW, STOPPED, count, span, spoken
from orchestrator.plan.jobs import Job, JobResult, Progress
from orchestrator.plan.labels import DAGGER, DAGGER_NOTE, cell_text, setting_text, with_defaults
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.auditing import StudyAudits
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict, amount, sentence
from orchestrator.scheduler.scheduler import point_of
from orchestrator.search.best import Choice, margin
from orchestrator.store.lookup import VictimResult
from orchestrator.terminal import PLAIN_EVERY
from ulrl.metrics import Metrics


class BestSoFar(NamedTuple):
    """The best setting so far, by `orchestrator.search.best`: its values, mean and scenarios.

    The lead on the next best is None as long as no other setting has as many results.
    """

    text: str
    value: float
    scenarios: int
    lead: float | None


class ProgressState:
    """Counts of a running study, from what its callback receives.

    Args:
        plan: Of the study.
        value_of: The objective of a done trial on the selection half; None if it does not count.
        remaining: The time left; by default as far as it can be told from the plan alone.
    """

    def __init__(
        self,
        plan: Plan,
        value_of: Callable[[Trial], float | None],
        remaining: RemainingTime | None = None,
    ) -> None:
        self.plan = plan
        self.statuses: Counter[Status] = Counter()
        self.running: dict[str, tuple[Job, Progress | None]] = {}
        self.stopped = 0  # of the failed trials, those that the user stopped
        self.abandoned: set[int] = set()
        self.weak: set[int] = set()
        self.victims_left = len(plan.scenarios)
        self._value_of = value_of
        self._values: dict[int, float] = {}  # by the trial's number
        self._leader: tuple[int, BestSoFar | None] = (-1, None)
        self._remaining = RemainingTime(plan) if remaining is None else remaining
        self._started = time.monotonic()
        self._places: dict[str, int] = {}  # workers, numbered as they report
        self.audits: StudyAudits | None = None

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._remaining.begin()

    def start(self, job: Job) -> None:
        self.running[job.name] = (job, None)

    def progress(self, job: Job, progress: Progress) -> None:
        if job.name in self.running:
            self.running[job.name] = (job, progress)
        now = time.monotonic()
        self._remaining.heard(job, progress.place, now, progress.epoch, progress.epochs)
        self._places.setdefault(progress.place, len(self._places) + 1)

    def end(self, job: Job, result: JobResult) -> None:
        self.running.pop(job.name, None)
        failed = bool(result.error)
        self._remaining.ended(job, result.place, time.monotonic(), result.spent, failed=failed)

    def victim(self, scenario: Scenario, *, weak: bool) -> None:
        self.victims_left -= 1
        self._remaining.victim(scenario)
        if weak:
            self.weak.add(scenario.number)

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        self.running.pop(trial.name, None)  # stopped, if it still runs
        self.statuses[verdict.status] += 1
        self.stopped += verdict.error == STOPPED
        unmade = verdict.status in (Status.FAILED, Status.SKIPPED)
        self._remaining.decided(trial, failed=unmade)
        if verdict.pruning is not None and verdict.pruning.level == "setting":
            self.abandoned.add(trial.setting.number)
        value = self._value_of(trial) if verdict.status is Status.DONE else None
        if value is not None:
            self._values[trial.number] = value

    @property
    def decided_count(self) -> int:
        return self.statuses.total()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        return self._remaining.left(len(self._places))

    def worker(self, place: str) -> str:
        """Return a short name of a worker: a number, with its machine where there are several."""
        host = place.partition(":")[0]
        several = any(known.partition(":")[0] != host for known in list(self._places))
        return f"{host}/{self._places[place]}" if several else str(self._places[place])

    @property
    def leader(self) -> BestSoFar | None:
        """Which setting is best so far; None without a result on a victim that took."""
        if self._leader[0] != self.decided_count:
            self._leader = (self.decided_count, self._lead())
        return self._leader[1]

    def _lead(self) -> BestSoFar | None:
        rows, objective, values = self.plan.rows, self.plan.study.objective, self._values
        weak = self.weak
        choice = Choice(
            point_of(t, objective, values.get(t.number), took=t.scenario.number not in weak)
            for t in rows
        )
        ranked = choice.overall()
        if not ranked:
            return None
        best = ranked[0]
        axes = self.plan.varied() if self.plan.study.search else self._axes
        trial = next(
            trial
            for trial, point in zip(rows, choice.points, strict=True)
            if choice.name(point) == best.name
        )
        point = self.plan.point(trial)
        if "repair_options" in point:
            defaults = self.plan.defaults(trial.setting)
            point["repair_options"] = with_defaults(point["repair_options"], defaults)
        shown = [axis for axis in axes if axis != DRAW or not choice.crossed]
        return BestSoFar(
            text=setting_text((axis, cell_text(point[axis])) for axis in shown),
            value=abs(best.mean),
            scenarios=best.scenarios,
            lead=margin(ranked),
        )

    @cached_property
    def _axes(self) -> tuple[str, ...]:
        """The axes that tell the settings of a grid apart."""
        return self.plan.varied()

    def counts(self) -> str:
        """Return how many trials are decided, and how."""
        found = {str(s): self.statuses[s] for s in Status} | {"stopped": self.stopped}
        found[Status.FAILED] -= self.stopped
        counts = ", ".join(f"{number} {word}" for word, number in found.items() if number)
        text = f"{self.decided_count}/{self.plan.most_trials} trials"
        text = f"{text} ({counts})" if counts else text
        if self.audits is None or not self.audits.begun:
            return text
        return f"{text}, {self.audits.over}/{len(self.audits.targets)} audits"

    def best(self) -> str:
        """Return the best setting so far, or nothing."""
        leader, objective = self.leader, self.plan.study.objective
        if leader is None:
            return ""
        ahead = ""
        if leader.lead is not None:
            lead = amount(objective, leader.lead)
            level = lead == amount(objective, 0.0)
            ahead = ", level with the next" if level else f", {lead} ahead"
        return (
            f"best {spoken(objective.value)} {amount(objective, leader.value)} in "
            f"{count(leader.scenarios, 'scenario')}{ahead}: {leader.text}"
        )


SILENCE = 30.0  # seconds without news, after which a line says so
LOOK = 1.0  # seconds between looks for that
ROWS = 16  # of running jobs on a screen
SHOWN = 4  # running jobs in a plain line


class ProgressView(StudyCallback):
    """The callback that keeps the terminal up to date.

    Args:
        console: Where to write.
        state: What to write.
        log_of: Where the log of a job lies, by its name.
    """

    def __init__(
        self, console: Console, state: ProgressState, log_of: Callable[[str], Path] | None = None
    ) -> None:
        self._console, self._state, self._log_of = console, state, log_of
        self._live: Live | None = None
        self._open = False
        self._next_line = 0.0
        self._heard = 0.0
        self._left = threading.Event()

    def __enter__(self) -> Self:
        self._state.begin()
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
            self._say(self._line())
        self._open = False

    def started(self, job: Job) -> None:
        self._state.start(job)
        self._tick()

    def progressed(self, job: Job, progress: Progress) -> None:
        self._state.progress(job, progress)
        self._tick()

    def ended(self, job: Job, result: JobResult) -> None:
        self._state.end(job, result)
        if result.error:
            name = self._name(job.scenario)
            word, style = ("skipped", "yellow") if result.skipped else ("failed", "red")
            self._say(f"{word}: {job.name} ({name}): {result.reason}", style, job.name)
        self._tick()

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        rule, reached = self._state.plan.study.victim_rule, finding.evaluation.selection
        weak = not rule.admits(reached)
        self._state.victim(scenario, weak=weak)
        if weak:
            found, wanted = f"ACC {reached.acc:.1%}", f"{rule.min_acc:.1%}"
            if isinstance(reached, Metrics):
                found += f", ASR {reached.asr:.1%}"
                wanted += f" and {rule.min_asr:.1%}"
            text = f"weak victim: {self._name(scenario)}: {found}; wanted {wanted}"
            self._say(text, "yellow")

    def decided(self, verdict: Verdict) -> None:
        self._state.decided(verdict)
        if self._open and verdict.pruning is not None:
            text = sentence(self._state.plan, verdict.pruning)
            self._say(text, "magenta", verdict.trial.name)
        self._tick()

    def _say(self, text: str, style: str = "", job: str = "") -> None:
        """Print a line that stays; `job` is whose log it leads to."""
        self._console.print(Text(text, style=self._style(style, job)), soft_wrap=True)

    def _style(self, style: str, job: str) -> Style:
        """Return a style that a terminal which can makes a link to a job's log."""
        link = self._log_of(job).as_uri() if job and self._log_of is not None else None
        return Style.parse(style) + Style(link=link)

    def _name(self, scenario: Scenario) -> str:
        return self._state.plan.name_of(scenario)

    def _listen(self) -> None:
        """Say that nothing is heard, at ever longer intervals: of a node that is cut off, say."""
        heard, patience = self._heard, SILENCE
        while not self._left.wait(LOOK):
            if heard != self._heard:
                heard, patience = self._heard, SILENCE
            silence = time.monotonic() - heard
            if silence >= patience and (running := self._running()):
                patience *= 2
                self._say(f"{span(self._state.elapsed)}  no news for {span(silence)} of {running}")

    def _tick(self) -> None:
        self._heard = time.monotonic()
        if not self._open or self._live is not None or self._heard < self._next_line:
            return
        self._next_line = self._heard + PLAIN_EVERY
        self._say(self._line())
        if running := self._running():
            self._say(f"      {running}")

    def _line(self) -> str:
        """Return the state of the study in one line."""
        state, left = self._state, self._state.left
        time_left = _left(left) if state.running else ""
        parts = filter(None, (state.counts(), state.best(), time_left))
        return f"{span(state.elapsed)}  {'; '.join(parts)}"

    def _active(self) -> list[tuple[Job, Progress | None]]:
        """Return what workers are at, first those that have said so."""
        return sorted(self._state.running.values(), key=lambda pair: pair[1] is None)

    def _running(self) -> str:
        """Return what workers are at, in a line."""
        active = self._active()
        more = f"; {len(active) - SHOWN} more" if len(active) > SHOWN else ""
        return "; ".join(self._doing(*pair) for pair in active[:SHOWN]) + more

    def _doing(self, job: Job, progress: Progress | None) -> str:
        what = job.text if progress is None else _stage(progress)
        worker = "" if progress is None else self._state.worker(progress.place)
        return f"{what} of {self._name(job.scenario)}{f' on {worker}' if '/' in worker else ''}"

    def _render(self) -> Group:
        state, left = self._state, self._state.left
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(
                total=state.plan.most_trials,
                completed=state.decided_count,
                width=max(10, min(40, self._console.width - 40)),
            ),
            Text(", ".join(filter(None, (span(state.elapsed), _left(left))))),
        )
        scenarios = len(state.plan.scenarios)
        text = f"{state.counts()}; victims {scenarios - state.victims_left}/{scenarios}"
        text += f" ({len(state.weak)} weak)" if state.weak else ""
        text += f"; {count(len(state.abandoned), 'setting')} abandoned" if state.abandoned else ""
        best = state.best()
        lines = [Text(text), *([Text(best, style="bold")] if best else [])]
        if any(method.endswith(DAGGER) for method in state.plan.methods):
            lines.append(Text(DAGGER_NOTE, style="dim"))
        return Group(head, *lines, self._workers())

    def _workers(self) -> Table:
        """Return a row for each running job: worker, job, stage and epoch, what it is about."""
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        active = self._active()
        for job, progress in active[:ROWS]:
            place = "" if progress is None else self._state.worker(progress.place)
            stage = "waits" if progress is None else _stage(progress)
            about = Text(self._name(job.scenario))
            if job.text not in ("victim", "ascent"):  # what its name says already
                about.append(f"  {job.text}", style="dim")
            named = Text(job.name, style=self._style("cyan", job.name))
            table.add_row(Text(place, style="dim"), named, stage, about)
        if len(active) > ROWS:
            table.add_row("", Text(f"and {len(active) - ROWS} more", style="dim"), "", "")
        return table


def _left(seconds: float | None) -> str:
    """Return the time left; nothing as long as it is unknown, or less than a second."""
    return f"about {span(seconds)} left" if seconds is not None and seconds >= 1 else ""


def _stage(progress: Progress) -> str:
    name = progress.stage.replace("train_victim", "train victim").removeprefix("repair.")
    if progress.pause:
        return f"{name} by another study"
    return f"{name} {progress.epoch}/{progress.epochs}" if progress.epochs else name
