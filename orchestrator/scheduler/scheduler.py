"""The scheduler of a study: dependencies, results, decisions.

It knows nothing of Ray, and of a repair method only that it is a chain of stages. An executor
asks `next_job` or `next_batch`, reports `progress`, and ends each job with `finished`,
`stopped`, `lost` or `returned`; everything it reports twice is harmless. It calls `heed` often.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

from orchestrator.errors import FileChangedError, ResourceError, StoreError
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.chain import chain_of
from orchestrator.plan.columns import STOPPED
from orchestrator.plan.jobs import Drawn, Job, JobKind, JobResult, Progress, StageRun, victim_job
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.auditing import StudyAudits
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.scheduler.queue import JobQueue, Priority, priority
from orchestrator.scheduler.sampling import SettingSampling
from orchestrator.search.best import Point
from orchestrator.spec.model import Objective, OwnObjective
from orchestrator.store.lookup import Findings, RepairResult, StageResults, objective_value, reached
from orchestrator.store.study_folder import StudyFolder
from ulrl.metrics import Metrics

HEED_EVERY = 1.0  # seconds between looks for trials to stop


class TrialOutcomes:
    """Reads what trials and their curves reached."""

    def __init__(self, plan: Plan, findings: StageResults) -> None:
        self._study = plan.study
        self._findings = findings

    def of_repair(self, trial: Trial, repaired: RepairResult) -> TrialOutcome | None:
        """Return what a repaired model is worth; None if its victim is not there."""
        victim = self._findings.victim(trial.scenario)
        if victim is None:
            return None
        return TrialOutcome(
            value=reached(self._study.objective, victim, repaired),
            curve=self.of_curve(trial, repaired.curve),
            sound=self._study.victim_rule.admits(victim.evaluation.selection),
            measured=True,
        )

    def of_curve(self, trial: Trial, curve: Iterable[tuple[Any, ...]]) -> tuple[float, ...]:
        """Return a monitor curve as the objective's values, where it is of ACC, ASR and RA."""
        victim, objective = self._findings.victim(trial.scenario), self._study.objective
        before = None if victim is None else victim.evaluation.selection
        if not isinstance(before, Metrics) or isinstance(objective, OwnObjective):
            return ()
        points = (Metrics(acc=acc, asr=asr, ra=ra) for acc, asr, ra in curve)
        return tuple(objective_value(objective, before, point) for point in points)


def point_of(
    trial: Trial, objective: Objective | OwnObjective, value: float | None, *, took: bool | None
) -> Point:
    """Return a planned trial as the choice of the best setting sees it.

    Args:
        trial: The trial.
        objective: What the study seeks.
        value: Its value on the selection half; None where the trial has none that may compete.
            That of an oracle never does, nor one without an attack.
        took: Whether its victim is one; None where there is none.
    """
    if trial.is_oracle:
        value = None
    if trial.scenario.benign:
        value = took = None
    setting = tuple(
        (name, axis) for name, axis in trial.setting.values.items() if name != "defence_seed"
    )
    return Point(
        scenario=trial.scenario.number,
        attack=trial.scenario.choice.attack.name,
        setting=setting,
        defence_seed=trial.defence_seed,
        value=value if value is None or objective.maximise else -value,
        took=took,
    )


class Prerequisites:
    """Which scenarios are on their way to a victim, and which will have none.

    Attributes:
        broken: Scenarios without a victim by their number, and why.
    """

    def __init__(
        self,
        catalog: JobCatalog,
        findings: StageResults,
        push: Callable[[Priority, Job], None],
        account: Callable[[Iterable[StageRun]], None],
    ) -> None:
        self._catalog, self._findings = catalog, findings
        self._push, self._account = push, account
        self._ranks: dict[int, int] = {}
        self._places: dict[int, int] = {}  # among victims to make, by the scenario's number
        self._waiting: dict[str, list[Scenario]] = defaultdict(list)  # for helpers, by job
        self.broken: dict[int, str] = {}

    def ordered(
        self, scenarios: Sequence[Scenario], length: Callable[[Scenario], float] | None
    ) -> list[Scenario]:
        """Return scenarios as they should begin: of what is to be made, the longest first."""
        if length is None:
            return list(scenarios)
        missing = [s for s in scenarios if self._findings.victim(s) is None]
        if len(missing) > 1:
            missing.sort(key=length, reverse=True)
        self._places = {scenario.number: place for place, scenario in enumerate(missing)}
        return [*(s for s in scenarios if s.number not in self._places), *missing]

    def rank(self, scenario: Scenario, first: int) -> int:
        """Return how soon to do what comes before a trial of rank `first`.

        A scenario whose victim was made early goes on early, as far as its first setting.
        """
        early = first < len(self._ranks)
        return min(first, self._places.get(scenario.number, first)) if early else first

    def has_begun(self, scenario: Scenario) -> bool:
        """Whether a scenario's victim is there, on its way, or has failed."""
        return scenario.number in self._ranks

    def begin(self, scenario: Scenario, first: int) -> bool:
        """Have a victim made that a trial of rank `first` needs; return whether it is there."""
        self._ranks[scenario.number] = self._places.get(scenario.number, first)
        if self._findings.victim(scenario) is not None:
            return True
        self._push_victim(scenario)
        return False

    def waiting_for(self, job: Job) -> list[Scenario]:
        """Return the scenarios that a helper's or a victim's job is for."""
        return [job.scenario] if job.helper is None else self._waiting.get(job.name, [])

    def helper_ready(self, job: Job) -> None:
        """Go on with the scenarios that wait for a helper.

        Raises:
            StoreError: It is not in the store.
        """
        if job.helper is None or self._findings.helper(job.scenario, job.helper) is None:
            raise StoreError(job.name)
        for scenario in self._waiting.pop(job.name, []):
            self._push_victim(scenario)

    def failed(self, job: Job, error: str) -> list[Scenario]:
        """Return the scenarios that will have no victim because a job failed."""
        scenarios = [job.scenario]
        if job.kind is JobKind.HELPER:
            scenarios = self._waiting.pop(job.name, [])
        self.broken |= {scenario.number: error for scenario in scenarios}
        return scenarios

    def _push_victim(self, scenario: Scenario) -> None:
        """Make a victim ready, or let it wait for a helper that its attack needs first."""
        first = self._ranks[scenario.number]
        for job in self._catalog.helpers_of(scenario):
            run = None if job.helper is None else self._findings.helper(scenario, job.helper)
            if run is None:
                self._waiting[job.name].append(scenario)
                if len(self._waiting[job.name]) == 1:
                    self._push(priority(first, job), job)
                return
            self._account([run])
        victim = victim_job(scenario)
        self._push(priority(first, victim), victim)


class StudyScheduler:
    """What to do next, given what is done.

    Attributes:
        scores: What the stages before a trial's last one found, by the trial's number, where
            all of them are done.
        repairs: Repaired models as evaluated, by the trial's number.
        audits: To begin when no decision is open; None where there are none.
        errors: Of jobs that failed, by name.
    """

    def __init__(
        self, plan: Plan, folder: StudyFolder, findings: StageResults, observer: StudyCallback
    ) -> None:
        self.plan = plan
        self.decisions = Decisions(plan)
        self.errors: dict[str, JobResult] = {}
        self._folder = folder
        self._findings = findings
        self._outcomes = TrialOutcomes(plan, findings)
        self._observer = observer
        self._account = partial(folder.account, study=folder.identity())
        self._cuts, self._skips = folder.cuts(), folder.skips()
        self._rank = {trial.number: rank for rank, trial in enumerate(self.decisions.order)}
        self.drawing = SettingSampling(plan, folder, self.decisions)
        self._catalog = JobCatalog(plan)
        self._queue = JobQueue(
            self._needed, findings.elsewhere, self.decisions.sure, observer.started, plan.study
        )
        self.allowance = self._queue.allowance
        self._victims = Prerequisites(self._catalog, findings, self._queue.push, self._account)
        self._reached: dict[int, list[Findings]] = {}  # of each trial, before each stage
        # Trials that want the same result: the first has it made and the others wait.
        self._flights: dict[Hashable, list[Trial]] = defaultdict(list)
        self._seen: dict[str, tuple[tuple[float | None, ...], ...]] = {}
        self._stopped: dict[int, Trial] = {}  # by the user, by the trial's number
        self._heeded = 0.0  # when
        self.scores: dict[int, Findings] = {}
        self.repairs: dict[int, RepairResult] = {}
        self.audits: StudyAudits | None = None

    def open(self, length: Callable[[Scenario], float] | None = None) -> None:
        """Take in what the store has, and make ready what it lacks, by `length` if given."""
        order = [n for n in self.plan.scenario_order if self._catalog.groups_in(n)]
        for scenario in self._victims.ordered([self.plan.scenarios[n] for n in order], length):
            self._begin(scenario)
        self._turn_to_audits()

    def next_job(self) -> Job | None:
        """Return the most useful job that can be worked on now, or None for the moment."""
        return next(iter(self._or_drawn(partial(self._queue.next_batch, 1, largest=1))), None)

    def next_batch(self, workers: int, near: Scenario | None = None) -> tuple[Job, ...]:
        """Return what one of `workers` should do next, where a victim is loaded if it may be."""
        return self._or_drawn(partial(self._queue.next_batch, workers, near))

    def _or_drawn(self, ready: Callable[[], tuple[Job, ...]]) -> tuple[Job, ...]:
        """Return what is ready; where nothing is, once another setting is drawn."""
        jobs = ready()
        while not jobs and self._may_draw:
            self._draw()
            jobs = ready()
        if not jobs and self._turn_to_audits():
            jobs = ready()
        for job in jobs:
            if job.trials:
                self.drawing.begun(job.trial)
        return jobs

    def _turn_to_audits(self) -> bool:
        """Make the audits ready once nothing else is to be done, and return whether that is now.

        What is audited is known only then: the best repaired models.
        """
        if self.audits is None or self.audits.begun or not self._queue.idle or self._may_draw:
            return False
        if not self.allowance.spent:
            for job in self.audits.begin():
                self._queue.push(priority(len(self._rank), job), job)
            for found in self.audits.found.values():
                self._account(found.runs)
        return self.audits.begun

    @property
    def _may_draw(self) -> bool:
        """Whether another setting is wanted: nothing is ready, and none waits to be begun."""
        if self.allowance.spent or len(self._victims.broken) == len(self.plan.scenarios):
            return False
        return self.drawing.possible and (self.drawing.timely or self._queue.idle)

    def _draw(self) -> None:
        """Take in a setting that is drawn now."""
        for trial in self.drawing.draw():
            self._rank[trial.number] = len(self._rank)
            self._catalog.add(trial)
            broken = self._victims.broken.get(trial.scenario.number)
            if broken is not None:
                self._offer(trial, TrialOutcome(error=broken))
            elif not self._victims.has_begun(trial.scenario):
                self._begin(trial.scenario)
            elif self._findings.victim(trial.scenario) is not None:
                self._advance(trial)

    def _needed(self, job: Job) -> bool:
        """Whether a job that was ready still is of use; if not, those that wait for it go on."""
        needed = any(map(self._is_open, job.trials)) if job.trials else self._has_use(job)
        if not needed and job.trials:
            self._go_on(job)
        return needed

    def wanted(self, job: Job) -> bool:
        """Whether a job is no trial's, or one of a trial without a verdict."""
        return not job.is_trial or self._is_open(job.trial)

    def heed(self) -> None:
        """Stop the trials that the user has asked to stop since, as far as they are not over."""
        now = time.monotonic()
        if now - self._heeded < HEED_EVERY:
            return
        self._heeded = now
        for name, keys in self._folder.stops_asked():
            chosen = [trial for trial in self.plan.trials if trial.key in keys]
            self._folder.answer_stop(name, self.stop(chosen))

    def stop(self, trials: Iterable[Trial]) -> int:
        """Give up trials that run or wait; return how many.

        Their jobs end with their next report, unless other trials need the same results.
        """
        chosen = [trial for trial in trials if self.decisions.awaits(trial)]
        self._stopped |= {trial.number: trial for trial in chosen}
        for trial in chosen:
            self._offer(trial, TrialOutcome(error=STOPPED))
        return len(chosen)

    @property
    def stopped_count(self) -> int:
        """How many trials are failed because the user stopped them."""
        verdicts = map(self.decisions.verdict, self._stopped.values())
        return sum(verdict is not None and verdict.error == STOPPED for verdict in verdicts)

    def _is_open(self, trial: Trial) -> bool:
        """Whether a trial is neither decided nor stopped by the user."""
        return self.decisions.verdict(trial) is None and trial.number not in self._stopped

    def _has_use(self, job: Job) -> bool:
        """Whether a trial is left for which a job is, once the user has stopped some."""
        if not self._stopped or job.kind is JobKind.AUDIT:
            return True
        if job.trials:
            members = self._flights.get(self._flight(job.trial, job.position), ())
            return any(map(self._is_open, (*job.trials, *members)))
        if self.drawing.possible:
            return True
        scenarios = self._victims.waiting_for(job)
        groups = [group for s in scenarios for group in self._catalog.groups_in(s.number)]
        return any(self._is_open(trial) for group in groups for trial in group.trials)

    def drawn_for(self, job: Job) -> Drawn | None:
        """Return what a worker has to know to find a job by its name."""
        return self._catalog.drawn_for(job)

    @property
    def complete(self) -> bool:
        """Whether nothing runs and nothing more will."""
        if not self._queue.idle or self._may_draw:
            return False
        return self.audits is None or self.audits.begun or bool(self.allowance.spent)

    def progress(self, job: Job, progress: Progress) -> bool:
        """Take news of a running job, and return whether it should stop."""
        if not self._queue.is_out(job):
            return True
        self._queue.begin(job, now=progress.begins)
        self._observer.progressed(job, progress)
        self._seen[job.name] = progress.curve
        if not self._has_use(job):
            return True
        if not job.is_trial or job.trial.number in self._stopped:
            return False
        values = self._outcomes.of_curve(job.trial, progress.curve)
        return self.decisions.hopeless(job.trial, values)

    def stopped(self, job: Job, progress: Progress) -> None:
        """Take back a job that `progress` asked to stop."""
        if not self._queue.end(job):
            return
        self._observer.ended(job, JobResult())
        if job.is_trial and self._is_open(job.trial):
            trial = job.trial
            key = self.scores[trial.number].relearn_key
            self._folder.record_cut(key, progress.curve)
            self._cuts[key] = progress.curve
            self._offer(trial, TrialOutcome(curve=self._outcomes.of_curve(trial, progress.curve)))
        if job.trials:
            self._go_on(job)

    def finished(self, job: Job, result: JobResult) -> None:
        """Take back a job that ended by itself, well or with an error.

        Raises:
            ResourceError: The error is one that every other job would meet too.
            StoreError: The store has no result of a job that ended well, though no file of its
                scenario changed.
        """
        if not self._queue.end(job, result.spent):
            return
        self._folder.record(result.runs)
        self._observer.ended(job, result)
        if result.fatal:
            raise ResourceError(result.error)
        if result.error:
            self._failed(job, result)
            return
        try:
            self._arrived(job)
        except StoreError:
            if not self._findings.changed(job.scenario):
                raise
            self._failed(job, JobResult(error=str(FileChangedError())))

    def _arrived(self, job: Job) -> None:
        """Go on with what the store has of a job that ended well.

        Raises:
            StoreError: It has nothing.
        """
        if job.kind is JobKind.HELPER:
            self._victims.helper_ready(job)
        elif job.kind is JobKind.VICTIM:
            self._victim_ready(job.scenario)
        elif job.kind is JobKind.AUDIT:
            if self.audits is None or not self.audits.take(job.name):
                raise StoreError(job.name)
            self._account(self.audits.found[job.name].runs)
        elif job.kind is JobKind.STAGE:
            if not self._has(job):
                raise StoreError(job.name)
            waiting = self._flights.pop(self._flight(job.trial, job.position), [])
            self._advance_all({t.number: t for t in (*job.trials, *waiting)}.values(), made=job)
        else:
            if not self._take_result(job.trial):
                raise StoreError(job.name)
            self._go_on(job)

    def lost(self, job: Job, reason: str) -> None:
        """Take back a job whose worker died; it is retried up to `limits.attempts` times."""
        if error := self._queue.lose(job, reason):
            result = JobResult(error=error, trace=reason)
            self._observer.ended(job, result)
            self._failed(job, result)

    def returned(self, job: Job) -> None:
        """Take back a job that was handed out and not begun."""
        self._queue.give_back(job)

    def settle(self, job: Job) -> bool:
        """Take a job as finished if the store has its result, and return whether it has."""
        if stored := self._has(job):
            self.finished(job, JobResult())
        return stored

    def _has(self, job: Job) -> bool:
        """Whether the store has all that a job makes."""
        if job.kind is JobKind.VICTIM:
            return self._findings.victim(job.scenario) is not None
        if job.helper is not None:
            return self._findings.helper(job.scenario, job.helper) is not None
        if job.kind is JobKind.AUDIT:
            return self.audits is not None and self.audits.take(job.name)
        return all(self._stored(trial, job.position) for trial in job.trials)

    def _stored(self, trial: Trial, position: int) -> bool:
        stages, before = chain_of(trial), self._reached[trial.number][position]
        if position == len(stages) - 1:
            return stages[position].repaired(self._findings, trial, before) is not None
        return stages[position].found(self._findings, trial, before) is not None

    def _failed(self, job: Job, result: JobResult) -> None:
        if job.kind is JobKind.AUDIT and self.audits is not None:
            self.audits.failed(job.name, result)
            if result.skipped:
                return
        elif result.skipped:
            self._skipped(job, result.error)
            return
        self.errors[job.name] = result
        if job.kind is JobKind.AUDIT:
            return
        if job.is_trial:
            curve = self._outcomes.of_curve(job.trial, self._seen.get(job.name, ()))
            self._offer(job.trial, TrialOutcome(error=result.error, curve=curve))
            self._go_on(job)
            return
        error = f"{job.text}: {result.error}"
        trials: Iterable[Trial] = job.trials
        if job.kind is JobKind.STAGE:
            self._go_on(job)
        else:
            broken = self._victims.failed(job, error)
            groups = [group for s in broken for group in self._catalog.groups_in(s.number)]
            trials = [trial for group in groups for trial in group.trials]
        for trial in trials:
            self._offer(trial, TrialOutcome(error=error))

    def _skipped(self, job: Job, reason: str) -> None:
        """Give up the trials of a stage whose method does not apply; the next start knows it."""
        key = self._reached[job.trial.number][job.position].relearn_key
        self._skips[key] = reason
        self._folder.record_skip(key, reason)
        self._go_on(job)
        for trial in job.trials:
            self._offer(trial, TrialOutcome(error=reason, skipped=True))

    def _begin(self, scenario: Scenario) -> None:
        """Have a scenario's victim made, or take it from the store."""
        groups = self._catalog.groups_in(scenario.number)
        first = min(self._rank[trial.number] for group in groups for trial in group.trials)
        if self._victims.begin(scenario, first):
            self._victim_ready(scenario)

    def _victim_ready(self, scenario: Scenario) -> None:
        finding = self._findings.victim(scenario)
        if finding is None:
            raise StoreError(victim_job(scenario).name)
        self._account(finding.runs)
        self._observer.victim(scenario, finding)
        for group in self._catalog.groups_in(scenario.number):
            self._advance_all(group.trials)

    def _advance_all(self, trials: Iterable[Trial], made: Job | None = None) -> None:
        """Advance trials in order of use: the first to be decided makes what others share."""
        for trial in sorted(trials, key=lambda trial: self._rank[trial.number]):
            self._advance(trial, made)

    def _advance(self, trial: Trial, made: Job | None = None) -> None:
        """Take what the store has of a trial's chain, and make ready the stage that follows.

        Args:
            trial: Its victim is there.
            made: The job that has just made a stage.

        Raises:
            StoreError: The store does not have what `made` should have made.
        """
        stages = chain_of(trial)
        reached = self._reached.get(trial.number)
        if reached is None:
            reached = self._reached[trial.number] = [stages[0].begun(self._findings, trial)]
        while len(reached) < len(stages):
            position = len(reached) - 1
            found = stages[position].found(self._findings, trial, reached[-1])
            if found is None:
                if made is not None and position == made.position and trial.number in made.numbers:
                    raise StoreError(made.name)
                if not self._skip(trial, reached[-1].relearn_key):
                    self._push(trial, position)
                return
            reached.append(found)
            self._account(found.runs)
        self.scores[trial.number] = reached[-1]
        if self._take_result(trial) or self._skip(trial, reached[-1].relearn_key):
            return
        if (cut := self._cuts.get(reached[-1].relearn_key)) and self.plan.study.prune.curve:
            self._offer(trial, TrialOutcome(curve=self._outcomes.of_curve(trial, cut)))
        else:
            self._push(trial, len(stages) - 1)

    def _skip(self, trial: Trial, key: str) -> bool:
        """Whether a stage was found not to apply; then the trial is skipped."""
        if key not in self._skips:
            return False
        self._offer(trial, TrialOutcome(error=self._skips[key], skipped=True))
        return True

    def _go_on(self, job: Job) -> None:
        """A job made, or will not make, the result that other trials wait for: they go on."""
        members = self._flights.pop(self._flight(job.trial, job.position), [])
        if job.is_trial:  # its own may wait once more: cut, for reasons that no longer hold
            waiting = members[1:]
        else:
            waiting = [trial for trial in members if trial.number not in job.numbers]
        for trial in waiting:
            if not self._is_open(trial):
                continue
            if not job.is_trial:
                self._advance(trial)
            elif not (
                self._take_result(trial)
                or self._skip(trial, self._reached[trial.number][job.position].relearn_key)
            ):
                self._push(trial, job.position)

    def _take_result(self, trial: Trial) -> bool:
        """Offer a trial's result to the decisions if the store has it."""
        repaired = chain_of(trial)[-1].repaired(self._findings, trial, self.scores[trial.number])
        outcome = None if repaired is None else self._outcomes.of_repair(trial, repaired)
        if repaired is None or outcome is None:
            return False
        self.repairs[trial.number] = repaired
        self._account(repaired.runs)
        self._offer(trial, outcome)
        return True

    def _offer(self, trial: Trial, outcome: TrialOutcome) -> None:
        if trial.number in self._stopped:  # a result that comes now is for the next start
            outcome = TrialOutcome(error=STOPPED)
        for verdict in self.decisions.offer(trial, outcome):
            self.drawing.decided(verdict.trial)
            self._observer.decided(verdict)
        while self.decisions.unsettled:
            unsettled = self.decisions.unsettled.pop()
            self._push(unsettled, len(chain_of(unsettled)) - 1)

    def _push(self, trial: Trial, position: int) -> None:
        """Make a stage of a trial ready, or let it wait for another trial that makes the same."""
        members = self._flights[self._flight(trial, position)]
        members.append(trial)
        if len(members) > 1:
            return
        job = self._catalog.job(trial, position)
        rank = self._rank[trial.number]
        if not job.is_trial:
            first = min(self._rank[one.number] for one in job.trials)
            rank = self._victims.rank(trial.scenario, first)
        self._queue.push(priority(rank, job), job)

    def _flight(self, trial: Trial, position: int) -> Hashable:
        """Return what trials have in common that want the same result of a stage."""
        if position == 0 and len(chain_of(trial)) > 1:
            return chain_of(trial)[0].shared(trial)
        return self._reached[trial.number][position].relearn_key or trial.number
