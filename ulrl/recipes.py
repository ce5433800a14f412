"""Named ways to train a victim, per dataset."""

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

    def config(self, dataset: str) -> VictimConfig:
        """Return the whole configuration for a dataset's name.

        BackdoorBench has values for CIFAR-10, CIFAR-100, GTSRB and Tiny-ImageNet; any
        other dataset takes CIFAR-10's.

        Raises:
            ValueError: The changes do not go with the recipe, or are out of range.
        """
        values: dict[str, Any] = {}
        if self.recipe is Recipe.BACKDOORBENCH:
            values = _BACKDOORBENCH | _BACKDOORBENCH_BY_DATASET.get(dataset, {})
            if "epochs" in self.changes and "period" not in self.changes:
                values["period"] = None  # a shorter training shall still end at 0
        return VictimConfig(**(values | dict(self.changes)))
