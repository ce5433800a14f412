"""Named ways to train a victim, per dataset and attack."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ulrl.precision import Precision
from ulrl.supervised import VictimConfig, VictimSchedule


class Recipe(StrEnum):
    """A complete way of training, for whatever a study does not say itself."""

    FAST = "fast"  # `VictimConfig`'s defaults: a high rate in one cycle, few epochs
    BACKDOORBENCH = "backdoorbench"  # BackdoorBench v2's: a low rate for a hundred epochs


_BACKDOORBENCH: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "lr": 0.01,
    "schedule": VictimSchedule.COSINE,
    "period": 100,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "drop_last": True,
    "precision": Precision.FP32,
}
# Its own numbers for datasets: on GTSRB the cosine keeps its period and ends half-way.
_BACKDOORBENCH_BY_DATASET: dict[str, dict[str, Any]] = {
    "gtsrb": {"epochs": 50},
    "tiny_imagenet": {"epochs": 200, "schedule": VictimSchedule.PLATEAU, "period": None},
}
# Attacks that train the victim themselves have a loop of their own there, whose rate falls at
# epochs 100, 200, ... on every dataset, and which keeps the last short batch.
_OWN_LOOP: dict[str, Any] = {
    "schedule": VictimSchedule.STEPS,
    "period": 100,
    "drop_last": False,
}
_BACKDOORBENCH_BY_ATTACK: dict[str, dict[str, Any]] = {
    "wanet": _OWN_LOOP,
    "bpp": _OWN_LOOP,
    "input_aware": _OWN_LOOP,
    "lira": {**_OWN_LOOP, "epochs": 50, "period": 50},  # after 50 along with the generator
}
_MASK_EPOCHS = 25  # of the dataset's epochs, input-aware spends these on its mask network


@dataclass(frozen=True, kw_only=True)
class VictimRecipe:
    """How a study's victims are trained.

    Attributes:
        recipe: What holds where nothing else is said.
        changes: Fields of `VictimConfig` that the study sets itself, for every dataset.
    """

    recipe: Recipe = Recipe.FAST
    changes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, **changes: Any) -> "VictimRecipe":
        """Return the fast recipe with some fields changed."""
        return cls(changes=changes)

    def config(self, dataset: str, attack: str) -> VictimConfig:
        """Return the whole configuration for the names of a dataset and of an attack.

        BackdoorBench has values for CIFAR-10, CIFAR-100, GTSRB and Tiny-ImageNet; any
        other dataset takes CIFAR-10's. It trains WaNet, BPP, LIRA and input-aware in loops
        of their own, whose rate, epochs and last batch are followed here. The augmentation of
        the first three is not: docs/attack-options.md says what it is there.

        Raises:
            ValueError: The changes do not go with the recipe, or are out of range.
        """
        values: dict[str, Any] = {}
        if self.recipe is Recipe.BACKDOORBENCH:
            values = _BACKDOORBENCH | _BACKDOORBENCH_BY_DATASET.get(dataset, {})
            values |= _BACKDOORBENCH_BY_ATTACK.get(attack, {})
            if attack == "input_aware":
                values["epochs"] -= _MASK_EPOCHS
            if "epochs" in self.changes and "period" not in self.changes:
                values["period"] = None  # a shorter training shall still end at 0
        return VictimConfig(**(values | dict(self.changes)))
