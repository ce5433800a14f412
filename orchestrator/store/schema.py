"""Dataclasses as plain values and tensors, and back with every type checked.

The schema of a stored result is its dataclass: names, types, ranges of numbers (``Annotated``
with an `Interval`), and, where jaxtyping says them, dtypes and ranks of tensors. A field with a
default may be absent; nothing that the dataclass does not name may be there.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from torch import Tensor

T = TypeVar("T")

OWN_NAMES = {"own_names": True}  # metadata of a field whose tensors have no field's name before


class SchemaMismatch(ValueError):  # noqa: N818 - what a stored result is, not what a program did wrong
    """Values and tensors are not what a dataclass says; the text says where."""


class _Schema(NamedTuple):
    """The fields of a dataclass by kind, each with its hint; mappings with that of an item."""

    plain: type[BaseModel]  # plain fields, and names of the tensors of each mapping
    tensors: Mapping[str, Any]
    mappings: Mapping[str, Any]
    own_names: Mapping[str, Any]


def pack(result: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a dataclass's fields as plain values and tensors.

    A tensor is named after its field. A mapping of tensors, whose order counts, becomes tensors
    named ``field/name`` and a list of the names.
    """
    kind: Any = type(result)
    schema = _schema(kind)
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in vars(result).items():
        if name in schema.tensors:
            tensors[name] = value
        elif name in schema.mappings:
            values[name] = list(value)
            tensors |= {f"{name}/{key}": tensor for key, tensor in value.items()}
        elif name in schema.own_names:
            tensors |= value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            values[name] = dataclasses.asdict(value)
        else:
            values[name] = value
    return values, tensors


def unpack(kind: type[T], values: Any, tensors: Mapping[str, Tensor]) -> T:
    """Return the dataclass that `pack` took apart. Tensors may be on torch's meta device.

    Raises:
        SchemaMismatch: Something is absent, unknown, of another type or out of range.
    """
    of_kind: Any = kind
    schema = _schema(of_kind)
    try:  # as JSON, where a list is a tuple, but no text is a number
        plain = schema.plain.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise SchemaMismatch(
            "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in problems)
        ) from None
    found = {name: getattr(plain, name) for name in plain.model_fields_set}
    left = dict(tensors)
    with jaxtyped("context"):  # a dimension of one name has one length in the whole dataclass
        for name, hint in schema.tensors.items():
            found[name] = _take(left, name, hint)
    for name in schema.mappings.keys() & found.keys():
        names = {key: f"{name}/{key}" for key in found[name]}
        found[name] = _take_all(left, names, schema.mappings[name])
    for name, hint in schema.own_names.items():
        found[name] = _take_all(left, {key: key for key in left}, hint)
    if left:
        raise SchemaMismatch(f"there are unknown tensors: {', '.join(sorted(left))}")
    return kind(**found)


def widened(kind: type[T], result: Any, **more: Any) -> T:
    """Return a result as one of a class that adds fields to its own."""
    return kind(**vars(result), **more)


def narrowed(kind: type[T], result: T) -> T:
    """Return a result as one of a class that its own adds fields to."""
    return kind(**{name: getattr(result, name) for name in get_type_hints(kind)})


@lru_cache
def _schema(kind: Any) -> _Schema:
    hints = get_type_hints(kind, include_extras=True)
    plain: dict[str, Any] = {}
    tensors, mappings, own_names = {}, {}, {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        required = field.default is field.default_factory is dataclasses.MISSING
        default = ... if required else None  # the dataclass has the true one
        if _is_tensor(hint):
            tensors[field.name] = hint
        elif not (_is_mapping(hint) and _is_tensor(get_args(hint)[1])):
            plain[field.name] = (hint, default)
        elif field.metadata.get("own_names"):
            own_names[field.name] = get_args(hint)[1]
        else:
            mappings[field.name] = get_args(hint)[1]
            plain[field.name] = (list[str], default)
    model = create_model(kind.__name__, __config__=ConfigDict(extra="forbid"), **plain)
    return _Schema(model, tensors, mappings, own_names)


def _is_tensor(hint: Any) -> bool:
    return hint is Tensor or getattr(hint, "array_type", None) is Tensor


def _is_mapping(hint: Any) -> bool:
    return isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping)


def _take_all(left: dict[str, Tensor], names: Mapping[str, str], hint: Any) -> dict[str, Tensor]:
    found = {}
    for key, name in names.items():
        with jaxtyped("context"):  # tensors of one mapping may differ in their lengths
            found[key] = _take(left, name, hint)
    return found


def _take(left: dict[str, Tensor], name: str, hint: Any) -> Tensor:
    if name not in left:
        raise SchemaMismatch(f"there is no tensor {name}")
    fits = isinstance(left[name], hint)
    if not fits:
        raise SchemaMismatch(f"the tensor {name} is {hint.dtype.__name__} of {hint.dim_str!r}")
    return left.pop(name)
