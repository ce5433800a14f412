"""The points of a study: scenarios, settings, and trials, where the two meet."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from orchestrator.definition import AttackChoice, Normalisation, Study, attack_options
from orchestrator.names import scenario_text
from orchestrator.spec import is_excluded
from ulrl.attacks import Helper
from ulrl.datasets import Dataset, Treatment
from ulrl.hyperparameters import Hyperparameters, assemble, preset_values
from ulrl.models import Architecture
from ulrl.poisoning import Poison

NO_VALUES = ("preset", "defence_seed")  # setting axes that are no hyper-parameters


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What makes a victim.

    Attributes:
        source: Where a pre-trained victim lies, or None: then it is trained.
        normalisation: What a pre-trained victim was trained with, if the study says so.
    """

    number: int
    choice: AttackChoice
    dataset: Dataset
    architecture: Architecture
    poison: Poison
    seed: int
    source: str | None = None
    normalisation: Normalisation | None = None

    @property
    def treatment(self) -> Treatment:
        """How images become the network's input."""
        own = self.dataset.treatment
        return own if self.normalisation is None else self.normalisation.of(own)

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
        number: Of a grid, the place in the plan and among the results' rows, from 0; where
            settings are drawn, that of the setting × scenarios + that of the scenario.
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

    @cached_property
    def key(self) -> str:
        """What names the trial in MLflow, whatever its number in a changed grid."""
        values = {name: str(value) for name, value in self.setting.values.items()}
        point = {**self.scenario.columns, **values, "defence_seed": self.defence_seed}
        return json.dumps(point, sort_keys=True)


def trial_of(
    study: Study,
    number: int,
    scenario: Scenario,
    setting: Setting,
    resolved: dict[str, Hyperparameters],
) -> Trial:
    """Return a point of the study; `resolved` keeps the setting's values by dataset."""
    dataset = scenario.dataset
    if dataset.name not in resolved:
        resolved[dataset.name] = _resolve(study, dataset, setting)
    seed = setting.values.get("defence_seed")
    return Trial(
        number=number,
        scenario=scenario,
        setting=setting,
        hyperparameters=resolved[dataset.name],
        defence_seed=scenario.seed if seed is None else seed,
    )


def is_left_out(study: Study, scenario: Scenario, setting: Setting | None) -> bool:
    """Whether a trial is left out; without a setting, whether all of a scenario's are."""
    values = {
        "poison_ratio": scenario.poison.poison_ratio,
        "target_label": scenario.poison.target_label,
        "seed": scenario.seed,
        **({} if setting is None else setting.values),
    }
    exclusions = [
        one
        for one in study.exclude
        if setting is not None or not one.conditions.keys() & study.grid.settings
    ]
    return is_excluded(exclusions, scenario.choice, scenario.dataset, scenario.architecture, values)


def _resolve(study: Study, dataset: Dataset, setting: Setting) -> Hyperparameters:
    values = preset_values(setting.values.get("preset", study.preset), dataset.name)
    values |= {name: value for name, value in setting.values.items() if name not in NO_VALUES}
    return assemble(values)
