"""ULRL's hyper-parameters under one flat set of names, and the presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ulrl.clean import CleanConfig
from ulrl.relearning import RelearnConfig, ResetConfig
from ulrl.scoring import ScoreConfig, SuspectOrder, ZeroMAD
from ulrl.unlearning import UnlearnConfig


class Preset(StrEnum):
    """A complete set of values for whatever a study does not vary."""

    DEFAULT = "default"  # the method with the official code's quirks decided
    OFFICIAL = "official"  # the official code to the letter


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Every hyper-parameter of ULRL; no name occurs twice among the parts."""

    clean: CleanConfig = field(default_factory=CleanConfig)
    unlearn: UnlearnConfig = field(default_factory=UnlearnConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    reset: ResetConfig = field(default_factory=ResetConfig)
    relearn: RelearnConfig = field(default_factory=RelearnConfig)


PARTS: dict[str, type] = {
    "clean": CleanConfig,
    "unlearn": UnlearnConfig,
    "score": ScoreConfig,
    "reset": ResetConfig,
    "relearn": RelearnConfig,
}

# The official configuration files of these datasets all but switch the cosine term off.
_GENTLE = {"relearn_lr": 0.001, "alpha": 0.001}
_BY_DATASET = {"cifar100": _GENTLE, "gtsrb": _GENTLE, "tiny_imagenet": _GENTLE}
_QUIRKS = {
    "suspect_order": SuspectOrder.INDEX,
    "zero_mad": ZeroMAD.INFINITE,
    "batchnorm_updates": 2,
}


def names() -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """Return the part and the field of every hyper-parameter, by its name."""
    return {
        entry.name: (part, entry)
        for part, config in PARTS.items()
        for entry in dataclasses.fields(config)
    }


def preset_values(preset: Preset, dataset: str) -> dict[str, Any]:
    """Return the value of every hyper-parameter in `preset` for a dataset's name.

    The official code has values for CIFAR-10, CIFAR-100, GTSRB and Tiny-ImageNet; any
    other dataset takes CIFAR-10's.
    """
    values = {name: entry.default for name, (_, entry) in names().items()}
    values |= _BY_DATASET.get(dataset, {})
    if preset is Preset.OFFICIAL:
        values |= _QUIRKS
    return values


def assemble(values: Mapping[str, Any]) -> Hyperparameters:
    """Return the configuration with `values`, and defaults where they are silent.

    Raises:
        ValueError: A value is out of range.
        KeyError: A name is no hyper-parameter.
    """
    known = names()
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in values.items():
        parts[known[name][0]][name] = value
    return Hyperparameters(**{part: PARTS[part](**chosen) for part, chosen in parts.items()})
