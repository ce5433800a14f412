"""The items of a plan by name: driver and workers derive the same ones from the study."""

from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import AscentItem, Item, TrialItem, VictimItem


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
    """Every item that a plan may need."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
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
        if kind == "victim":
            return VictimItem(scenario=self._plan.scenarios[int(number)])
        if kind == "ascent":
            return self.groups[int(number)].item
        return self.trial_item(self._plan.trials[int(number)])
