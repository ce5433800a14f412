"""ULRL's hyper-parameters under one flat set of names, and the presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ulrl.clean import CleanConfig
from ulrl.relearning import RelearnConfig
from ulrl.resetting import ResetConfig
from ulrl.scoring import ScoreConfig, SuspectOrder, ZeroMAD
from ulrl.unlearning import UnlearnConfig


class Preset(StrEnum):
    """A complete set of values for whatever a study does not vary."""

    DEFAULT = "default"  # the method with the official code's quirks decided
    OFFICIAL = "official"  # the official code to the letter
    FINE_TUNING = "fine_tuning"  # no ULRL: BackdoorBench's plain fine-tuning, for comparison


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
# SGD at 0.01 with weight decay for a hundred epochs (Wu et al., NeurIPS 2022); no neuron is
# suspected, so nothing is reinitialised and no cosine is penalised.
_FINE_TUNING = {
    "max_suspects": 0,
    "relearn_lr": 0.01,
    "relearn_weight_decay": 5e-4,
    "relearn_epochs": 100,
    "relearn_batch_size": 256,
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
    other dataset takes CIFAR-10's. Fine-tuning has the same values everywhere.
    """
    values = {name: entry.default for name, (_, entry) in names().items()}
    if preset is Preset.FINE_TUNING:
        return values | _FINE_TUNING
    values |= _BY_DATASET.get(dataset, {})
    return values | _QUIRKS if preset is Preset.OFFICIAL else values


def assemble(values: Mapping[str, Any]) -> Hyperparameters:
    """Return the configuration with `values`, and defaults where they are silent.

    A member of a set of names may be given as its text, ``"l2"`` for `Score.L2`.

    Raises:
        ValueError: A value is out of range.
        KeyError: A name is no hyper-parameter.
    """
    known = names()
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in values.items():
        part, entry = known[name]
        usual = entry.default
        parts[part][name] = (
            _member(type(usual), name, value) if isinstance(usual, StrEnum) else value
        )
    return Hyperparameters(**{part: PARTS[part](**chosen) for part, chosen in parts.items()})


def _member(kind: type[StrEnum], name: str, value: Any) -> StrEnum:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name} is {' or '.join(kind)}; got {value!r}") from None
