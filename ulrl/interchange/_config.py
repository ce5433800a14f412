"""``config.json`` of an exported model: how its network is built and fed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

from torch import Tensor

from ulrl.datasets import Preprocessing
from ulrl.interchange._refusal import ImportRefused, reason_of, shown
from ulrl.interchange._state import sketch_of
from ulrl.models import ARCHITECTURES, Architecture, ModelSpec
from ulrl.models._resize import Resize

FORMAT, VERSION = "ulrl-model", 1
INNER = "1."  # where a network lies that has a resize in front

Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Inner:
    """The part of a network that others know by its own names.

    Attributes:
        prefix: What comes before those names in ours.
        side: To which images are resized in front of it, in pixels; None for not at all.
    """

    prefix: str
    side: int | None


def inner_of(model_spec: ModelSpec) -> Inner:
    """Return which part of the network is exported."""
    first = next(sketch_of(model_spec).children(), None)
    if isinstance(first, Resize):
        return Inner(prefix=INNER, side=first.side)
    return Inner(prefix="", side=None)


def config_of(model_spec: ModelSpec, inner: Inner) -> Config:
    """Return the plain values that `model_spec_of` reads, and more for other programs."""
    preprocessing = model_spec.preprocessing
    return {
        "format": FORMAT,
        "version": VERSION,
        "architecture": model_spec.architecture.name,
        "options": shape_options(model_spec.architecture),
        "num_classes": model_spec.classes,
        "channels": model_spec.channels,
        "side": model_spec.side,
        "resize": inner.side,
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
        "padding": preprocessing.padding,
        "flip": preprocessing.flip,
        "head": model_spec.head.removeprefix(inner.prefix),
    }


def shape_options(architecture: Architecture) -> Config:
    """Return the options that shape a network: not what its training started from."""
    entry: Any = architecture  # a dataclass, as each final architecture is
    return {
        field.name: getattr(entry, field.name)
        for field in fields(entry)
        if not field.metadata.get("runtime")
    }


def model_spec_of(config: object, source: str) -> ModelSpec:
    """Return the specification that ``config.json`` describes; `source` begins each message.

    Raises:
        ImportRefused: It is of another format, or a value is not what it should be.
    """
    if not isinstance(config, Mapping) or config.get("format") != FORMAT:
        raise ImportRefused(f"{source} does not say format: {FORMAT}; export the model again")
    if config.get("version") != VERSION:
        raise ImportRefused(
            f"{source} has version {shown(config.get('version'))}, and this program reads "
            f"{VERSION}; use the program that wrote it"
        )
    try:
        return ModelSpec(
            architecture=_architecture(config),
            classes=_whole(config, "num_classes", 2),
            channels=_whole(config, "channels", 1),
            side=_whole(config, "side", 1),
            preprocessing=Preprocessing(
                mean=_per_channel(config, "mean"),
                std=_per_channel(config, "std"),
                padding=_whole(config, "padding", 0),
                flip=config.get("flip") is True,
            ),
        )
    except (TypeError, ValueError) as error:
        raise ImportRefused(f"{source}: {reason_of(error)}; export the model again") from error


def with_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


def _architecture(config: Mapping[Any, Any]) -> Architecture:
    name, options = config.get("architecture"), config.get("options")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ValueError(f"architecture is one of {', '.join(ARCHITECTURES)}; got {shown(name)}")
    if not isinstance(options, Mapping):
        raise TypeError(f"options is a dict; got {shown(options)}")
    kind: Any = ARCHITECTURES[name]
    known = {field.name for field in fields(kind) if not field.metadata.get("runtime")}
    if unknown := [shown(option) for option in options if option not in known]:
        raise ValueError(f"{name} has no option {unknown[0]}")
    architecture: Architecture = kind(**options)
    return architecture


def _whole(config: Mapping[Any, Any], key: str, least: int) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 10**6:
        raise ValueError(f"{key} is a whole number, at least {least}; got {shown(value)}")
    return value


def _per_channel(config: Mapping[Any, Any], key: str) -> tuple[float, ...]:
    values, channels = config.get(key), config.get("channels")
    sound = isinstance(values, list) and len(values) == channels
    if not sound or not all(isinstance(v, float | int) and isfinite(v) for v in values or ()):
        raise ValueError(f"{key} is one finite number per channel; got {shown(values)}")
    return tuple(float(value) for value in values or ())


def as_json(config: Config) -> str:
    return json.dumps(config, indent=2, allow_nan=False) + "\n"
