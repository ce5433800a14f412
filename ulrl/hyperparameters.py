"""ULRL's hyper-parameters under one flat set of names, and the presets."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ulrl.clean import CleanConfig
from ulrl.messages import nearest
from ulrl.relearning import RelearnConfig
from ulrl.scoring import ScoreConfig, SuspectOrder, ZeroMAD
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import ResetConfig


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
        TypeError: A value is of another kind, such as a text for a number.
        KeyError: A name is no hyper-parameter.
    """
    known = names()
    parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
    for name, value in values.items():
        part, entry = known[name]
        usual = entry.default
        parts[part][name] = (
            member(type(usual), name, value)
            if isinstance(usual, StrEnum)
            else _of_kind(name, value, _hints()[name])
        )
    return Hyperparameters(**{part: PARTS[part](**chosen) for part, chosen in parts.items()})


def member(kind: type[StrEnum], name: str, value: Any) -> StrEnum:
    """Return the member of a set of names that `value` is, or is the text of.

    Raises:
        ValueError: There is no such member.
    """
    try:
        return kind(value)
    except ValueError:
        near = nearest(value, kind)
        raise ValueError(f"{name} is {' or '.join(kind)}; got {value!r}{near}") from None


@lru_cache(maxsize=1)
def _hints() -> dict[str, Any]:
    """Return the type of every hyper-parameter."""
    return {name: hint for part in PARTS.values() for name, hint in get_type_hints(part).items()}


def _of_kind(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as its hyper-parameter holds it; numbers of NumPy become Python's."""
    kinds = {hint, *get_args(hint)}
    if value is None and type(None) in kinds:
        return None
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if any(get_origin(one) is tuple for one in kinds):
        words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
        listed = isinstance(value, Iterable) and not isinstance(value, str)
        if listed or value in words:
            return tuple(_of_kind(name, one, int) for one in value) if listed else value
        kind = " or ".join(("a list of whole numbers", *words))
    elif bool in kinds:
        if isinstance(value, bool):
            return value
        kind = "True or False"
    elif float in kinds:
        if whole:
            return operator.index(value)
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
        kind = "a number"
    else:
        if whole:
            return operator.index(value)
        kind = "a whole number"
    optional = " or None" if type(None) in kinds else ""
    raise TypeError(f"{name} is {kind}{optional}; got {value!r}")
