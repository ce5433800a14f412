"""The scheduler of a study: dependencies, results, decisions.

It knows nothing of Ray. An executor asks `next_item` or `next_shift`, reports `progress`,
and ends each item with `finished`, `stopped`, `lost` or `returned`; everything it says twice
is harmless.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

from orchestrator.errors import ResourceError, StoreError
from orchestrator.plan.jobs import (
    AscentGroup,
    AscentJob,
    Drawn,
    HelperJob,
    Item,
    JobCatalog,
    JobResult,
    Progress,
    StageRun,
    TrialJob,
    VictimJob,
)
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.scheduler.queue import JobQueue
from orchestrator.scheduler.sampling import SettingSampling
from orchestrator.search.best import Point
from orchestrator.spec.model import Objective
from orchestrator.store.lookup import RepairResult, ScoreResult, StageResults, objective_value
from orchestrator.store.study_folder import StudyFolder
from ulrl.metrics import Metrics


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
        before, after = victim.evaluation.selection, repaired.evaluation.selection
        return TrialOutcome(
            value=objective_value(self._study.objective, before, after),
            curve=self.of_curve(trial, repaired.curve),
            sound=self._study.victim_rule.admits(before),
        )

    def of_curve(self, trial: Trial, curve: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        """Return a monitor curve as the objective's values."""
        victim = self._findings.victim(trial.scenario)
        if victim is None:
            return ()
        before = victim.evaluation.selection
        points = (Metrics(acc=acc, asr=asr, ra=ra) for acc, asr, ra in curve)
        return tuple(objective_value(self._study.objective, before, point) for point in points)


def point_of(
    trial: Trial, objective: Objective, value: float | None, *, took: bool | None
) -> Point:
    """Return a planned trial as the choice of the best setting sees it.

    Args:
        trial: The trial.
        objective: What the study seeks.
        value: Its value on the selection half; None where the trial has none that may compete.
        took: Whether its victim is one; None where there is none.
    """
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


T = TypeVar("T")


class Prerequisites:
    """Which scenarios are on their way to a victim, and which will have none.

    Attributes:
        broken: Scenarios without a victim by their number, and why.
    """

    def __init__(
        self,
        catalogue: JobCatalog,
        findings: StageResults,
        push: Callable[[float, Item], None],
        account: Callable[[Iterable[StageRun]], None],
    ) -> None:
        self._catalogue, self._findings = catalogue, findings
        self._push, self._account = push, account
        self._ranks: dict[int, float] = {}
        self._places: dict[int, int] = {}  # among victims to make, by the scenario's number
        self._waiting: dict[int, list[Scenario]] = defaultdict(list)  # by the helper's number
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

    def begin(self, scenario: Scenario, first: float) -> bool:
        """Have a scenario's victim made, and return whether it is there already.

        Args:
            scenario: With a trial.
            first: Rank of the first of its trials.
        """
        self._ranks[scenario.number] = self._places.get(scenario.number, first)
        if self._findings.victim(scenario) is not None:
            return True
        self._push_victim(scenario)
        return False

    def helper_ready(self, item: HelperJob) -> None:
        """Go on with the scenarios that wait for a helper.

        Raises:
            StoreError: It is not in the store.
        """
        if self._findings.helper(item.scenario, item.helper) is None:
            raise StoreError(item.name)
        for scenario in self._waiting.pop(item.number, []):
            self._push_victim(scenario)

    def failed(self, item: HelperJob | VictimJob, error: str) -> list[Scenario]:
        """Return the scenarios that will have no victim because an item failed."""
        scenarios = [item.scenario]
        if isinstance(item, HelperJob):
            scenarios = self._waiting.pop(item.number, [])
        self.broken |= {scenario.number: error for scenario in scenarios}
        return scenarios

    def _push_victim(self, scenario: Scenario) -> None:
        """Make a victim ready, or let it wait for a helper that its attack needs first."""
        first = self._ranks[scenario.number]
        for item in self._catalogue.helpers_of(scenario):
            run = self._findings.helper(scenario, item.helper)
            if run is None:
                self._waiting[item.number].append(scenario)
                if len(self._waiting[item.number]) == 1:
                    self._push(first - 0.75, item)
                return
            self._account([run])
        self._push(first - 0.5, VictimJob(scenario=scenario))


class SingleFlight(Generic[T]):
    """Of those that would make the same result, one does and the others wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[object, list[T]] = {}

    def take(self, result: object, one: T) -> bool:
        """Return whether `one` is to make a result; if not, it waits."""
        if result in self._waiting:
            self._waiting[result].append(one)
            return False
        self._waiting[result] = []
        return True

    def end(self, result: object) -> list[T]:
        """Return the jobs that waited for a result that is made, or whose job has failed."""
        return self._waiting.pop(result, [])


class StudyScheduler:
    """What to do next, given what is done."""

    def __init__(
        self, plan: Plan, folder: StudyFolder, findings: StageResults, observer: StudyCallback
    ) -> None:
        self.plan = plan
        self.decisions = Decisions(plan, folder.logs / "answers")
        self.errors: dict[str, JobResult] = {}  # by the item's name
        self._folder = folder
        self._findings = findings
        self._outcomes = TrialOutcomes(plan, findings)
        self._observer = observer
        self._account = partial(folder.account, study=folder.identity())
        self._cuts = folder.cuts()
        self._rank = {trial.number: rank for rank, trial in enumerate(self.decisions.order)}
        self.drawing = SettingSampling(plan, folder, self.decisions)
        self._catalogue = JobCatalog(plan)
        self._dispatch = JobQueue(
            self._needed, findings.elsewhere, self.decisions.sure, observer.started, plan.study
        )
        self.allowance = self._dispatch.allowance
        self._victims = Prerequisites(self._catalogue, findings, self._dispatch.push, self._account)
        self._climbers: SingleFlight[AscentGroup] = SingleFlight()
        self._seen: dict[str, tuple[tuple[float, float, float], ...]] = {}
        self.scores: dict[int, ScoreResult] = {}  # by the trial's number, as the next
        self.repairs: dict[int, RepairResult] = {}
        self._followers: SingleFlight[Trial] = SingleFlight()

    def open(self, length: Callable[[Scenario], float] | None = None) -> None:
        """Take in what the store has, and make ready what it lacks, by `length` if given."""
        order = [n for n in self.plan.scenario_order if self._catalogue.groups_in(n)]
        for scenario in self._victims.ordered([self.plan.scenarios[n] for n in order], length):
            self._begin(scenario)

    def next_item(self) -> Item | None:
        """Return the most useful item that can be worked on now, or None for the moment."""
        return next(iter(self._or_drawn(self._dispatch.next_items)), None)

    def next_shift(self, workers: int, near: Scenario | None = None) -> tuple[Item, ...]:
        """Return what one of `workers` should do next, where a victim is loaded if it may be."""
        return self._or_drawn(lambda: self._dispatch.next_shift(workers, near))

    def _or_drawn(self, ready: Callable[[], tuple[Item, ...]]) -> tuple[Item, ...]:
        """Return what is ready; where nothing is, once another setting is drawn."""
        items = ready()
        while not items and self._may_draw:
            self._draw()
            items = ready()
        for item in items:
            if isinstance(item, AscentJob | TrialJob):
                self.drawing.begun(item.trial)
        return items

    @property
    def _may_draw(self) -> bool:
        """Whether another setting is wanted: nothing is ready, and none waits to be begun."""
        if self.allowance.spent or len(self._victims.broken) == len(self.plan.scenarios):
            return False
        return self.drawing.possible and (self.drawing.timely or self._dispatch.idle)

    def _draw(self) -> None:
        """Take in a setting that is drawn now."""
        for trial in self.drawing.draw():
            self._rank[trial.number] = len(self._rank)
            group = self._catalogue.add(trial)
            broken = self._victims.broken.get(trial.scenario.number)
            if broken is not None:
                self._offer(trial, TrialOutcome(error=broken))
            elif not self._victims.has_begun(trial.scenario):
                self._begin(trial.scenario)
            elif self._findings.victim(trial.scenario) is not None:
                self._open_or_push(group)

    def _needed(self, item: Item) -> bool:
        """Whether an item that was ready still is of use; a trial that is not hands on."""
        if isinstance(item, AscentJob):
            group = self._catalogue.group(item.number)
            wanted = any(self.decisions.verdict(trial) is None for trial in group.trials)
            if not wanted:
                self._climbed(group)
            return wanted
        if isinstance(item, TrialJob) and not self.wanted(item):
            self._hand_on(item.trial)
            return False
        return True

    def wanted(self, item: Item) -> bool:
        """Whether nobody has decided of a trial yet; anything else is wanted."""
        return not isinstance(item, TrialJob) or self.decisions.verdict(item.trial) is None

    def drawn_for(self, item: Item) -> Drawn | None:
        """Return what a worker has to be told to know an item by its name."""
        return self._catalogue.drawn_for(item)

    @property
    def complete(self) -> bool:
        """Whether nothing runs and nothing more will."""
        return self._dispatch.idle and not self._may_draw

    def progress(self, item: Item, progress: Progress) -> bool:
        """Take news of a running item, and return whether it should stop."""
        if not self._dispatch.is_out(item):
            return True
        self._dispatch.begin(item, now=progress.begins)
        self._observer.progressed(item, progress)
        self._seen[item.name] = progress.curve
        if not isinstance(item, TrialJob):
            return False
        values = self._outcomes.of_curve(item.trial, progress.curve)
        return self.decisions.hopeless(item.trial, values)

    def stopped(self, item: Item, progress: Progress) -> None:
        """Take back a trial that was told to stop."""
        if not self._dispatch.end(item) or not isinstance(item, TrialJob):
            return
        self._observer.ended(item, JobResult())
        trial = item.trial
        if self.decisions.verdict(trial) is None:
            key = self.scores[trial.number].relearn_key
            self._folder.record_cut(key, progress.curve)
            self._cuts[key] = progress.curve
            self._offer(trial, TrialOutcome(curve=self._outcomes.of_curve(trial, progress.curve)))
        self._hand_on(trial)

    def finished(self, item: Item, result: JobResult) -> None:
        """Take back an item that ended by itself, well or with an error.

        Raises:
            ResourceError: The error is one that every other item would meet too.
        """
        if not self._dispatch.end(item, result.spent):
            return
        self._folder.record(result.runs)
        self._observer.ended(item, result)
        if result.fatal:
            raise ResourceError(result.error)
        if result.error:
            self._failed(item, result)
        elif isinstance(item, HelperJob):
            self._victims.helper_ready(item)
        elif isinstance(item, VictimJob):
            self._victim_ready(item.scenario)
        elif isinstance(item, AscentJob):
            group = self._catalogue.group(item.number)
            if not self._open_group(group):
                raise StoreError(item.name)
            self._climbed(group)
        else:
            if not self._take_result(item.trial):
                raise StoreError(item.name)
            self._hand_on(item.trial)

    def lost(self, item: Item, reason: str) -> None:
        """Take back an item whose worker died; it is tried again, but not for ever."""
        if error := self._dispatch.lose(item, reason):
            result = JobResult(error=error, trace=reason)
            self._observer.ended(item, result)
            self._failed(item, result)

    def returned(self, item: Item) -> None:
        """Take back an item that was handed out and not begun."""
        self._dispatch.give_back(item)

    def settle(self, item: Item) -> bool:
        """Take an item as finished if the store has its result, and return whether it has."""
        if stored := self._findings.has(item):
            self.finished(item, JobResult())
        return stored

    def _failed(self, item: Item, result: JobResult) -> None:
        self.errors[item.name] = result
        if isinstance(item, TrialJob):
            curve = self._outcomes.of_curve(item.trial, self._seen.get(item.name, ()))
            self._offer(item.trial, TrialOutcome(error=result.error, curve=curve))
            self._hand_on(item.trial)
            return
        if isinstance(item, AscentJob):
            groups = [self._catalogue.group(item.number)]
            self._climbed(groups[0])
        else:
            scenarios = self._victims.failed(item, f"{item.text}: {result.error}")
            groups = [group for s in scenarios for group in self._catalogue.groups_in(s.number)]
        for group in groups:
            for trial in group.trials:
                self._offer(trial, TrialOutcome(error=f"{item.text}: {result.error}"))

    def _begin(self, scenario: Scenario) -> None:
        """Have a scenario's victim made, or take it from the store."""
        first = min(self._first(group) for group in self._catalogue.groups_in(scenario.number))
        if self._victims.begin(scenario, first):
            self._victim_ready(scenario)

    def _victim_ready(self, scenario: Scenario) -> None:
        finding = self._findings.victim(scenario)
        if finding is None:
            raise StoreError(VictimJob(scenario=scenario).name)
        self._account(finding.runs)
        self._observer.victim(scenario, finding)
        for group in self._catalogue.groups_in(scenario.number):
            self._open_or_push(group)

    def _open_or_push(self, group: AscentGroup) -> None:
        """Take phase 1 from the store, or have it made: by one group for all that share it."""
        if not self._open_group(group) and self._climbers.take(group.shared, group):
            rank = self._victims.rank(group.scenario, self._first(group))
            self._dispatch.push(rank - 0.25, group.item)

    def _climbed(self, group: AscentGroup) -> None:
        """An ascent ended, well or not: let those go on that wait for it."""
        for other in self._climbers.end(group.shared):
            self._open_or_push(other)

    def _open_group(self, group: AscentGroup) -> bool:
        """Take what is finished of a group and make ready the rest, if phase 1 is known."""
        scored = {trial.number: self._findings.scores(trial) for trial in group.trials}
        found = {number: finding for number, finding in scored.items() if finding is not None}
        if len(found) < len(scored):
            return False
        self.scores |= found
        # In order of use: of trials that share a result, the first to be decided makes it.
        for trial in sorted(group.trials, key=lambda trial: self._rank[trial.number]):
            finding = found[trial.number]
            self._account(finding.runs)
            if self._take_result(trial):
                continue
            if (cut := self._cuts.get(finding.relearn_key)) and self.plan.study.prune.curve:
                self._offer(trial, TrialOutcome(curve=self._outcomes.of_curve(trial, cut)))
            else:
                self._push_trial(trial)
        return True

    def _take_result(self, trial: Trial) -> bool:
        """Offer a trial's result to the decisions if the store has it."""
        scored = self.scores[trial.number]
        repaired = self._findings.repair(trial, scored.relearn_key)
        outcome = None if repaired is None else self._outcomes.of_repair(trial, repaired)
        if repaired is None or outcome is None:
            return False
        self.repairs[trial.number] = repaired
        self._account(repaired.runs)
        self._offer(trial, outcome)
        return True

    def _offer(self, trial: Trial, outcome: TrialOutcome) -> None:
        for verdict in self.decisions.offer(trial, outcome):
            self.drawing.decided(verdict.trial)
            self._observer.decided(verdict)
        while self.decisions.unsettled:
            self._push_trial(self.decisions.unsettled.pop())

    def _hand_on(self, trial: Trial) -> None:
        """A trial made, or will not make, the result that others wait for: they go on."""
        finding = self.scores.get(trial.number)
        if finding is None:
            return
        for follower in self._followers.end(_relearning(trial, finding)):
            undecided = self.decisions.verdict(follower) is None
            if undecided and not self._take_result(follower):
                self._push_trial(follower)

    def _push_trial(self, trial: Trial) -> None:
        """Make a trial ready, or let it wait for another that makes the same result."""
        if self._followers.take(_relearning(trial, self.scores[trial.number]), trial):
            self._dispatch.push(self._rank[trial.number], self._catalogue.trial_item(trial))

    def _first(self, group: AscentGroup) -> int:
        return min(self._rank[trial.number] for trial in group.trials)


def _relearning(trial: Trial, finding: ScoreResult) -> object:
    """Return what trials that share a relearning have in common; without one, nothing."""
    return finding.relearn_key or trial.number
