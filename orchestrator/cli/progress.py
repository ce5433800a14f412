"""The live view of a study."""

import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeAlias

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of
from orchestrator.plan.columns import count, span
from orchestrator.plan.cost_model import Workload, machine_of
from orchestrator.plan.jobs import Job, JobKind, JobResult, Progress, victim_job
from orchestrator.plan.labels import cell_text, setting_text, short_names
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict, amount, sentence
from orchestrator.scheduler.estimate import StageTiming
from orchestrator.scheduler.scheduler import point_of
from orchestrator.search.best import Choice, margin
from orchestrator.store.lookup import VictimResult
from orchestrator.terminal import PLAIN_EVERY
from ulrl.metrics import Metrics

Kind: TypeAlias = tuple[str, tuple[str, str]]  # a stage, and the network and dataset


class RemainingTime:
    """Time left: of each stage, what is left times the mean of what it took so far.

    Both are weighed by the jobs' loads, for each network and dataset apart. Trials that others
    made unnecessary (shared results, pruned settings) count as load that took no time, so
    sharing and pruning are expected to go on as they did.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._load, self._catalog = plan, Workload(plan), JobCatalog(plan)
        self._open: dict[str, float] = {}  # loads of what is to be done, by the job's name
        self._left: dict[Kind, float] = defaultdict(float)  # their sums
        self._took: dict[Kind, StageTiming] = defaultdict(StageTiming)
        self._running: dict[str, tuple[Kind, StageTiming]] = {}  # what is done of it
        self._since: dict[str, float] = {}  # when a worker last began or ended something
        self._counting = False
        self._known: set[int] = set()
        self._ascents: set[object] = set()
        self._trials: dict[tuple[str, str], StageTiming] = defaultdict(StageTiming)
        for job in self._catalog.helpers:
            self._add(job.name, job.scenario, self._load.helper(job).passes)
        for scenario in plan.scenarios:
            name = victim_job(scenario).name
            self._add(name, scenario, self._load.victim(scenario).passes)
        for trial in plan.trials:
            self._know(trial)

    def begin(self) -> None:
        """Count from now on: what was decided before was stored."""
        self._counting = True

    def heard(self, job: Job, place: str, now: float, done: int = 0, of: int = 0) -> None:
        """Take news of a running job."""
        if job.trials:
            self._know(job.trial)
        seconds = now - self._since.setdefault(place, now)
        if of:
            part = StageTiming(seconds=seconds, load=self._load.of(job).passes * done / of)
            self._running[job.name] = (_kind(job.name, job.scenario), part)

    def ended(self, job: Job, place: str, now: float, spent: float = 0.0) -> None:
        """Take the end of a job; `spent` seconds on its worker, if somebody counted."""
        self._running.pop(job.name, None)
        seconds = spent or now - self._since.get(place, now)
        self._since[place] = now
        if job.is_trial:  # its load comes with its verdict
            self._took[_kind(job.name, job.scenario)].add(seconds, 0.0)
            return
        self._took[_kind(job.name, job.scenario)].add(seconds, self._load.of(job).passes)
        self._remove(job.name, job.scenario)
        if job.kind is JobKind.VICTIM:
            self.victim(job.scenario)

    def victim(self, scenario: Scenario) -> None:
        """Take note that a victim is there."""
        self._remove(victim_job(scenario).name, scenario)
        for helper in self._catalog.helpers_of(scenario):
            self._remove(helper.name, helper.scenario)

    def decided(self, trial: Trial) -> None:
        """Take a verdict on a trial; it may come without the trial ever having run."""
        self._know(trial)
        self._running.pop(trial.name, None)
        group = self._catalog.group_of(trial)
        load = self._remove(trial.name, trial.scenario)
        self._remove(group.job.name, group.scenario)
        self._remove(victim_job(trial.scenario).name, trial.scenario)
        if self._counting:
            self._took[_kind(trial.name, trial.scenario)].add(0.0, load)

    def left(self, workers: int) -> float | None:
        """Return the seconds until the end, or None as long as nothing is known."""
        undrawn = self._plan.most_settings - len(self._plan.settings)
        if not self._open and not undrawn:
            return 0.0
        left = dict(self._left)
        for scenario in self._plan.scenarios:  # with settings that are not drawn yet
            of_each = self._trials[machine_of(scenario)].rate or 0.0
            kind = "trial", machine_of(scenario)
            left[kind] = left.get(kind, 0.0) + undrawn * of_each
        for kind, part in self._running.values():
            left[kind] -= part.load
        total = 0.0
        for kind, load in left.items():
            if load > 0:
                rate = self._rate(kind)
                if rate is None:
                    return None
                total += rate * load
        return total / max(1, min(workers, len(self._open)))

    def _know(self, trial: Trial) -> None:
        """Take in a trial, of the plan from the start or drawn since; once is enough."""
        if trial.number in self._known:
            return
        self._known.add(trial.number)
        group = self._catalog.known(trial) or self._catalog.add(trial)
        last = len(chain_of(trial)) - 1
        if last and group.shared not in self._ascents:
            self._ascents.add(group.shared)
            self._add(group.job.name, group.scenario, self._load.stage(trial, 0).passes)
        load = self._load.stage(trial, last).passes
        self._add(trial.name, trial.scenario, load)
        self._trials[machine_of(trial.scenario)].add(load, 1)

    def _add(self, name: str, scenario: Scenario, load: float) -> None:
        self._open[name] = load
        self._left[_kind(name, scenario)] += load

    def _remove(self, name: str, scenario: Scenario) -> float:
        load = self._open.pop(name, 0.0)
        self._left[_kind(name, scenario)] -= load
        return load

    def _rate(self, kind: Kind) -> float | None:
        """Return seconds per load of a stage: its own, or on other networks, or of any stage.

        As long as nothing has ended, what is done of the jobs that run has to serve.
        """
        stage = [timing for (name, _), timing in self._took.items() if name == kind[0]]
        running = [part for _, part in self._running.values()]
        for timings in ([self._took[kind]], stage, list(self._took.values()), running):
            if load := sum(timing.load for timing in timings):
                return sum(timing.seconds for timing in timings) / load
        return None


def _kind(name: str, scenario: Scenario) -> Kind:
    return name.partition("-")[0], machine_of(scenario)


RECENT = 3  # finished trials that a screen shows


@dataclass(frozen=True, kw_only=True)
class TrialValue:
    """What a trial reached on the selection half."""

    value: float  # of the objective
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class BestSoFar:
    """Which setting is best so far, by the rule of `orchestrator.search.best`.

    Attributes:
        text: The setting's values.
        value: Its mean of the objective.
        scenarios: Behind that mean.
        lead: On the next best, never below 0; None as long as no other setting has results
            in as many places.
    """

    text: str
    value: float
    scenarios: int
    lead: float | None


class ProgressState:
    """Counts of a running study, from what its observer hears."""

    def __init__(self, plan: Plan, reached: Callable[[Trial], TrialValue | None]) -> None:
        self.plan = plan
        self.statuses: Counter[Status] = Counter()
        self.running: dict[str, tuple[Job, Progress | None]] = {}
        self.recent: deque[tuple[Trial, TrialValue]] = deque(maxlen=RECENT)
        self.abandoned: set[int] = set()
        self.weak: set[int] = set()
        self.victims_left = len(plan.scenarios)
        self._reached = reached
        self._values: dict[int, float] = {}  # by the trial's number
        self._leader: tuple[int, BestSoFar | None] = (-1, None)
        self._axes: tuple[int, tuple[str, ...]] = (-1, ())
        self._outlook = RemainingTime(plan)
        self._started = time.monotonic()
        self._workers: dict[str, str] = {}
        self._names = short_names([scenario.columns for scenario in plan.scenarios])

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._outlook.begin()

    def start(self, job: Job) -> None:
        self.running[job.name] = (job, None)

    def progress(self, job: Job, progress: Progress) -> None:
        if job.name in self.running:
            self.running[job.name] = (job, progress)
        now = time.monotonic()
        self._outlook.heard(job, progress.place, now, progress.epoch, progress.epochs)
        self._seen(progress.place)

    def end(self, job: Job, result: JobResult) -> None:
        self.running.pop(job.name, None)
        self._outlook.ended(job, result.place, time.monotonic(), result.spent)

    def victim(self, scenario: Scenario, *, weak: bool) -> None:
        self.victims_left -= 1
        self._outlook.victim(scenario)
        if weak:
            self.weak.add(scenario.number)

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        self.running.pop(trial.name, None)  # stopped, if it still runs
        self.statuses[verdict.status] += 1
        self._outlook.decided(trial)
        if verdict.pruning is not None and verdict.pruning.level == "setting":
            self.abandoned.add(trial.setting.number)
        reached = self._reached(trial) if verdict.status is Status.DONE else None
        if reached is not None:
            self.recent.append((trial, reached))
            self._values[trial.number] = reached.value

    @property
    def decided_count(self) -> int:
        return self.statuses.total()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds until the end, once something is known."""
        return self._outlook.left(len(self._workers))

    def worker(self, place: str) -> str:
        """Return a short name of a worker: a number, with its machine where there are several."""
        return self._workers.get(place, "")

    def name(self, scenario: Scenario) -> str:
        """Return what tells a scenario from the others, in few words."""
        return self._names[scenario.number]

    @property
    def leader(self) -> BestSoFar | None:
        """Which setting is best so far; None without a result on a victim that took."""
        if self._leader[0] != self.decided_count:
            self._leader = (self.decided_count, self._lead())
        return self._leader[1]

    def _lead(self) -> BestSoFar | None:
        objective = self.plan.study.objective
        choice = Choice(
            point_of(
                trial,
                objective,
                self._values.get(trial.number),
                took=trial.scenario.number not in self.weak,
            )
            for trial in self.plan.rows
        )
        ranked = choice.overall()
        if not ranked:
            return None
        best = ranked[0]
        axes = [axis for axis in self._varied() if axis != "defence_seed" or not choice.crossed]
        trial = next(
            trial
            for trial, point in zip(self.plan.rows, choice.points, strict=True)
            if choice.name(point) == best.name
        )
        return BestSoFar(
            text=setting_text((axis, cell_text(self.plan.point(trial)[axis])) for axis in axes),
            value=abs(best.mean),
            scenarios=best.scenarios,
            lead=margin(ranked),
        )

    def _varied(self) -> tuple[str, ...]:
        """Return the axes that tell settings apart, asked again where settings were drawn."""
        if self._axes[0] != len(self.plan.trials):
            self._axes = (len(self.plan.trials), self.plan.varied())
        return self._axes[1]

    def _seen(self, place: str) -> None:
        if place not in self._workers:
            hosts = {known.partition(":")[0] for known in (*self._workers, place)}
            self._workers[place] = ""
            for number, known in enumerate(self._workers, start=1):
                host = f"{known.partition(':')[0]}/" if len(hosts) > 1 else ""
                self._workers[known] = f"{host}{number}"

    def counts(self) -> str:
        """Return how many trials are decided, and how."""
        counts = ", ".join(
            f"{self.statuses[status]} {status}" for status in Status if self.statuses[status]
        )
        text = f"{self.decided_count}/{self.plan.most_trials} trials"
        return f"{text} ({counts})" if counts else text

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
            f"best {objective.value.upper()} {amount(objective, leader.value)} in "
            f"{count(leader.scenarios, 'scenario')}{ahead}: {leader.text}"
        )


SILENCE = 30.0  # seconds without news, after which a line says so
LOOK = 1.0  # seconds between looks for that
ROWS = 16  # of running jobs on a screen
SHOWN = 4  # running jobs in a plain line
STAGES = {"train_victim": "train victim"}  # what a stage is called on a screen


class ProgressView(StudyCallback):
    """The observer that keeps the terminal up to date.

    Args:
        console: Where to write.
        tally: What to write.
        log_of: Where the log of a job lies, by its name.
    """

    def __init__(
        self, console: Console, tally: ProgressState, log_of: Callable[[str], Path] | None = None
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

    def say(self, text: str, style: str = "", job: str = "") -> None:
        """Print a line that stays; `job` is whose log it leads to."""
        self._console.print(Text(text, style=self._style(style, job)), soft_wrap=True)

    def started(self, job: Job) -> None:
        self._tally.start(job)
        self._tick()

    def progressed(self, job: Job, progress: Progress) -> None:
        self._tally.progress(job, progress)
        self._tick()

    def ended(self, job: Job, result: JobResult) -> None:
        self._tally.end(job, result)
        if result.error:
            text = f"failed: {job.name} ({self._tally.name(job.scenario)}): {result.reason}"
            self.say(text, "red", job.name)
        self._tick()

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
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

    def _style(self, style: str, job: str) -> Style:
        """Return a style that a terminal which can makes a link to a job's log."""
        link = self._log_of(job).as_uri() if job and self._log_of is not None else None
        return Style.parse(style) + Style(link=link)

    def _listen(self) -> None:
        """Say that nothing is heard, at ever longer intervals: of a node that is cut off, say."""
        heard, patience = self._heard, SILENCE
        while not self._left.wait(LOOK):
            if heard != self._heard:
                heard, patience = self._heard, SILENCE
            silence = time.monotonic() - heard
            running = [self._doing(job, progress) for job, progress in self._active()]
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
        running = [self._doing(job, progress) for job, progress in self._active()]
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

    def _active(self) -> list[tuple[Job, Progress | None]]:
        """Return what workers are at, first those that have said so."""
        running = list(self._tally.running.values())
        return sorted(running, key=lambda pair: pair[1] is None)

    def _doing(self, job: Job, progress: Progress | None) -> str:
        what = job.text if progress is None else _stage(progress)
        worker = "" if progress is None else self._tally.worker(progress.place)
        place = f" on {worker}" if "/" in worker else ""
        return f"{what} of {self._tally.name(job.scenario)}{place}"

    def _outcome(self, trial: Trial, reached: TrialValue) -> str:
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
        """Return a row for each job in work: worker, job, stage and epoch, what it is about."""
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        active = self._active()
        for job, progress in active[:ROWS]:
            place = "" if progress is None else self._tally.worker(progress.place)
            stage = "waits" if progress is None else _stage(progress)
            about = Text(self._tally.name(job.scenario))
            if job.text not in ("victim", "ascent"):  # what its name says already
                about.append(f"  {job.text}", style="dim")
            named = Text(job.name, style=self._style("cyan", job.name))
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
