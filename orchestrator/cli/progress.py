"""The live view of a study."""

import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
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
from orchestrator.plan.columns import count, span
from orchestrator.plan.cost_model import Workload, machine_of
from orchestrator.plan.jobs import Job, JobKind, JobResult, Progress, victim_job
from orchestrator.plan.labels import scenario_text
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict, amount, sentence
from orchestrator.scheduler.scheduler import point_of
from orchestrator.scheduler.timing import StageTiming
from orchestrator.search.best import Choice, margin
from orchestrator.store.lookup import VictimResult
from orchestrator.terminal import PLAIN_EVERY
from ulrl.metrics import Metrics

ENOUGH = 0.05  # share of an item that must be done before its pace says anything
Machine: TypeAlias = tuple[str, str]


@dataclass
class _RunningJob:
    item: Job
    since: float
    load: float
    share: float = 0.0  # of the item that is done

    def rate(self, now: float) -> float | None:
        """Return its own seconds per unit of load, once it is far enough."""
        return (now - self.since) / (self.load * self.share) if self.share >= ENOUGH else None


class RemainingTime:
    """Time left, by stage: seconds per unit of load, for each network and dataset apart.

    Trials that others made unnecessary (shared results, pruned settings) count as load that
    took no time, so sharing and pruning are expected to go on as they did.
    """

    def __init__(self, plan: Plan) -> None:
        self._load = Workload(plan)
        self._catalogue = JobCatalog(plan)
        self._paces: dict[tuple[str, Machine | None], StageTiming] = defaultdict(StageTiming)
        self._running: dict[str, _RunningJob] = {}
        self._places: dict[str, float] = {}  # when each was last heard of
        self._counting = False
        self._open: dict[str, float] = {}  # loads of what is to be done, by the item's name
        self._ahead: dict[tuple[str, Machine], float] = defaultdict(float)  # their sums
        for item in self._catalogue.helpers:
            self._add(item.name, item.scenario, self._load.helper(item).passes)
        for scenario in plan.scenarios:
            victim = victim_job(scenario)
            self._add(victim.name, scenario, self._load.victim(scenario).passes)
        self._plan = plan
        self._known: set[int] = set()
        self._ascents: set[object] = set()
        self._trials: dict[Machine, StageTiming] = defaultdict(
            StageTiming
        )  # their loads, and how many
        for trial in plan.trials:
            self._know(trial)

    def begin(self) -> None:
        """Count from now on: what was decided before was stored."""
        self._counting = True

    def heard(self, item: Job, place: str, now: float, done: int = 0, of: int = 0) -> None:
        """Take news of a running item."""
        if item.trials:
            self._know(item.trial)
        run = self._running.get(item.name)
        if run is None:
            since, load = self._places.get(place, now), self._load.of(item).passes
            run = self._running[item.name] = _RunningJob(item=item, since=since, load=load)
        if of:
            run.share = done / of
        self._places[place] = now

    def ended(self, item: Job, place: str, now: float, spent: float = 0.0) -> None:
        """Take the end of an item; `spent` seconds on its worker, if somebody counted."""
        run = self._running.pop(item.name, None)
        since = run.since if run is not None else self._places.get(place, now)
        self._places[place] = now
        load = 0.0 if item.is_trial else self._load.of(item).passes
        self._note(item.name, item.scenario, spent or now - since, load)
        if not item.is_trial:  # a trial's verdict follows
            self._remove(item.name, item.scenario)
        if item.kind is JobKind.VICTIM:
            self.victim(item.scenario)

    def victim(self, scenario: Scenario) -> None:
        """Take note that a victim is there."""
        self._remove(victim_job(scenario).name, scenario)
        for helper in self._catalogue.helpers_of(scenario):
            self._remove(helper.name, helper.scenario)

    def decided(self, trial: Trial) -> None:
        """Take a verdict on a trial; it may come without the trial ever having run."""
        self._know(trial)
        group = self._catalogue.group_of(trial)
        load = self._open.get(trial.name, 0.0)
        self._remove(trial.name, trial.scenario)
        self._remove(group.job.name, group.scenario)
        self._remove(victim_job(trial.scenario).name, trial.scenario)
        run = self._running.pop(trial.name, None)
        if self._counting:
            self._note(trial.name, trial.scenario, 0.0, load * (run.share if run else 1.0))

    def left(self, now: float, workers: int) -> float | None:
        """Return the seconds until the end, or None as long as nothing is known."""
        to_come = self._to_come()
        if not self._open and not to_come:
            return 0.0
        total = 0.0
        ahead = [*self._ahead.items(), *((("trial", m), load) for m, load in to_come.items())]
        for (kind, machine), load in ahead:
            rate = self._rate(kind, machine, now)
            if rate is None:
                return None
            total += rate * load
        for run in self._running.values():
            rate = self._rate(_kind(run.item.name), machine_of(run.item.scenario), now)
            total -= (rate or 0.0) * run.load * run.share
        return max(0.0, total) / max(1, min(workers, len(self._open)))

    def _know(self, trial: Trial) -> None:
        """Take in a trial, of the plan from the start or drawn since; once is enough."""
        if trial.number in self._known:
            return
        self._known.add(trial.number)
        group = self._catalogue.known(trial) or self._catalogue.add(trial)
        if group.shared not in self._ascents:
            self._ascents.add(group.shared)
            self._add(group.job.name, group.scenario, self._load.ascent(trial).passes)
        load = self._load.relearn(trial).passes
        self._add(trial.name, trial.scenario, load)
        self._trials[machine_of(trial.scenario)].add(load, 1)

    def _to_come(self) -> dict[Machine, float]:
        """Return the loads of trials whose settings are not drawn yet, as of those that are."""
        settings = self._plan.most_settings - len(self._plan.settings)
        found: dict[Machine, float] = defaultdict(float)
        if settings:
            for scenario in self._plan.scenarios:
                machine = machine_of(scenario)
                found[machine] += settings * (self._trials[machine].rate or 0.0)
        return found

    def _add(self, name: str, scenario: Scenario, load: float) -> None:
        self._open[name] = load
        self._ahead[_kind(name), machine_of(scenario)] += load

    def _remove(self, name: str, scenario: Scenario) -> None:
        load = self._open.pop(name, 0.0)
        self._ahead[_kind(name), machine_of(scenario)] -= load

    def _note(self, name: str, scenario: Scenario, seconds: float, load: float) -> None:
        for machine in (machine_of(scenario), None):
            self._paces[_kind(name), machine].add(seconds, load)

    def _rate(self, kind: str, machine: Machine, now: float) -> float | None:
        """Return seconds per unit of load: the nearest that is known.

        First the stage's own on this network and dataset, then elsewhere, then what runs of
        it now, then what any other stage took or takes.
        """
        own = [self._paces[kind, machine].rate, self._paces[kind, None].rate]
        running = [(run, run.rate(now)) for run in self._running.values()]
        own += [rate for run, rate in running if _kind(run.item.name) == kind]
        other = [self._paces[k, m].rate for k, m in list(self._paces) if m is None]
        known = [rate for rate in (*own, *other, *(r for _, r in running)) if rate is not None]
        return known[0] if known else None


def _kind(name: str) -> str:
    return name.partition("-")[0]


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
        self._outlook = RemainingTime(plan)
        self._started = time.monotonic()
        self._workers: dict[str, str] = {}
        self._names = _short_names(plan)

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._outlook.begin()

    def start(self, item: Job) -> None:
        self.running[item.name] = (item, None)

    def progress(self, item: Job, progress: Progress) -> None:
        if item.name in self.running:
            self.running[item.name] = (item, progress)
        now = time.monotonic()
        self._outlook.heard(item, progress.place, now, progress.epoch, progress.epochs)
        self._seen(progress.place)

    def end(self, item: Job, result: JobResult) -> None:
        self.running.pop(item.name, None)
        self._outlook.ended(item, result.place, time.monotonic(), result.spent)

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
        return self._outlook.left(time.monotonic(), len(self._workers))

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
        texts = (
            trial.setting.text
            for trial, point in zip(self.plan.rows, choice.points, strict=True)
            if choice.name(point) == best.name
        )
        return BestSoFar(
            text=next(texts),
            value=abs(best.mean),
            scenarios=best.scenarios,
            lead=margin(ranked),
        )

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


def _short_names(plan: Plan) -> list[str]:
    """Return each scenario's name; options of an attack only where it is there twice."""
    variants: dict[str, set[str]] = defaultdict(set)
    for scenario in plan.scenarios:
        variants[scenario.columns["attack"]].add(scenario.columns["attack_options"])
    columns = [scenario.columns for scenario in plan.scenarios]
    constant = frozenset(
        name for name in columns[0] if name != "attack" and len({c[name] for c in columns}) == 1
    )
    return [
        scenario_text(
            {**c, "attack_options": json.dumps(_telling(c, variants[c["attack"]]))}, constant
        )
        for c in columns
    ]


def _telling(columns: Mapping[str, object], variants: set[str]) -> dict[str, object]:
    """Return the options in which an attack's entries differ."""
    entries = [json.loads(text) for text in variants]
    own: dict[str, object] = json.loads(str(columns["attack_options"]))
    return {
        name: value
        for name, value in own.items()
        if any(entry.get(name) != value for entry in entries)
    }


SILENCE = 30.0  # seconds without news, after which a line says so
LOOK = 1.0  # seconds between looks for that
ROWS = 16  # of running items on a screen
SHOWN = 4  # running items in a plain line
STAGES = {"train_victim": "train victim"}  # what a stage is called on a screen


class ProgressView(StudyCallback):
    """The observer that keeps the terminal up to date.

    Args:
        console: Where to write.
        tally: What to write.
        log_of: Where the log of an item lies, by its name.
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

    def say(self, text: str, style: str = "", item: str = "") -> None:
        """Print a line that stays; `item` is whose log it leads to."""
        self._console.print(Text(text, style=self._style(style, item)), soft_wrap=True)

    def started(self, item: Job) -> None:
        self._tally.start(item)
        self._tick()

    def progressed(self, item: Job, progress: Progress) -> None:
        self._tally.progress(item, progress)
        self._tick()

    def ended(self, item: Job, result: JobResult) -> None:
        self._tally.end(item, result)
        if result.error:
            text = f"failed: {item.name} ({self._tally.name(item.scenario)}): {result.reason}"
            self.say(text, "red", item.name)
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

    def _active(self) -> list[tuple[Job, Progress | None]]:
        """Return what workers are at, first those that have said so."""
        running = list(self._tally.running.values())
        return sorted(running, key=lambda pair: pair[1] is None)

    def _doing(self, item: Job, progress: Progress | None) -> str:
        what = item.text if progress is None else _stage(progress)
        worker = "" if progress is None else self._tally.worker(progress.place)
        place = f" on {worker}" if "/" in worker else ""
        return f"{what} of {self._tally.name(item.scenario)}{place}"

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
