"""Dataclasses as plain values and tensors, and back with every type checked.

The schema of a stored result is its dataclass: names, types, ranges of numbers (``Annotated``
with an `Interval`), and, where jaxtyping says them, dtypes and ranks of tensors. A field with a
default may be absent; nothing that the dataclass does not name may be there.
"""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from jaxtyping import jaxtyped
from torch import Tensor

from ulrl.ranges import Interval

T = TypeVar("T")

_ABSENT = object()
OWN_NAMES = {"own_names": True}  # metadata of a field whose tensors have no field's name before


class SchemaMismatch(ValueError):  # noqa: N818 - what a stored result is, not what a program did wrong
    """Values and tensors are not what a dataclass says; the text says where."""


def pack(result: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a dataclass's fields as plain values and tensors.

    A tensor is named after its field. A mapping of tensors, whose order counts, becomes tensors
    named ``field/name`` and a list of the names; the fields of a dataclass in it are named
    ``field/inner``.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    kind: Any = type(result)
    for field, hint in _fields(kind):
        name, value = field.name, getattr(result, field.name)
        if isinstance(value, Tensor):
            tensors[name] = value
        elif _holds_tensors(hint):
            prefix = "" if field.metadata.get("own_names") else f"{name}/"
            tensors |= {f"{prefix}{key}": tensor for key, tensor in value.items()}
            if prefix:
                values[name] = list(value)
        elif dataclasses.is_dataclass(value):
            values[name], inner = pack(value)
            tensors |= {f"{name}/{key}": tensor for key, tensor in inner.items()}
        else:
            values[name] = value
    return values, tensors


def unpack(kind: type[T], values: Any, tensors: Mapping[str, Tensor]) -> T:
    """Return the dataclass that `pack` took apart. Tensors may be on torch's meta device.

    Raises:
        SchemaMismatch: Something is absent, unknown, of another type or out of range.
    """
    left = dict(tensors)
    made: T = _unpack(kind, values, left, "")
    if left:
        raise SchemaMismatch(f"there are unknown tensors: {', '.join(sorted(left))}")
    return made


def widened(kind: type[T], result: Any, **more: Any) -> T:
    """Return a result as one of a class that adds fields to its own."""
    return kind(**{name: getattr(result, name) for name in _names_of(type(result))}, **more)


def narrowed(kind: type[T], result: T) -> T:
    """Return a result as one of a class that its own adds fields to."""
    return kind(**{name: getattr(result, name) for name in _names_of(kind)})


def _unpack(kind: Any, values: Any, left: dict[str, Tensor], before: str) -> Any:
    """Make a dataclass from its values and from tensors whose names begin with `before`."""
    if not isinstance(values, dict):
        raise SchemaMismatch(f"{before.rstrip('/') or 'the content'} is a mapping")
    rest = dict(values)
    own_names = [pair for pair in _fields(kind) if pair[0].metadata.get("own_names")]
    named = [pair for pair in _fields(kind) if pair not in own_names]
    found: dict[str, Any] = {}
    for field, hint in named:
        value = _field(hint, field.name, rest, left, before)
        if value is not _ABSENT:
            found[field.name] = value
    for field, hint in own_names:  # all that is left
        found[field.name] = dict(left)
        _check_all(left, _item(hint))
        left.clear()
    if rest:
        raise SchemaMismatch(
            f"there are unknown values: {', '.join(f'{before}{key}' for key in rest)}"
        )
    if missing := [name for name in _required(kind) if name not in found]:
        raise SchemaMismatch(f"there is no {before}{missing[0]}")
    with jaxtyped("context"):  # a dimension of one name has one length in the whole dataclass
        for field, hint in named:
            if isinstance(found.get(field.name), Tensor):
                _check(f"{before}{field.name}", _not_none(hint), found[field.name])
    return kind(**found)


def _field(
    whole: Any, name: str, rest: dict[str, Any], left: dict[str, Tensor], before: str
) -> Any:
    """Take a field out of the values and tensors that are left."""
    place, hint = f"{before}{name}", _not_none(whole)
    if _is_tensor(hint) and place in left:
        return left.pop(place)
    if name not in rest:
        return _ABSENT
    value = rest.pop(name)
    if value is None and hint is not whole:
        return None
    if _holds_tensors(hint):
        tensors = {key: _take(left, f"{place}/{key}") for key in _names(value, place)}
        _check_all({f"{place}/{key}": one for key, one in tensors.items()}, _item(hint))
        return tensors
    if dataclasses.is_dataclass(hint):
        return _unpack(hint, value, left, f"{place}/")
    return _value(hint, value, place)


def _value(hint: Any, value: Any, place: str) -> Any:
    """Return a plain value as its type says: lists become tuples, whole numbers floats."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _in_range(_value(parts[0], value, place), parts[1:], place)
    if origin in (Union, types.UnionType):
        return _any_of(parts, value, place)
    if origin is tuple:
        return _items(parts, value, place)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(parts[1], value, place)
    if dataclasses.is_dataclass(hint):
        return _unpack(hint, value, {}, f"{place}/")
    return _single(hint, value, place)


def _single(hint: Any, value: Any, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        if value not in [member.value for member in hint]:
            raise SchemaMismatch(f"{place} is no {hint.__name__}")
        return hint(value)
    if type(value) is not hint:
        raise SchemaMismatch(f"{place} is of type {getattr(hint, '__name__', hint)}")
    return value


def _in_range(value: Any, rules: Sequence[Any], place: str) -> Any:
    for rule in rules:
        if isinstance(rule, Interval) and value not in rule:
            raise SchemaMismatch(f"{place} is {rule}; got {value}")
    return value


def _mapping(hint: Any, value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemaMismatch(f"{place} is a mapping")
    return {key: _value(hint, one, f"{place}.{key}") for key, one in value.items()}


def _any_of(hints: Sequence[Any], value: Any, place: str) -> Any:
    for hint in hints:
        try:
            return _value(hint, value, place)
        except SchemaMismatch:
            continue
    raise SchemaMismatch(f"{place} is of none of its types")


def _items(hints: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise SchemaMismatch(f"{place} is a list")
    each = (hints[0],) * len(value) if hints[1:] == (...,) else hints
    if len(each) != len(value):
        raise SchemaMismatch(f"{place} has {len(each)} items")
    pairs = enumerate(zip(each, value, strict=True))
    return tuple(_value(hint, one, f"{place}.{number}") for number, (hint, one) in pairs)


def _names(value: Any, place: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise SchemaMismatch(f"{place} is a list of names")
    return value


def _take(left: dict[str, Tensor], name: str) -> Tensor:
    if name not in left:
        raise SchemaMismatch(f"there is no tensor {name}")
    return left.pop(name)


def _check_all(tensors: Mapping[str, Tensor], hint: Any) -> None:
    for name, tensor in tensors.items():
        with jaxtyped("context"):  # tensors of one mapping may differ in their lengths
            _check(name, hint, tensor)


def _check(name: str, hint: Any, tensor: Tensor) -> None:
    if not isinstance(tensor, hint):
        raise SchemaMismatch(f"the tensor {name} is {hint.dtype.__name__} of {hint.dim_str!r}")


@lru_cache
def _fields(kind: Any) -> tuple[tuple[Any, Any], ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple((field, hints[field.name]) for field in dataclasses.fields(kind) if field.init)


def _names_of(kind: Any) -> list[str]:
    return [field.name for field, _ in _fields(kind)]


@lru_cache
def _required(kind: Any) -> tuple[str, ...]:
    absent = dataclasses.MISSING
    return tuple(
        field.name
        for field, _ in _fields(kind)
        if field.default is absent and field.default_factory is absent
    )


def _not_none(hint: Any) -> Any:
    """Return what a field holds that may also be None; any other hint as it is."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, types.UnionType) and len(parts) == 2 and type(None) in parts:
        return parts[0] if parts[1] is type(None) else parts[1]
    return hint


def _is_tensor(hint: Any) -> bool:
    return hint is Tensor or getattr(hint, "array_type", None) is Tensor


def _holds_tensors(hint: Any) -> bool:
    origin = get_origin(hint)
    return (
        isinstance(origin, type) and issubclass(origin, Mapping) and _is_tensor(get_args(hint)[1])
    )


def _item(hint: Any) -> Any:
    return get_args(hint)[1]
