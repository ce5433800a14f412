"""The items of a plan by name: driver and workers derive the same ones from the study."""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.ranges import Axis, Range, Values
from orchestrator.work import AscentItem, HelperItem, Item, TrialItem, VictimItem
from ulrl.attacks import Helper

Drawn: TypeAlias = tuple[int, Values]  # a setting that is not known from the study alone


@dataclass(eq=False)
class Group:
    """Trials of a scenario that share an ascent.

    Attributes:
        shared: What the ascent depends on: of groups that agree in it, one makes it for all.
        floor: The lowest threshold that later settings may ask of the same ascent.
    """

    number: int
    scenario: Scenario
    shared: object
    floor: float | None = None
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def item(self) -> AscentItem:
        rules = {trial.hyperparameters.score: None for trial in self.trials}
        if self.floor is not None:
            rules |= {replace(rule, unlearn_threshold=self.floor): None for rule in rules}
        return AscentItem(
            number=self.number,
            trial=self.trials[0],
            rules=tuple(rules),
        )


class Catalogue:
    """Every item that a plan may need.

    Where settings are drawn each has groups of its own, so that a worker which knows a
    setting knows its items.

    Attributes:
        helpers: In the order in which scenarios need them; one for all that can share it.
        groups: Trials that share an ascent.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._drawn = plan.study.search is not None
        self._floor = _lowest(plan.study.grid.settings.get("unlearn_threshold"))
        self.helpers: list[HelperItem] = []
        self._helper_of: dict[object, HelperItem] = {}
        for scenario in plan.scenarios:
            for helper in scenario.helpers:
                self._note(scenario, helper)
        self.groups: list[Group] = []
        self._by_number: dict[int, Group] = {}
        self._in_scenario: dict[int, list[Group]] = defaultdict(list)
        self._group_of: dict[int, Group] = {}
        self._found: dict[object, Group] = {}
        for trial in plan.trials:
            self.add(trial)

    def add(self, trial: Trial) -> Group:
        """Take in a trial and return its group."""
        parts = trial.hyperparameters
        shared = (trial.scenario.number, trial.defence_seed, parts.clean, parts.unlearn)
        name: object = trial.number if self._drawn else shared
        if name not in self._found:
            number = trial.number if self._drawn else len(self._found)
            floor = self._floor if self._drawn else None
            group = Group(number=number, scenario=trial.scenario, shared=shared, floor=floor)
            self._found[name] = self._by_number[number] = group
            self.groups.append(group)
            self._in_scenario[trial.scenario.number].append(group)
        self._found[name].trials.append(trial)
        self._group_of[trial.number] = self._found[name]
        return self._found[name]

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

    def group(self, number: int) -> Group:
        """Return the group of that number."""
        return self._by_number[number]

    def known(self, trial: Trial) -> Group | None:
        """Return the group of a trial, if the catalogue has the trial."""
        return self._group_of.get(trial.number)

    def groups_in(self, scenario: int) -> list[Group]:
        """Return the groups of the scenario of that number."""
        return self._in_scenario[scenario]

    def drawn_for(self, item: Item) -> Drawn | None:
        """Return what a worker has to know to find an item by its name."""
        if not self._drawn or not isinstance(item, AscentItem | TrialItem):
            return None
        return item.trial.setting.number, item.trial.setting.values

    def item(self, name: str, drawn: Drawn | None = None) -> Item:
        """Return the item of that name; `drawn` is what `drawn_for` said of it."""
        kind, _, number = name.partition("-")
        if kind == "helper":
            return self.helpers[int(number)]
        if kind == "victim":
            return VictimItem(scenario=self._plan.scenarios[int(number)])
        if drawn is not None and int(number) not in self._group_of:
            for trial in self._plan.with_setting(*drawn):
                self.add(trial)
        if kind == "ascent":
            return self.group(int(number)).item
        if self._drawn:
            return self.trial_item(self.group(int(number)).trials[0])
        return self.trial_item(self._plan.trials[int(number)])


def _lowest(axis: Axis | None) -> float | None:
    """Return the lowest value that an axis of numbers admits."""
    if axis is None:
        return None
    return axis.low if isinstance(axis, Range) else min(axis)


def _shared_by(scenario: Scenario, helper: Helper) -> object:
    """Return what two scenarios must have in common to share a helper."""
    chain: list[Helper] = [helper]
    while (needed := chain[-1].needs) is not None:
        chain.append(needed)
    tied = any(one.of_victim for one in chain)
    architecture = scenario.architecture if tied else None
    return (helper, scenario.dataset, scenario.seed, architecture)
