"""The grid as lists: scenarios, settings, trials, and the orders that matter."""

import itertools
import json
import random
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from orchestrator.definition import FIRST_SETTINGS, AttackChoice, Study
from orchestrator.names import attack_options, scenario_text, setting_text
from orchestrator.spec import is_excluded
from orchestrator.spec_exclude import holds
from orchestrator.spec_victim import import_path
from ulrl.attacks import Helper
from ulrl.datasets import Dataset
from ulrl.hyperparameters import Hyperparameters, assemble, preset_values
from ulrl.models import Architecture
from ulrl.poisoning import Poison

NO_VALUES = ("preset", "defence_seed")  # setting axes that are no hyper-parameters


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What makes a victim.

    Attributes:
        source: Where a pre-trained victim lies, or None: then it is trained.
    """

    number: int
    choice: AttackChoice
    dataset: Dataset
    architecture: Architecture
    poison: Poison
    seed: int
    source: str | None = None

    @cached_property
    def columns(self) -> dict[str, Any]:
        """The columns of the results that name this scenario."""
        return {
            "attack": self.choice.attack.name,
            "attack_options": json.dumps(attack_options(self.choice), sort_keys=True),
            "dataset": self.dataset.label,
            "architecture": self.architecture.label,
            "poison_ratio": self.poison.poison_ratio,
            "target_label": self.poison.target_label,
            "seed": self.seed,
        }

    @cached_property
    def helpers(self) -> tuple[Helper, ...]:
        """What is trained before the victim, what is needed first at the front."""
        helper = None if self.source is not None else self.poison.attack.helper(self.poison)
        chain: list[Helper] = []
        while helper is not None:
            chain.insert(0, helper)
            helper = helper.needs
        return tuple(chain)

    @property
    def text(self) -> str:
        """The whole scenario in one line."""
        return scenario_text(self.columns)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One value for each setting axis that the study file names.

    Attributes:
        text: The values that differ among settings, in one line for people.
    """

    number: int
    values: Mapping[str, Any]
    text: str


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One point of the grid: scenario × setting.

    Attributes:
        number: Place in the plan, from 0; the order of the results' rows.
        hyperparameters: Resolved: preset, dataset and setting together.
        defence_seed: Resolved: the setting's, or the scenario's seed.
    """

    number: int
    scenario: Scenario
    setting: Setting
    hyperparameters: Hyperparameters
    defence_seed: int

    @property
    def name(self) -> str:
        """A short name for logs and files."""
        return f"trial-{self.number:05d}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a study will do, in order.

    Attributes:
        trials: In the order of the results' rows: scenario by scenario, as in the file.
        scenario_order: Scenarios as decisions meet them: shuffled once, attacks spread, so
            that early evidence is about all of them.
        setting_order: Settings as decisions meet them: the preset's own first.
    """

    study: Study
    scenarios: tuple[Scenario, ...]
    settings: tuple[Setting, ...]
    trials: tuple[Trial, ...]
    scenario_order: tuple[int, ...]
    setting_order: tuple[int, ...]

    @cached_property
    def by_place(self) -> dict[tuple[int, int], Trial]:
        """Trials by (setting number, scenario number); excluded pairs are absent."""
        return {(t.setting.number, t.scenario.number): t for t in self.trials}

    @cached_property
    def _constant(self) -> frozenset[str]:
        """Columns in which scenarios do not differ; the attack is always worth naming."""
        columns = [scenario.columns for scenario in self.scenarios]
        return frozenset(
            name
            for name in columns[0]
            if name != "attack" and len({column[name] for column in columns}) == 1
        )

    def family_of(self, scenario: Scenario) -> str:
        """Return what tells a scenario from others of this plan, but for the seed."""
        return scenario_text(scenario.columns, self._constant | {"seed"})

    def name_of(self, scenario: Scenario) -> str:
        """Return what tells a scenario from the others of this plan."""
        return scenario_text(scenario.columns, self._constant)

    @property
    def further_axes(self) -> tuple[str, ...]:
        """Setting axes that have no column of their own."""
        return tuple(name for name in self.study.grid.settings if name not in FIRST_SETTINGS)


def make_plan(study: Study) -> Plan:
    """Expand the grid of `study`; the same study gives the same plan anywhere."""
    names = tuple(study.grid.settings)
    settings = tuple(
        Setting(
            number=number,
            values=dict(zip(names, values, strict=True)),
            text=setting_text(study, dict(zip(names, values, strict=True))),
        )
        for number, values in enumerate(itertools.product(*study.grid.settings.values()))
    )
    resolved: dict[tuple[str, int], Hyperparameters] = {}
    scenarios: list[Scenario] = []
    trials: list[Trial] = []
    for scenario in _scenarios(study):
        source = _source(study, scenario)
        numbered = replace(scenario, number=len(scenarios), source=source)
        kept = [setting for setting in settings if not _excluded(study, numbered, setting)]
        if not kept:
            continue
        scenarios.append(numbered)
        for setting in kept:
            place = (numbered.dataset.name, setting.number)
            if place not in resolved:
                resolved[place] = _resolve(study, numbered.dataset, setting)
            seed = setting.values.get("defence_seed")
            trials.append(
                Trial(
                    number=len(trials),
                    scenario=numbered,
                    setting=setting,
                    hyperparameters=resolved[place],
                    defence_seed=numbered.seed if seed is None else seed,
                )
            )
    return Plan(
        study=study,
        scenarios=tuple(scenarios),
        settings=settings,
        trials=tuple(trials),
        scenario_order=spread(scenarios),
        setting_order=_setting_order(study, settings),
    )


def spread(scenarios: list[Scenario]) -> tuple[int, ...]:
    """Return scenario numbers shuffled by a fixed seed, the attacks taking turns."""
    source = random.Random("order of scenarios")  # noqa: S311 - no secret depends on it
    groups: dict[str, list[int]] = defaultdict(list)
    for scenario in scenarios:
        columns = scenario.columns
        groups[f"{columns['attack']} {columns['attack_options']}"].append(scenario.number)
    queues = list(groups.values())
    source.shuffle(queues)
    for queue in queues:
        source.shuffle(queue)
    rounds = itertools.zip_longest(*queues)
    return tuple(number for turn in rounds for number in turn if number is not None)


def _scenarios(study: Study) -> list[Scenario]:
    grid = study.grid
    product = itertools.product(
        grid.attacks, grid.datasets, grid.architectures, grid.target_labels, grid.seeds
    )
    return [
        Scenario(
            number=0,
            choice=choice,
            dataset=dataset,
            architecture=architecture,
            poison=choice.poison(ratio, target),
            seed=seed,
        )
        for choice, dataset, architecture, target, seed in product
        for ratio in (grid.poison_ratios if choice.poison_ratio is None else (choice.poison_ratio,))
    ]


def _source(study: Study, scenario: Scenario) -> str | None:
    """Return where a scenario's victim is imported from, if victims are."""
    axes = {
        "poison_ratio": scenario.poison.poison_ratio,
        "target_label": scenario.poison.target_label,
        "seed": scenario.seed,
    }
    things = {
        "attack": scenario.choice,
        "dataset": scenario.dataset,
        "architecture": scenario.architecture,
    }
    names = {
        "attack": scenario.choice.attack.name,
        "dataset": scenario.dataset.name,
        "architecture": scenario.architecture.called,
    }
    for entry in study.imports:
        if holds(entry.conditions, things | axes):
            return import_path(entry, names | axes)
    return None


def _excluded(study: Study, scenario: Scenario, setting: Setting) -> bool:
    values = {
        "poison_ratio": scenario.poison.poison_ratio,
        "target_label": scenario.poison.target_label,
        "seed": scenario.seed,
        **setting.values,
    }
    return is_excluded(
        study.exclude, scenario.choice, scenario.dataset, scenario.architecture, values
    )


def _resolve(study: Study, dataset: Dataset, setting: Setting) -> Hyperparameters:
    values = preset_values(setting.values.get("preset", study.preset), dataset.name)
    values |= {name: value for name, value in setting.values.items() if name not in NO_VALUES}
    return assemble(values)


def _setting_order(study: Study, settings: tuple[Setting, ...]) -> tuple[int, ...]:
    """Return the preset's own setting first: as near as the axes with a choice allow."""
    own = preset_values(study.preset, study.grid.datasets[0].name)
    own |= {"preset": study.preset, "defence_seed": None}
    axes = study.grid.settings
    free = [name for name, values in axes.items() if len(values) > 1]
    if None not in axes.get("defence_seed", (None,)):
        free = [name for name in free if name != "defence_seed"]
    numbers = [setting.number for setting in settings]
    for setting in settings:
        if all(setting.values[name] == own[name] for name in free):
            numbers.remove(setting.number)
            return (setting.number, *numbers)
    return tuple(numbers)
