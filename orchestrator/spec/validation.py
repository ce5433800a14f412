"""Values of a study file as pydantic reads them, and its errors in this project's words."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeAlias, get_args, get_origin, get_type_hints

from pydantic import BaseModel, TypeAdapter, ValidationError

from orchestrator.spec.rules import RuleError, nearest
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, YamlNode

Reader: TypeAlias = Callable[[YamlNode], Any]
_RULES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
}


_EMPTY = "the key has no value; write one, or leave the key out"


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint)


def read(node: YamlNode, hint: Any) -> Any:
    """Return a node's value as a type wants it; a scalar is a list of one, an empty section {}.

    Pydantic's strict JSON mode has the types of a study file: a text is no number, true is
    not 1, while names stand for members of enums and lists for tuples.

    Raises:
        InvalidValue: With every problem of the value.
    """
    if empty := [(part, _EMPTY) for part in node.inner() if part.value is None]:
        raise InvalidValue(*empty[0], *empty[1:])
    plain = node.plain
    if plain is None and is_dataclass(hint):
        plain = {}  # an empty section
    if get_origin(hint) is tuple and not isinstance(plain, list):
        plain = [plain]
    try:
        return _adapter(hint).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        raise _invalid(node, hint, error) from None


def _invalid(node: YamlNode, hint: Any, error: ValidationError) -> InvalidValue:
    """Return pydantic's errors as problems; those of a union are one rule with "or"."""
    lines: list[tuple[YamlNode, str]] = []
    rules: dict[str, tuple[YamlNode, dict[str, str]]] = {}
    for one in error.errors(include_url=False):
        loc, kind, context = one["loc"], one["type"], one.get("ctx", {})
        at = node.at(loc)
        if kind == "missing":
            lines.append((node.at(loc[:-1]).child(str(loc[-1]), None), "this key is required"))
        elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
            end = nearest(loc[-1], _keys_of(hint, loc[:-1]), "the keys are")
            lines.append((at, f"unknown key{end}"))
        elif kind == "value_error" and not isinstance(context["error"], RuleError):
            text = str(context["error"])
            lines.append((named_in(text, at), text))
        else:
            rule, end = _rule(at, kind, context)
            rules.setdefault(at.path, (at, {}))[1][rule] = end
    for at, ends in rules.values():
        lines += at.invalid(" or ".join(ends), next(iter(ends.values()))).problems
    return InvalidValue(*lines[0], *lines[1:])


def _rule(node: YamlNode, kind: str, context: dict[str, Any]) -> tuple[str, str]:
    """Return what a value should have been, and the end of its message."""
    if kind == "value_error":
        return context["error"].rule, context["error"].end
    if expected := context.get("expected", "").replace("'", ""):
        is_text = isinstance(node.value, str)
        names = expected.replace(" or ", ", ").split(", ")
        return expected, nearest(node.value, names) if is_text else ""
    bounds = {key: f"{bound:,.12g}" for key, bound in context.items() if key != "class_name"}
    is_number = kind == "string_type" and isinstance(node.value, int | float)
    return _RULES[kind].format(**bounds), "; quote it to make it one" if is_number else ""


def _keys_of(hint: Any, loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the dataclass or model inside `hint` that a location leads to."""
    for key in loc:
        hint = get_type_hints(hint)[str(key)] if is_dataclass(hint) else get_args(hint)[-1]
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return list(hint.model_fields)
    return [part.name for part in fields(hint)]


def named_in(text: str, node: YamlNode) -> YamlNode:
    """Return the entry whose key a message names first, or the node where it names none."""
    keys = [word.strip(",;:") for word in text.split()]
    return next((node.entries[key] for key in keys if key in node.entries), node)


@contextmanager
def rules_of(node: YamlNode) -> Iterator[None]:
    """Let a broken rule of a dataclass that is made inside be a problem of the entry it names."""
    try:
        yield
    except ValueError as error:
        raise InvalidValue(named_in(str(error), node), str(error)) from error


def field_reader(owner: type[Any], name: str) -> tuple[Reader, Any]:
    """Return the reader of one field of a dataclass whose rules `owner` knows, and its type."""
    hint = get_type_hints(owner)[name]

    def checked(node: YamlNode) -> Any:
        value = read(node, hint)
        try:
            owner(**{name: value})
        except ValueError as error:
            # A rule about several fields names another first, and waits for them all.
            if str(error).startswith(name):
                raise InvalidValue(node, str(error)) from error
        return value

    return checked, hint


def axis_values(node: YamlNode, reader: Reader, hint: Any) -> list[tuple[YamlNode, Any]]:
    """Return the values of one key that may list several, each with its place.

    A scalar is a list of one. Where each value is a list of its own, a flat list is one
    value; where it may be a list or a word, a flat list of numbers is. What is wrong, empty or
    there twice is noted and left out.
    """
    nodes = node.items
    is_list = get_origin(hint) is tuple
    if is_list and nodes and not any(isinstance(item.value, tuple) for item in nodes):
        nodes = (node,)
    may_be_list = any(get_origin(kind) is tuple for kind in get_args(hint))
    if may_be_list and nodes and all(type(item.value) is int for item in nodes):
        nodes = (node,)
    if not nodes or (node.value is None and type(None) not in get_args(hint)):
        node.note(f"{node.name} has no values; list at least one")
        return []
    places: dict[Any, YamlNode] = {}
    for item in nodes:
        with node.problems.collecting():
            if item.value is UNREADABLE:
                raise item.invalid("")
            value = reader(item)
            if value in places:
                first = places[value].path
                raise InvalidValue(item, f"{written(value)} stands twice; first at {first}")
            places[value] = item
    return [(item, value) for value, item in places.items()]


def written(value: Any) -> str:
    """Return a value as one would write it in the file."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
