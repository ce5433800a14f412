"""The time left of a running study."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of
from orchestrator.plan.cost_model import Workload, kind_of, machine_of
from orchestrator.plan.jobs import Job, JobKind, victim_job
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.estimate import Kind, StageTiming, Timings, likely_relearning
from orchestrator.store.lookup import Findings

_Loads: TypeAlias = dict[Kind, float]


@dataclass(frozen=True, kw_only=True)
class _LastStage:
    """The last stage of a trial.

    Attributes:
        guess: A number that trials have in common which are likely to share the result.
        exact: Whether they are sure to, and no others do.
    """

    kind: Kind
    load: float
    guess: int
    exact: bool


class RemainingTime:
    """Time left: of each kind of stage, the load that is left times its seconds per load.

    Trials that share the result of their last stage count once. Which ones do is known when the
    stages before are done; until then it is guessed by `likely_relearning`, and corrected by how
    many results there were for each guess so far. What pruning spares is expected to go on as it
    did. Nothing is said as long as a kind of stage that is left has neither begun in this study
    nor was timed by an earlier one.

    Args:
        plan: Of the study.
        scores: What the stages before the last one found, by the trial's number; it grows.
        known: Timings of earlier studies.
    """

    def __init__(
        self,
        plan: Plan,
        scores: Mapping[int, Findings] | None = None,
        known: Timings | None = None,
    ) -> None:
        self._plan, self._load, self._catalog = plan, Workload(plan), JobCatalog(plan)
        self._scores: Mapping[int, Findings] = {} if scores is None else scores
        self._known = {} if known is None else known
        # Kind and load of jobs to be done but for last stages: a helper's or a victim's by its
        # name, a stage by the number of what its trials share, and by its position.
        self._open: dict[str | tuple[int, int], tuple[Kind, float]] = {}
        self._stages: set[tuple[int, int]] = set()  # all that there are, of the latter
        self._numbers: dict[Hashable, int] = {}  # hashed once a trial: it takes long
        self._groups: dict[int, int] = {}  # number of what is shared, by the trial's
        self._trials: dict[int, _LastStage] = {}  # of all trials, by number
        self._undecided: dict[int, Trial] = {}
        # Undecided trials of a scenario, and of what is shared.
        self._in_scenario: Counter[int] = Counter()
        self._in_group: Counter[int] = Counter()
        self._took: dict[Kind, StageTiming] = defaultdict(StageTiming)
        self._running: dict[str, tuple[Job, StageTiming]] = {}  # the part that is done
        self._since: dict[str, float] = {}  # when a worker last began or ended something
        self._counting = False
        self._made: set[str | int] = set()  # results of last stages that are there
        self._judged: set[str | int] = set()  # results of which a trial is done or pruned
        self._judged_load = self._last_load = 0.0  # of them, and of last stages that ran
        self._later: dict[int, _Loads] = {}  # new stages of a drawn setting, by its number
        for job in (*self._catalog.helpers, *map(victim_job, plan.scenarios)):
            self._open[job.name] = _kind(job), self._load.of(job).passes
        for trial in plan.trials:
            self._add(trial)

    def begin(self) -> None:
        """Count from now on: what was decided before was stored."""
        self._counting = True

    def heard(self, job: Job, place: str, now: float, done: int = 0, of: int = 0) -> None:
        """Take news of a running job; audits, after all trials, have no part in the time left."""
        if job.kind is JobKind.AUDIT:
            return
        if job.trials:
            self._add(job.trial)
        seconds = now - self._since.setdefault(place, now)
        if of:
            load = self._load.of(job).passes * done / of
            self._running[job.name] = job, StageTiming(seconds=seconds, load=load)

    def ended(
        self, job: Job, place: str, now: float, spent: float = 0.0, *, failed: bool = False
    ) -> None:
        """Take the end of a job; `spent` seconds on its worker, if it was not stopped."""
        if job.kind is JobKind.AUDIT:
            return
        if job.trials:  # of a setting that was drawn, perhaps, and never heard of
            self._add(job.trial)
        _, part = self._running.pop(job.name, (job, StageTiming()))
        seconds = spent or now - self._since.get(place, now)
        self._since[place] = now
        load = self._load.of(job).passes if spent else part.load
        if load and not failed:
            self._took[_kind(job)].add(seconds, load)
        if job.is_trial:
            self._last_load += load
            if spent and not failed:
                self._made.add(self._result(job.trial))
        elif job.trials:
            self._open.pop((self._groups[job.trial.number], job.position), None)
        else:
            self._open.pop(job.name, None)
        if job.kind is JobKind.VICTIM:
            self.victim(job.scenario)

    def victim(self, scenario: Scenario) -> None:
        """Take note that a victim is there, or that none is needed."""
        for job in (victim_job(scenario), *self._catalog.helpers_of(scenario)):
            self._open.pop(job.name, None)

    def decided(self, trial: Trial, *, failed: bool = False) -> None:
        """Take a verdict on a trial; it may come without the trial ever having run."""
        self._add(trial)
        self._running.pop(trial.name, None)
        if self._undecided.pop(trial.number, None) is None:
            return
        result, last = self._result(trial), self._trials[trial.number]
        if not failed and result not in self._judged:
            self._judged.add(result)
            self._judged_load += last.load if self._counting else 0.0
        scenario, group = trial.scenario.number, self._groups[trial.number]
        self._in_scenario[scenario] -= 1
        self._in_group[group] -= 1
        reached = trial.number in self._scores
        if reached or not self._in_scenario[scenario]:
            self.victim(trial.scenario)
        if reached or not self._in_group[group]:
            for position in range(len(chain_of(trial)) - 1):
                self._open.pop((group, position), None)

    def left(self, workers: int) -> float | None:
        """Return the seconds until the end, or None as long as they cannot be told.

        The thread of the screen asks, so dictionaries are copied before they are looked through.
        """
        undrawn = self._plan.most_settings - len(self._plan.settings)
        undecided, loads = list(self._undecided), list(self._open.values())
        if not (undecided or undrawn) and (self._plan.trials or not loads):
            return 0.0
        left: _Loads = defaultdict(float)
        for kind, load in loads:
            left[kind] += load
        jobs = len(loads)
        spared = self._last_load / self._judged_load if self._judged_load else 1.0
        certain, guessed = self._last_stages(undecided)
        per_guess = self._results_per_guess()
        for stages, factor in ((certain, 1.0), (guessed, per_guess)):
            for last in stages:
                left[last.kind] += last.load * factor * min(1.0, spared)
            jobs += round(len(stages) * factor)
        for kind, load in self._to_be_drawn(undrawn).items():
            left[kind] += load
        for job, part in list(self._running.values()):
            left[_kind(job)] -= part.load
        rates = {kind: self._rate(kind) for kind, load in left.items() if load > 0}
        if None in rates.values():
            return None
        total = sum((rate or 0.0) * left[kind] for kind, rate in rates.items())
        return total / max(1, min(workers, jobs))

    def _add(self, trial: Trial) -> None:
        """Take in a trial, of the plan from the start or drawn since; once is enough."""
        if trial.number in self._trials:
            return
        shared = (self._catalog.known(trial) or self._catalog.add(trial)).shared
        group = self._groups[trial.number] = self._number(shared)
        end = len(chain_of(trial)) - 1
        new: _Loads = defaultdict(float)
        for position in range(end):
            if (group, position) not in self._stages:
                self._stages.add((group, position))
                job = self._catalog.job(trial, position)
                kind, load = _kind(job), self._load.of(job).passes
                self._open[group, position] = kind, load
                new[kind] += load
        job = self._catalog.job(trial, end)
        exact = trial.method is not None
        guess: Hashable = (group, trial.method) if exact else likely_relearning(trial)
        last = self._trials[trial.number] = _LastStage(
            kind=_kind(job),
            load=self._load.of(job).passes,
            guess=self._number(guess),
            exact=exact,
        )
        new[last.kind] += last.load
        later = self._later.setdefault(trial.setting.number, defaultdict(float))
        for kind, load in new.items():
            later[kind] += load
        self._undecided[trial.number] = trial
        self._in_scenario[trial.scenario.number] += 1
        self._in_group[group] += 1

    def _number(self, thing: Hashable) -> int:
        return self._numbers.setdefault(thing, len(self._numbers))

    def _result(self, trial: Trial) -> str | int:
        """Return what names the result of a trial's last stage, as far as that is known."""
        found = self._scores.get(trial.number)
        return self._trials[trial.number].guess if found is None else found.relearn_key

    def _last_stages(self, trials: list[int]) -> tuple[list[_LastStage], list[_LastStage]]:
        """Return last stages that are to be done, each once: those that are known, and guesses."""
        certain: dict[str | int, _LastStage] = {}
        guessed: dict[int, _LastStage] = {}
        for number in trials:
            last, found = self._trials[number], self._scores.get(number)
            if found is not None:
                if found.relearn_key not in self._made:
                    certain[found.relearn_key] = last
            elif last.exact:
                certain[last.guess] = last
            else:
                guessed[last.guess] = last
        return list(certain.values()), list(guessed.values())

    def _results_per_guess(self) -> float:
        """Return how many results there are for one that was guessed, where both are known."""
        guesses, results = set[int](), set[str]()
        for number, found in list(self._scores.items()):
            last = self._trials.get(number)
            if last is not None and not last.exact:
                guesses.add(last.guess)
                results.add(found.relearn_key)
        return len(results) / len(guesses) if guesses else 1.0

    def _to_be_drawn(self, settings: int) -> _Loads:
        """Return the loads of settings to be drawn: as what was new in those after the first."""
        loads: _Loads = defaultdict(float)
        known = list(self._later.values())
        known = known[1:] or known
        for later in known if settings else ():
            for kind, load in later.items():
                loads[kind] += load * settings / len(known)
        return loads

    def _rate(self, kind: Kind) -> float | None:
        """Return seconds per load of a kind of stage.

        Of those that ended in this study; else of what is done of those that run; else of earlier
        studies; else of such stages on other networks and datasets in this study.
        """
        took, running = dict(self._took), list(self._running.values())
        for timings in (
            [took[kind]] if kind in took else [],
            [part for job, part in running if _kind(job) == kind],
            [self._known[kind]] if kind in self._known else [],
            [timing for (name, _), timing in took.items() if name == kind[0]],
        ):
            if load := sum(timing.load for timing in timings):
                return sum(timing.seconds for timing in timings) / load
        return None


def _kind(job: Job) -> Kind:
    name = kind_of(job.trial, job.position) if job.trials else job.kind.value
    return name, machine_of(job.scenario)
