"""The items of a plan by name: driver and workers derive the same ones from the study."""

from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import AscentItem, HelperItem, Item, TrialItem, VictimItem
from ulrl.attacks import Helper


@dataclass(eq=False)
class Group:
    """Trials of a scenario that share an ascent."""

    number: int
    scenario: Scenario
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def item(self) -> AscentItem:
        rules = {trial.hyperparameters.score: None for trial in self.trials}
        return AscentItem(
            number=self.number,
            trial=self.trials[0],
            rules=tuple(rules),
        )


class Catalogue:
    """Every item that a plan may need.

    Attributes:
        helpers: In the order in which scenarios need them; one for all that can share it.
        groups: Trials that share an ascent.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.helpers: list[HelperItem] = []
        self._helper_of: dict[object, HelperItem] = {}
        for scenario in plan.scenarios:
            for helper in scenario.helpers:
                self._note(scenario, helper)
        self.groups: list[Group] = []
        self._group_of: dict[int, Group] = {}
        found: dict[object, Group] = {}
        for trial in plan.trials:
            parts = trial.hyperparameters
            shared = (trial.scenario.number, trial.defence_seed, parts.clean, parts.unlearn)
            if shared not in found:
                found[shared] = Group(number=len(found), scenario=trial.scenario)
                self.groups.append(found[shared])
            found[shared].trials.append(trial)
            self._group_of[trial.number] = found[shared]

    def _note(self, scenario: Scenario, helper: Helper) -> None:
        place = _shared_by(scenario, helper)
        if place not in self._helper_of:
            item = HelperItem(number=len(self.helpers), scenario=scenario, helper=helper)
            self._helper_of[place] = item
            self.helpers.append(item)

    def helpers_of(self, scenario: Scenario) -> list[HelperItem]:
        """Return what trains a scenario's helpers, in order."""
        return [self._helper_of[_shared_by(scenario, helper)] for helper in scenario.helpers]

    def group_of(self, trial: Trial) -> Group:
        """Return the trials that share their ascent with `trial`."""
        return self._group_of[trial.number]

    def trial_item(self, trial: Trial) -> TrialItem:
        """Return the item that works on `trial`."""
        return TrialItem(
            trial=trial,
            rules=self.group_of(trial).item.rules,
            stream=self._plan.study.prune.curve is not None,
        )

    def item(self, name: str) -> Item:
        """Return the item of that name."""
        kind, _, number = name.partition("-")
        if kind == "helper":
            return self.helpers[int(number)]
        if kind == "victim":
            return VictimItem(scenario=self._plan.scenarios[int(number)])
        if kind == "ascent":
            return self.groups[int(number)].item
        return self.trial_item(self._plan.trials[int(number)])


def _shared_by(scenario: Scenario, helper: Helper) -> object:
    """Return what two scenarios must have in common to share a helper."""
    chain: list[Helper] = [helper]
    while (needed := chain[-1].needs) is not None:
        chain.append(needed)
    tied = any(one.of_victim for one in chain)
    architecture = scenario.architecture if tied else None
    return (helper, scenario.dataset, scenario.seed, architecture)
