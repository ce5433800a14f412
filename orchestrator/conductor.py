"""The one brain of a study: it hands out items, takes what comes back, and decides.

It knows nothing of Ray. An executor asks `next_item` or `next_shift`, reports `progress`,
and ends each item with `finished`, `stopped`, `lost` or `returned`; everything it says twice
is harmless.
"""

from collections import defaultdict
from collections.abc import Iterable

from orchestrator.catalogue import Catalogue, Group
from orchestrator.decisions import Decisions, Outcome
from orchestrator.dispatch import Dispatch
from orchestrator.errors import Unusable
from orchestrator.findings import Findings, RepairFinding, ScoreFinding, objective_value
from orchestrator.folder import Folder
from orchestrator.observers import Observer
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import (
    AscentItem,
    Finished,
    HelperItem,
    Item,
    Progress,
    StageRun,
    TrialItem,
    VictimItem,
)
from ulrl.metrics import Metrics


class Conductor:
    """What to do next, given what is done."""

    def __init__(
        self,
        plan: Plan,
        folder: Folder,
        findings: Findings,
        observer: Observer,
    ) -> None:
        self.plan = plan
        self.decisions = Decisions(plan)
        self.errors: dict[str, Finished] = {}  # by the item's name
        self._folder = folder
        self._findings = findings
        self._observer = observer
        self._study = folder.identity()
        self._cuts = folder.cuts()
        self._rank = {trial.number: rank for rank, trial in enumerate(self.decisions.order)}
        self._catalogue = Catalogue(plan)
        self._groups: dict[int, list[Group]] = defaultdict(list)  # by the scenario's number
        for group in self._catalogue.groups:
            self._groups[group.scenario.number].append(group)
        self._waiting: dict[int, list[Scenario]] = defaultdict(list)  # by the helper's number
        self._dispatch = Dispatch(self._needed, self.decisions.sure, observer.started, plan.study)
        self.allowance = self._dispatch.allowance
        self._seen: dict[str, tuple[tuple[float, float, float], ...]] = {}
        self.scores: dict[int, ScoreFinding] = {}  # by the trial's number, as the next
        self.repairs: dict[int, RepairFinding] = {}
        self._followers: dict[str, list[Trial]] = {}  # by the key of a relearning in work

    def open(self) -> None:
        """Take in what the store has, and make ready what it lacks."""
        for number in self.plan.scenario_order:
            scenario = self.plan.scenarios[number]
            if self._findings.victim(scenario) is not None:
                self._victim_ready(scenario)
            else:
                self._push_victim(scenario)

    def next_item(self) -> Item | None:
        """Return the most useful item that can be worked on now, or None for the moment."""
        return self._dispatch.next_item()

    def next_shift(self, workers: int, near: Scenario | None = None) -> tuple[Item, ...]:
        """Return what one of `workers` should do next, in order; nothing for the moment.

        One item as a rule; several of a kind where they are short. What no decision can
        spare is taken scenario by scenario, `near` first: there a victim is loaded.
        """
        return self._dispatch.next_shift(workers, near)

    def _needed(self, item: Item) -> bool:
        """Whether an item that was ready still is of use; a trial that is not hands on."""
        if isinstance(item, AscentItem):
            trials = self._catalogue.groups[item.number].trials
            return any(self.decisions.verdict(trial) is None for trial in trials)
        if isinstance(item, TrialItem) and not self.wanted(item):
            self._hand_on(item.trial)
            return False
        return True

    def wanted(self, item: Item) -> bool:
        """Whether nobody has decided of a trial yet; anything else is wanted."""
        return not isinstance(item, TrialItem) or self.decisions.verdict(item.trial) is None

    @property
    def complete(self) -> bool:
        """Whether nothing runs and nothing more will."""
        return self._dispatch.idle

    def progress(self, item: Item, progress: Progress) -> bool:
        """Take news of a running item, and return whether it should stop."""
        if not self._dispatch.is_out(item):
            return True
        self._dispatch.begin(item, now=progress.begins)
        self._observer.progressed(item, progress)
        self._seen[item.name] = progress.curve
        if not isinstance(item, TrialItem):
            return False
        return self.decisions.hopeless(item.trial, self._values(item.trial, progress.curve))

    def stopped(self, item: Item, progress: Progress) -> None:
        """Take back a trial that was told to stop."""
        if not self._dispatch.end(item) or not isinstance(item, TrialItem):
            return
        self._observer.ended(item, Finished())
        trial = item.trial
        if self.decisions.verdict(trial) is None:
            key = self.scores[trial.number].relearn_key
            self._folder.record_cut(key, progress.curve)
            self._cuts[key] = progress.curve
            self._offer(trial, Outcome(curve=self._values(trial, progress.curve)))
        self._hand_on(trial)

    def finished(self, item: Item, result: Finished) -> None:
        """Take back an item that ended by itself, well or with an error.

        Raises:
            Unusable: The error is one that every other item would meet too.
        """
        if not self._dispatch.end(item, result.spent):
            return
        self._folder.record(result.runs)
        self._observer.ended(item, result)
        if result.fatal:
            raise Unusable(result.error)
        if result.error:
            self._failed(item, result)
        elif isinstance(item, HelperItem):
            self._helper_ready(item)
        elif isinstance(item, VictimItem):
            self._victim_ready(item.scenario)
        elif isinstance(item, AscentItem):
            if not self._open_group(self._catalogue.groups[item.number]):
                self._vanished(item)
        else:
            if not self._take_result(item.trial):
                self._vanished(item)
            self._hand_on(item.trial)

    def lost(self, item: Item, reason: str) -> None:
        """Take back an item whose worker died; it is tried again, but not for ever."""
        if error := self._dispatch.lose(item):
            result = Finished(error=error, trace=reason)
            self._observer.ended(item, result)
            self._failed(item, result)

    def returned(self, item: Item) -> None:
        """Take back an item that was handed out and not begun."""
        self._dispatch.give_back(item)

    def settle(self, item: Item) -> bool:
        """Take an item as finished if the store has its result, and return whether it has."""
        if stored := self._findings.has(item):
            self.finished(item, Finished())
        return stored

    def _failed(self, item: Item, result: Finished) -> None:
        self.errors[item.name] = result
        if isinstance(item, TrialItem):
            curve = self._values(item.trial, self._seen.get(item.name, ()))
            self._offer(item.trial, Outcome(error=result.error, curve=curve))
            self._hand_on(item.trial)
            return
        if isinstance(item, AscentItem):
            groups = [self._catalogue.groups[item.number]]
        elif isinstance(item, HelperItem):
            waiting = self._waiting.pop(item.number, [])
            groups = [group for scenario in waiting for group in self._groups[scenario.number]]
        else:
            groups = self._groups[item.scenario.number]
        for group in groups:
            for trial in group.trials:
                self._offer(trial, Outcome(error=f"{item.text}: {result.error}"))

    def _push_victim(self, scenario: Scenario) -> None:
        """Make a victim ready, or let it wait for a helper that its attack needs first."""
        first = min(self._first(group) for group in self._groups[scenario.number])
        for item in self._catalogue.helpers_of(scenario):
            run = self._findings.helper(scenario, item.helper)
            if run is None:
                self._waiting[item.number].append(scenario)
                if len(self._waiting[item.number]) == 1:
                    self._dispatch.push(first - 0.75, item)
                return
            self._account([run])
        self._dispatch.push(first - 0.5, VictimItem(scenario=scenario))

    def _helper_ready(self, item: HelperItem) -> None:
        if self._findings.helper(item.scenario, item.helper) is None:
            self._vanished(item)
        for scenario in self._waiting.pop(item.number, []):
            self._push_victim(scenario)

    def _victim_ready(self, scenario: Scenario) -> None:
        finding = self._findings.victim(scenario)
        if finding is None:
            self._vanished(VictimItem(scenario=scenario))
            return
        self._account(finding.runs)
        self._observer.victim(scenario, finding)
        for group in self._groups[scenario.number]:
            if not self._open_group(group):
                self._dispatch.push(self._first(group) - 0.25, group.item)

    def _open_group(self, group: Group) -> bool:
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
            cut = self._cuts.get(finding.relearn_key)
            if cut and self.plan.study.prune.curve is not None:
                self._offer(trial, Outcome(curve=self._values(trial, cut)))
            else:
                self._push_trial(trial)
        return True

    def _vanished(self, item: Item) -> None:
        """What a worker just stored cannot be read: no result of this store can be trusted."""
        raise Unusable(
            f"{item.name} was stored and cannot be read back; is the store on a path that "
            f"all nodes see?"
        )

    def _take_result(self, trial: Trial) -> bool:
        """Offer a trial's result to the decisions if the store has it."""
        scored = self.scores[trial.number]
        repaired = self._findings.repair(trial, scored.relearn_key)
        victim = self._findings.victim(trial.scenario)
        if repaired is None or victim is None:
            return False
        self.repairs[trial.number] = repaired
        self._account(repaired.runs)
        before, after = victim.evaluation.selection, repaired.evaluation.selection
        value = objective_value(self.plan.study.objective, before, after)
        curve = self._values(trial, repaired.curve)
        sound = self.plan.study.victim_rule.admits(before)
        self._offer(trial, Outcome(value=value, curve=curve, sound=sound))
        return True

    def _offer(self, trial: Trial, outcome: Outcome) -> None:
        for verdict in self.decisions.offer(trial, outcome):
            self._observer.decided(verdict)
        while self.decisions.unsettled:
            self._push_trial(self.decisions.unsettled.pop())

    def _hand_on(self, trial: Trial) -> None:
        """A trial made, or will not make, the result that others wait for: they go on."""
        finding = self.scores.get(trial.number)
        if finding is None:
            return
        for follower in self._followers.pop(finding.relearn_key, []):
            undecided = self.decisions.verdict(follower) is None
            if undecided and not self._take_result(follower):
                self._push_trial(follower)

    def _push_trial(self, trial: Trial) -> None:
        """Make a trial ready, or let it wait for another that makes the same result."""
        key = self.scores[trial.number].relearn_key
        if key in self._followers:
            self._followers[key].append(trial)
            return
        self._followers[key] = []
        self._dispatch.push(self._rank[trial.number], self._catalogue.trial_item(trial))

    def _values(self, trial: Trial, curve: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
        """Return a monitor curve as the objective's values."""
        victim = self._findings.victim(trial.scenario)
        if victim is None:
            return ()
        before, objective = victim.evaluation.selection, self.plan.study.objective
        points = (Metrics(acc=acc, asr=asr, ra=ra) for acc, asr, ra in curve)
        return tuple(objective_value(objective, before, point) for point in points)

    def _account(self, runs: Iterable[StageRun]) -> None:
        self._folder.account(runs, self._study)

    def _first(self, group: Group) -> int:
        return min(self._rank[trial.number] for trial in group.trials)
