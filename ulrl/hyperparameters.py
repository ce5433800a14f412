"""ULRL's hyper-parameters under one flat set of names, and the presets."""

import dataclasses
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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

_KINDS: dict[type, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
_LISTS: dict[type, str] = {int: "a list of whole numbers", float: "a list of numbers"}


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
            else of_kind(name, value, _hints()[name])
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


def of_kind(name: str, value: Any, hint: Any) -> Any:
    """Return `value` as a field of a type holds it.

    As in a study file a text is no number and True is not 1, while a list stands for a tuple and
    a text for a member of a set of names. Numbers of NumPy become Python's. A type that is none
    of these has every value.

    Args:
        name: Of the field.
        value: What is given for it.
        hint: The field's type.

    Raises:
        TypeError: It is of another kind.
        ValueError: It is no member of a set of names.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    wanted: list[str] = []
    for kind in kinds:
        if kind is not type(None):
            found, rule = _of_one(name, value, kind)
            if not rule:
                return found
            wanted.append(rule)
    optional = ["None"] if type(None) in kinds else []
    raise TypeError(f"{name} is {' or '.join(wanted + optional)}; got {value!r}")


def _of_one(name: str, value: Any, kind: Any) -> tuple[Any, str]:
    """Return a value as one type holds it and nothing, or what that type holds in words."""
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return member(kind, name, value), ""
    if get_origin(kind) is Literal:
        same = any(type(value) is type(word) and value == word for word in get_args(kind))
        return value, "" if same else " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        of = get_args(kind)[0]
        if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
            return tuple(of_kind(name, one, of) for one in value), ""
        return None, _LISTS.get(of, "a list")
    if kind in _KINDS:
        found = _plain(value, kind)
        return found, _KINDS[kind] if found is None else ""
    return value, ""  # its own class knows its rules


def _plain(value: Any, kind: type) -> Any:
    """Return a value of one of `_KINDS`, or None if it is of another."""
    if isinstance(value, bool | str):
        return value if type(value) is kind else None
    if kind in (bool, str):
        return None
    if isinstance(value, Integral):
        return operator.index(value)
    return float(value) if kind is float and isinstance(value, Real) else None
