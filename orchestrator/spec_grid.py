"""The `grid` section: every axis with its values, defaults filled in, nothing twice."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any, get_args, get_origin

from orchestrator.definition import (
    FIRST_SETTINGS,
    SCENARIO_AXES,
    AttackChoice,
    Grid,
    Search,
    attack_options,
)
from orchestrator.ranges import Range
from orchestrator.spec_entries import KINDS, Item, read_entry
from orchestrator.spec_findings import UNREADABLE, Findings, Node, Wrong
from orchestrator.spec_search import read_range
from orchestrator.spec_values import (
    Reader,
    axis_values,
    between,
    choice,
    fail,
    field_reader,
    items,
    known,
    number,
    whole,
)
from ulrl.attacks import ATTACKS
from ulrl.hyperparameters import PARTS, Preset, names
from ulrl.poisoning import Poison

MAX_TRIALS = 1_000_000
AXES = (
    *(*SCENARIO_AXES, *FIRST_SETTINGS, "preset"),
    *(name for name in names() if name not in FIRST_SETTINGS),
)
DEFAULTS = {"poison_ratio": 0.1, "target_label": 0, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The values of one axis; one that is a range has that as its only one.

    Attributes:
        sound: Whether nothing was wrong with it, so that what is not there was not meant.
    """

    items: tuple[Item, ...]
    sound: bool

    @property
    def values(self) -> tuple[Any, ...]:
        return tuple(item.value for item in self.items)

    @property
    def range(self) -> Range | None:
        """The range, if the axis is one."""
        first = self.items[0].value if self.items else None
        return first if isinstance(first, Range) else None


@dataclass(frozen=True, kw_only=True)
class Poisoning:
    """An attack with a poison ratio: its own, or one of the axis's."""

    attack: Item
    ratio: Item


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The grid as it was read, with places, mistakes left out.

    Attributes:
        node: The section.
        by_name: The scenario axes, then the setting axes that the file names, in the order
            of the results' columns.
        drawn: How many settings a sampler draws, or None: every combination is one.
        folded: Setting axes that stand in `dimensions` by one value for all, since no rule
            tells their values apart and a sampler may have very many combinations.
    """

    node: Node
    by_name: Mapping[str, Axis]
    drawn: int | None = None
    folded: frozenset[str] = frozenset()

    def is_sound(self, name: str | None = None) -> bool:
        """Whether nothing was wrong with an axis (with any, if none is named)."""
        axes = self.by_name.values() if name is None else [self.by_name[name]]
        return all(axis.sound for axis in axes)

    @cached_property
    def poisonings(self) -> tuple[Poisoning, ...]:
        """Every attack with every ratio that applies to it, in the order of the plan."""
        return tuple(
            Poisoning(attack=attack, ratio=ratio)
            for attack in self.by_name["attack"].items
            for ratio in self.ratios(attack)
        )

    @cached_property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """What the grid is the product of: poisonings, then every axis but the two in them."""
        rest = {
            name: axis.items[:1] if name in self.folded else axis.items
            for name, axis in self.by_name.items()
            if dimension_of(name) == name
        }
        return {"poisoning": self.poisonings, **rest}

    @property
    def count(self) -> int:
        """Trials before any is excluded."""
        if self.drawn is None:
            return self._product(self.by_name)
        return self.drawn * self._product(SCENARIO_AXES)

    @property
    def fits(self) -> bool:
        """Whether there are few enough combinations to look at each."""
        told_apart = [name for name in self.by_name if name not in self.folded]
        return max(self.count, self._product(told_apart)) <= MAX_TRIALS

    def _product(self, names: Iterable[str]) -> int:
        poisonings = sum(len(self.ratios(attack)) for attack in self.by_name["attack"].items)
        others = [name for name in names if dimension_of(name) == name]
        return poisonings * prod(len(self.by_name[name].items) for name in others)

    def column(self, name: str) -> tuple[Any, ...]:
        """Return an axis's value at each place of the dimension that it belongs to."""
        if name == "attack":
            return tuple(one.attack.value for one in self.poisonings)
        if name == "poison_ratio":
            return tuple(one.ratio.value for one in self.poisonings)
        values = self.by_name[name].values
        return values[:1] if name in self.folded else values

    @property
    def settings(self) -> dict[str, Axis]:
        """The setting axes."""
        return {name: axis for name, axis in self.by_name.items() if name not in SCENARIO_AXES}

    def grid(self) -> Grid:
        """Return the axes without their places."""
        return Grid(
            attacks=self.by_name["attack"].values,
            datasets=self.by_name["dataset"].values,
            architectures=self.by_name["architecture"].values,
            poison_ratios=self.by_name["poison_ratio"].values,
            target_labels=self.by_name["target_label"].values,
            seeds=self.by_name["seed"].values,
            settings={name: axis.range or axis.values for name, axis in self.settings.items()},
        )

    def ratios(self, attack: Item) -> tuple[Item, ...]:
        """Return the poison ratios that apply to an attack: its own, or the axis's."""
        own = attack.value.poison_ratio
        if own is None:
            return self.by_name["poison_ratio"].items
        return (Item(node=attack.options["poison_ratio"], value=own),)


def dimension_of(name: str) -> str:
    """Return the dimension of the grid that an axis belongs to."""
    return "poisoning" if name in ("attack", "poison_ratio") else name


def read_grid(
    node: Node, found: Findings, search: Search | None = None, told_apart: Iterable[str] = AXES
) -> Axes:
    """Return the axes of the grid, and note what is wrong with them.

    Args:
        node: The section.
        found: Takes the mistakes.
        search: How settings are drawn, if they are.
        told_apart: Axes whose values an exclusion tells apart.
    """
    if node.value is not None and not isinstance(node.value, dict):
        raise fail(node, "a mapping of axes to values")
    given = known(node.value or {}, AXES, found, "no axis is called {!r}", "there are")
    by_name = {}
    for name in _in_order(given):
        before = len(found)
        axis_node = given.get(name, _default(node, name))
        if name in KINDS and name not in given:
            found.add(axis_node, "this axis is required")
        nothing: tuple[Item, ...] = ()
        read = partial(_read_axis, name=name, found=found)
        values = found.read(axis_node, read, nothing)
        by_name[name] = Axis(items=values, sound=len(found) == before)
    folded = {*by_name} - {*SCENARIO_AXES, "clean_ratio", "clean_draw", *told_apart}
    axes = Axes(
        node=node,
        by_name=by_name,
        drawn=search.settings if search else None,
        folded=frozenset(folded if search else ()),
    )
    if not axes.fits:
        found.add(node, f"a grid has at most {MAX_TRIALS:,} trials; got {axes.count:,}")
    else:
        _note_duplicates(axes, found)
    return axes


def value_reader(name: str) -> tuple[Reader, Any]:
    """Return the reader of one value of a numeric or named axis, and the value's type."""
    if name == "poison_ratio":
        return _poison_ratio, float
    if name == "preset":
        return partial(choice, enum=Preset), Preset
    if name in ("target_label", "seed", "defence_seed"):
        return _from_zero, int
    return field_reader(PARTS[names()[name][0]], name)


def _in_order(given: Mapping[str, Node]) -> Iterator[str]:
    yield from SCENARIO_AXES
    yield from (name for name in FIRST_SETTINGS if name in given)
    yield from (name for name in given if name not in (*SCENARIO_AXES, *FIRST_SETTINGS))


def _default(grid: Node, name: str) -> Node:
    """Return what stands for an axis that the file leaves out."""
    path = f"{grid.path}.{name}"
    return Node(path=path, place=grid.place, value=DEFAULTS.get(name, UNREADABLE))


def _read_axis(node: Node, *, name: str, found: Findings) -> tuple[Item, ...]:
    if name in KINDS:
        return _read_entries(node, name, found)
    if name not in SCENARIO_AXES and isinstance(node.value, dict):
        reader, hint = value_reader(name)
        if not {int, float} & {hint, *get_args(hint)} or get_origin(hint) is tuple:
            raise Wrong(node, f"{name} has no range, which is of numbers; list the values")
        return (Item(node=node, value=read_range(node, reader, found)),)
    values = axis_values(node, *value_reader(name), found)
    return tuple(Item(node=place, value=value) for place, value in values)


def _read_entries(node: Node, name: str, found: Findings) -> tuple[Item, ...]:
    if node.value in (None, ()):
        raise Wrong(node, f"{name} has no values; list at least one")
    entries: list[Item] = []
    for entry in items(node):
        entries += found.read(entry, partial(read_entry, kind=KINDS[name], found=found), [])
    return tuple(entries)


def _poison_ratio(node: Node) -> float:
    value = number(node)
    any_attack = ATTACKS["badnets"]()
    try:
        Poison(attack=any_attack, labels=any_attack.label_rules[0], poison_ratio=value)
    except ValueError as error:
        raise Wrong(node, str(error)) from error
    return value


def _from_zero(node: Node) -> int:
    value = whole(node)
    between(node, value, 0)
    return value


def _note_duplicates(axes: Axes, found: Findings) -> None:
    first: dict[Any, Item] = {}
    for item in axes.by_name["attack"].items:
        choice: AttackChoice = replace(item.value, poison_ratio=None)
        options = json.dumps(attack_options(choice), sort_keys=True)  # a file by its name alone
        for ratio in [ratio.value for ratio in axes.ratios(item)] or [None]:
            other = first.setdefault((choice.attack.name, options, ratio), item)
            if other is item:
                continue
            if replace(other.value, poison_ratio=None) == choice:
                text = f"the same attack stands twice; first at {other.node.path}"
            else:
                label = f"{choice.attack.name} {options}"
                text = f"the results would call it {label}, as they do {other.node.path}"
            found.add(item.node, text)
    for name in ("dataset", "architecture"):
        by_label: dict[str, Item] = {}
        for item in axes.by_name[name].items:
            label = item.value.label
            other = by_label.setdefault(label, item)
            if other is item:
                continue
            if other.value == item.value:
                text = f"{label} stands twice; first at {other.node.path}"
            else:
                text = f"the results would call it {label}, as they do {other.node.path}"
            found.add(item.node, text)
