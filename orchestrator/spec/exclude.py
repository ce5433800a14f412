"""The `exclude` section: which combinations of the grid are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.spec.axes import Axes, dimension_of, read_range, value_reader
from orchestrator.spec.dump import briefly, in_line
from orchestrator.spec.entries import AXES, REGISTRIES, class_of, place_of, read_entry
from orchestrator.spec.model import SCENARIO_AXES, AttackChoice, Exclusion, is_of_ulrl, matches
from orchestrator.spec.space import DrawnMethod, Range, Span, plainly
from orchestrator.spec.validation import axis_values, written
from orchestrator.spec.yaml_tree import InvalidValue, YamlNode
from ulrl.datasets import Dataset
from ulrl.methods import ULRL
from ulrl.models import Architecture

Mask = npt.NDArray[np.bool_]  # one axis per dimension of the grid


def read_exclude(node: YamlNode | None, axes: Axes) -> tuple[tuple[Exclusion, ...], Axes]:
    """Return the exclusions, and the axes with what they leave.

    Where an exclusion is wrong, what it was meant to leave is not known: then nothing is.
    """
    left = mask_of({}, axes)
    if node is None or node.value is None:
        return (), replace(axes, left=left)
    exclusions: list[Exclusion] = []
    at_first = node.problems.count
    for entry in node.items:
        with node.problems.collecting():
            exclusion = Exclusion(conditions=read_conditions(entry, axes))
            conditions = exclusion.conditions
            matched = mask_of(conditions, axes)
            if not axes.unsound and not matched.any():
                raise InvalidValue(entry, _why_nothing(conditions, axes))
            if exclusion in exclusions:
                raise InvalidValue(entry, "the entry stands twice")
            exclusions.append(exclusion)
            # What an exclusion takes of a range leaves the rest of it.
            if not any(isinstance(axes.values(name), Range) for name in conditions):
                left &= ~matched
    if node.problems.count > at_first:
        return (), replace(axes, left=np.zeros_like(left))
    if not axes.unsound and not left.any():
        whole = "only trial" if axes.count == 1 else f"{axes.count:,} trials"
        node.note(f"nothing is left of the grid's {whole}")
    return tuple(exclusions), replace(axes, left=left)


def _why_nothing(conditions: Mapping[str, tuple[Any, ...]], axes: Axes) -> str:
    others = {name: wanted for name, wanted in conditions.items() if not is_of_ulrl(name)}
    own = next((name for name in conditions if name not in others), None)
    if own is None or not mask_of(others, axes).any():
        return "the entry matches nothing in the grid"
    return f"{own} is an axis of {ULRL}, and the entry matches other methods alone; leave {own} out"


def read_conditions(node: YamlNode, axes: Axes) -> dict[str, tuple[Any, ...]]:
    """Return the values that match by axis.

    Raises:
        InvalidValue: Something is wrong with them; all of it is noted.
    """
    if not isinstance(node.value, dict):
        raise node.invalid("a list of mappings, each from axes to values")
    if not node.value:
        raise InvalidValue(node, "the entry names no axis, so it would leave nothing")
    before = node.problems.count
    conditions = {}
    names = [
        _name_of(value) for name in REGISTRIES if name in axes.items for value in axes.column(name)
    ]
    elsewhere = partial(place_of, here="an entry of exclude", named=names)
    for name, values in node.known(AXES, elsewhere).items():
        if name not in axes.items:
            values.note(f"the grid has no axis {name}, so there is nothing to tell apart")
            continue
        column = axes.column(name) if name not in axes.unsound else ()
        read = _read_named if name in REGISTRIES else _read_numbers
        with node.problems.collecting():
            conditions[name] = read(values, name, column)
    if node.problems.count > before:
        raise InvalidValue(node, "")
    return conditions


def _read_numbers(node: YamlNode, name: str, column: Sequence[Any]) -> tuple[Any, ...]:
    """Return spans, if there are any, and single values."""
    is_setting = name not in SCENARIO_AXES
    ranged = [one for one in node.items if isinstance(one.value, dict) and is_setting]
    spans = [_read_span(one, name, column) for one in ranged]
    single = tuple(one for one in node.items if one not in ranged)
    if ranged and not single:
        return tuple(spans)
    values = axis_values(replace(node, value=single) if ranged else node, *value_reader(name))
    for place, value in values:
        if column and isinstance(column[0], Range) and column[0].count is None:
            place.note(
                f"{name} is any number of a range, so no single one is ever met; write "
                f"{{low: ..., high: ...}}"
            )
        elif column and value not in (column[0] if isinstance(column[0], Range) else column):
            place.note(f"{name} in the grid is {_there(column)}; got {written(value)}")
    return (*spans, *(value for _, value in values))


def _there(column: Sequence[Any]) -> str:
    """Return the values of an axis in words."""
    values = dict.fromkeys(one for one in column if one is not None)
    return ", ".join(one.text if isinstance(one, Range) else written(one) for one in values)


def _read_span(node: YamlNode, name: str, column: Sequence[Any]) -> Span:
    span = read_range(node, name, Span)
    meets = [
        one.low <= span.high and span.low <= one.high if isinstance(one, Range) else one in span
        for one in column
    ]
    if column and not any(meets):
        node.note(f"{name} in the grid is {_there(column)}; nothing of it is in {span.text}")
    return span


def _read_named(node: YamlNode, name: str, column: Sequence[Any]) -> tuple[Any, ...]:
    wanted: list[Any] = []
    if node.value in (None, ()):
        raise InvalidValue(node, f"{name} has no values; list at least one")
    labels = {value.label for value in column if isinstance(value, Dataset)}
    for entry in node.items:
        with node.problems.collecting():
            values = [entry.value]
            if not isinstance(entry.value, str):
                values = [item.value for item in read_entry(entry, name)]
                if any(isinstance(value, DrawnMethod) for value in values):
                    text = f"an entry of {name} is excluded by its name or by values, not by ranges"
                    raise InvalidValue(entry, text)
            elif entry.value not in labels:
                class_of(entry, entry.value, name)
            if column and not all(any(matches([v], other) for other in column) for v in values):
                raise InvalidValue(entry, f"the grid has no such {name}{_offered(entry, column)}")
            wanted += values
    return tuple(wanted)


def _offered(node: YamlNode, column: Sequence[Any]) -> str:
    """Return the end of a message about an entry that the grid lacks: those that it has."""
    names = list(dict.fromkeys(map(_name_of, column)))
    called = node.entries["name"].value if "name" in node.entries else None
    if called not in names:
        return f"; it has {', '.join(names)}"
    texts = [in_line(briefly(value)) for value in column if _name_of(value) == called]
    near = get_close_matches(in_line(node.plain), dict.fromkeys(texts), n=3, cutoff=0)
    return f"; write {' or '.join(near)}, or {called} for every variant"


def _name_of(value: Any) -> str:
    """Return the name that matches every variant of an entry."""
    if isinstance(value, AttackChoice):
        return value.attack.name
    return value.called if isinstance(value, Architecture) else str(value.name)


def way_out(axes: Axes, point: Mapping[str, Any]) -> str:
    """Return what a message says of a combination, by axis, that cannot be: how to exclude it.

    Where that would leave nothing of the grid, it is to be changed.
    """
    written_as, wanted = {}, {}
    for name, value in point.items():
        if name not in REGISTRIES:
            written_as[name], wanted[name] = plainly(value), value
            continue
        called = _name_of(value)
        variants = {id(one) for one in axes.column(name) if _name_of(one) == called}
        by_name = len(variants) == 1 or isinstance(value, DrawnMethod)
        written_as[name] = called if by_name else briefly(value)
        wanted[name] = called if by_name else value
    matched = mask_of({name: (value,) for name, value in wanted.items()}, axes)
    if not (axes.left & ~matched).any():
        return f"change {' or '.join(point)}"
    return f"exclude {in_line(written_as)}"


def mask_of(conditions: Mapping[str, tuple[Any, ...]], axes: Axes) -> Mask:
    """Return the points of the grid that meet every condition.

    Without an attack a point has neither a poison ratio nor a target label to meet one, and other
    methods than ULRL have no value on its axes. Of a range every condition meets something.
    """
    dimensions = axes.dimensions
    mask: Mask = np.ones([len(values) for values in dimensions.values()], dtype=np.bool_)
    for name, wanted in conditions.items():
        if isinstance(axes.values(name), Range):
            continue
        matching = np.array([matches(wanted, value) for value in axes.column(name)], dtype=np.bool_)
        place = dimension_of(name)
        mask &= matching.reshape([-1 if other == place else 1 for other in dimensions])
    if "target_label" in conditions:  # ratios without an attack are None, and match nothing
        mask[~np.array(axes.attacked, dtype=np.bool_)] = False
    if axes.items.get("repair") and any(map(is_of_ulrl, conditions)):
        mask &= mask_of({"repair": (ULRL,)}, axes)
    return mask
