"""The `exclude` section: which combinations of the grid are left out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.spec.axes import (
    AXES,
    KINDS,
    Axes,
    class_of,
    dimension_of,
    read_entry,
    value_reader,
)
from orchestrator.spec.model import SCENARIO_AXES, AttackChoice, Exclusion
from orchestrator.spec.search_section import read_span
from orchestrator.spec.space import Range, Span
from orchestrator.spec.validation import axis_values, fail, items, known, plainly
from orchestrator.spec.yaml_tree import InvalidValue, Problems, YamlNode
from ulrl.datasets import Dataset
from ulrl.models import Architecture

Mask = npt.NDArray[np.bool_]  # one axis per dimension of the grid


def is_excluded(
    exclusions: Sequence[Exclusion],
    attack: AttackChoice,
    dataset: Dataset,
    architecture: Architecture,
    values: Mapping[str, Any],
) -> bool:
    """Return whether any exclusion leaves a combination out.

    Args:
        exclusions: As the study has them.
        attack: An entry of the axis, as are the next two.
        dataset: See `attack`.
        architecture: See `attack`.
        values: Poison ratio (the attack's own where it has one), target label, seed, and
            the value of every setting axis that the grid names.
    """
    point = {"attack": attack, "dataset": dataset, "architecture": architecture, **values}
    return any(holds(exclusion.conditions, point) for exclusion in exclusions)


def holds(conditions: Mapping[str, Sequence[Any]], point: Mapping[str, Any]) -> bool:
    """Return whether a point of the grid, by axis, meets every condition."""
    return all(_matches(wanted, point[axis]) for axis, wanted in conditions.items())


def _matches(wanted: Sequence[Any], value: Any) -> bool:
    """Whether one of the wanted values is this one, or is its name."""
    if isinstance(value, AttackChoice):
        return value in wanted or value.attack.name in wanted
    if isinstance(value, Dataset):
        return value in wanted or value.name in wanted
    if isinstance(value, Architecture):
        return value in wanted or value.called in wanted or value.name in wanted
    return value in wanted or any(isinstance(one, Span) and value in one for one in wanted)


def read_exclude(
    node: YamlNode | None, axes: Axes, found: Problems
) -> tuple[tuple[Exclusion, ...], Mask]:
    """Return the exclusions, and which points of the grid they leave.

    Where an exclusion is wrong, what it was meant to leave is not known: then nothing is.
    """
    exclusions = []
    at_first = len(found)
    nothing: dict[str, tuple[Any, ...]] = {}
    kept = np.ones([len(values) for values in axes.dimensions.values()], dtype=np.bool_)
    for entry in () if node is None or node.value is None else items(node):
        before = len(found)
        conditions = found.read(entry, partial(read_conditions, axes=axes, found=found), nothing)
        exclusion = Exclusion(conditions=conditions)
        # What an exclusion takes of a range leaves the rest of it.
        listed = {name: one for name, one in conditions.items() if not axes.by_name[name].range}
        matched = mask_of(listed, axes) if conditions else np.zeros_like(kept)
        if len(found) == before and axes.is_sound() and not matched.any():
            found.add(entry, "the entry matches nothing in the grid")
        if exclusion in exclusions and conditions:
            found.add(entry, "the entry stands twice")
        if len(found) == before:
            exclusions.append(exclusion)
            if len(listed) == len(conditions):
                kept &= ~matched
    if len(found) > at_first:
        return (), np.zeros_like(kept)
    if node is not None and axes.is_sound() and not kept.any():
        found.add(node, f"nothing is left of the grid's {axes.count:,} trials")
    return tuple(exclusions), kept


def read_conditions(node: YamlNode, axes: Axes, found: Problems) -> dict[str, tuple[Any, ...]]:
    if not isinstance(node.value, dict):
        raise fail(node, "a list of mappings, each from axes to values")
    if not node.value:
        raise InvalidValue(node, "the entry names no axis, so it would leave nothing")
    given = known(node.value, AXES, found, "no axis is called {!r}", "there are")
    conditions = {}
    for name, values in given.items():
        if name not in axes.by_name:
            found.add(values, f"the grid has no axis {name}, so there is nothing to tell apart")
            continue
        column = axes.column(name) if axes.is_sound(name) else ()
        if name in KINDS:
            conditions[name] = _read_named(values, name, column, found)
            continue
        spans = (
            [] if name in SCENARIO_AXES else [v for v in items(values) if isinstance(v.value, dict)]
        )
        single = replace(values, value=tuple(v for v in items(values) if v not in spans))
        conditions[name] = (
            *(_read_span(span, name, column, found) for span in spans),
            *(_read_values(single if spans else values, name, column, found)),
        )
    return conditions


def _read_values(
    node: YamlNode, name: str, column: Sequence[Any], found: Problems
) -> tuple[Any, ...]:
    if node.value == ():
        return ()
    values = axis_values(node, *value_reader(name), found)
    for place, value in values:
        if column and isinstance(column[0], Range):
            _check_on_range(place, name, column[0], value, found)
        elif column and value not in column:
            there = ", ".join(plainly(other) for other in dict.fromkeys(column))
            found.add(place, f"{name} in the grid is {there}; got {plainly(value)}")
    return tuple(value for _, value in values)


def _check_on_range(node: YamlNode, name: str, axis: Range, value: Any, found: Problems) -> None:
    if axis.count is None:
        found.add(
            node,
            f"{name} is any number of a range, so no single one is ever met; write "
            f"{{low: ..., high: ...}}",
        )
    elif value not in axis:
        found.add(node, f"{name} in the grid is {axis.text}; got {plainly(value)}")


def _read_span(node: YamlNode, name: str, column: Sequence[Any], found: Problems) -> Span:
    """Return values from one to another."""
    reader, _ = value_reader(name)
    span = read_span(node, reader, found)
    first = column[0] if column else None
    if isinstance(first, Range):
        if span.high < first.low or span.low > first.high:
            found.add(node, f"{name} in the grid is {first.text}; nothing of it is in {span.text}")
    elif column and not any(value in span for value in column):
        there = ", ".join(plainly(other) for other in dict.fromkeys(column))
        found.add(node, f"{name} in the grid is {there}; nothing of it is in {span.text}")
    return span


def _read_named(
    node: YamlNode, name: str, column: Sequence[Any], found: Problems
) -> tuple[Any, ...]:
    kind = KINDS[name]
    wanted: list[Any] = []
    for entry in items(node):
        with found.collecting():
            values = [entry.value]
            if isinstance(entry.value, str):
                class_of(entry, entry.value, kind)
            else:
                values = [item.value for item in read_entry(entry, kind, found)]
            for value in values:
                if column and not any(_matches([value], other) for other in column):
                    found.add(entry, f"the grid has no such {name}")
            wanted += values
    if not wanted and node.value in (None, ()):
        found.add(node, f"{name} has no values; list at least one")
    return tuple(wanted)


def mask_of(conditions: Mapping[str, tuple[Any, ...]], axes: Axes) -> Mask:
    """Return the points of the grid that meet every condition."""
    dimensions = axes.dimensions
    mask: Mask = np.ones([len(values) for values in dimensions.values()], dtype=np.bool_)
    for name, wanted in conditions.items():
        matching = np.array(
            [_matches(wanted, value) for value in axes.column(name)], dtype=np.bool_
        )
        place = dimension_of(name)
        mask &= matching.reshape([-1 if other == place else 1 for other in dimensions])
    return mask
