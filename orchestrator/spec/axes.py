"""The grid of a study file: its axes, and what their values make together."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod
from typing import Any

from pydantic import NonNegativeInt

from orchestrator.spec.entries import (
    AXES,
    NO_RANGE,
    REGISTRIES,
    Item,
    R,
    is_range,
    option_readers,
    place_of,
    read_bounds,
    read_entry,
)
from orchestrator.spec.model import (
    FIRST_SETTINGS,
    SCENARIO_AXES,
    AttackChoice,
    Grid,
    Search,
    attack_options,
)
from orchestrator.spec.space import DrawnMethod, Range
from orchestrator.spec.validation import Reader, axis_values, field_reader, read, rules_of
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, YamlNode
from ulrl.attacks import ATTACKS
from ulrl.datasets import Dataset, DatasetError
from ulrl.hyperparameters import PARTS, Preset, names
from ulrl.methods import ULRL
from ulrl.poison import Poison

MAX_TRIALS = 1_000_000
DEFAULTS = {"poison_ratio": 0.1, "target_label": 0, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The grid as it was read, with places, mistakes left out."""

    node: YamlNode  # the section
    # By axis: the scenario axes, then the setting axes that the file names, in the order of the
    # results' columns. A range is the only item of its axis.
    items: Mapping[str, tuple[Item, ...]]
    unsound: frozenset[str] = frozenset()  # axes with a mistake: a missing value may be meant
    # Settings of each repair method that a sampler draws; None: every combination is one.
    drawn: int | None = None
    # Setting axes that stand in `dimensions` by one value for all, since no rule tells their
    # values apart and a sampler may have very many combinations.
    folded: frozenset[str] = frozenset()
    left: Any = None  # the points of `dimensions` that exclusions leave, once they are read

    @cached_property
    def poisonings(self) -> tuple[tuple[Item, Item], ...]:
        """Every attack with every ratio that applies to it: its own, or one of the axis's.

        `none` has a single ratio, which is None.
        """
        pairs: list[tuple[Item, Item]] = []
        for attack in self.items["attack"]:
            own = attack.value.poison_ratio
            ratios = self.items["poison_ratio"]
            if attack.value.attack.benign:
                ratios = (Item(node=attack.node, value=None),)
            elif own is not None:
                ratios = (Item(node=attack.options["poison_ratio"], value=own),)
            pairs += [(attack, ratio) for ratio in ratios]
        return tuple(pairs)

    @cached_property
    def dimensions(self) -> dict[str, tuple[Any, ...]]:
        """What the grid is the product of: poisonings, then every axis but the two in them."""
        rest = {
            name: items[:1] if name in self.folded else items
            for name, items in self.items.items()
            if dimension_of(name) == name
        }
        return {"poisoning": self.poisonings, **rest}

    @property
    def count(self) -> int:
        """Trials before any is excluded."""
        if self.drawn is None:
            return self._product(self.items)
        methods = {item.value.name for item in self.items.get("repair", ())}
        return self.drawn * max(1, len(methods)) * self._product(SCENARIO_AXES)

    @property
    def fits(self) -> bool:
        """Whether there are few enough combinations to look at each."""
        distinguished = [name for name in self.items if name not in self.folded]
        return max(self.count, self._product(distinguished)) <= MAX_TRIALS

    @cached_property
    def attacked(self) -> tuple[bool, ...]:
        """Whether there is an attack, for each of `poisonings`."""
        return tuple(not attack.value.attack.benign for attack, _ in self.poisonings)

    def _product(self, names: Iterable[str]) -> int:
        """Return how many combinations some axes have, all scenario axes among them."""
        others = [name for name in names if dimension_of(name) == name and name != "target_label"]
        targets = len(self.items["target_label"])
        poisonings = sum(targets if attacked else min(1, targets) for attacked in self.attacked)
        return poisonings * prod(len(self.items[name]) for name in others)

    def column(self, name: str) -> tuple[Any, ...]:
        """Return an axis's value at each place of the dimension that it belongs to."""
        items = self.dimensions[dimension_of(name)]
        if name in ("attack", "poison_ratio"):
            items = tuple(pair[name == "poison_ratio"] for pair in items)
        return tuple(item.value for item in items)

    def values(self, name: str) -> Any:
        """Return all values of an axis, or its range."""
        values = tuple(item.value for item in self.items[name])
        return values[0] if values and isinstance(values[0], Range) else values

    def places(self, name: str) -> tuple[str, ...]:
        """Return where each value of an axis stands: ``FILE:LINE: PATH``."""
        return tuple(f"{i.node.place.shown}: {i.node.path}" for i in self.items.get(name, ()))

    def grid(self) -> Grid:
        """Return the axes without their places."""
        attacks, datasets, architectures, ratios, targets, seeds = map(self.values, SCENARIO_AXES)
        return Grid(
            attacks=attacks,
            datasets=datasets,
            architectures=architectures,
            poison_ratios=ratios,
            target_labels=targets,
            seeds=seeds,
            settings={name: self.values(name) for name in self.items if name not in SCENARIO_AXES},
        )


def dimension_of(name: str) -> str:
    """Return the dimension of the grid that an axis belongs to."""
    return "poisoning" if name in ("attack", "poison_ratio") else name


def read_grid(
    node: YamlNode, search: Search | None = None, distinguished: Iterable[str] = AXES
) -> Axes:
    """Return the axes of the grid, and note what is wrong; exclusions name `distinguished`."""
    given = _without_options(node).known(AXES, partial(place_of, here="the grid"))
    order = [*SCENARIO_AXES, *(name for name in FIRST_SETTINGS if name in given)]
    items: dict[str, tuple[Item, ...]] = {}
    unsound = set()
    for name in [*order, *(name for name in given if name not in order)]:
        before = node.problems.count
        axis = given.get(name, node.child(name, DEFAULTS.get(name, UNREADABLE)))
        if name in REGISTRIES and name not in given:
            axis.note("this key is required")
        items[name] = ()
        with node.problems.collecting():
            items[name] = _read_axis(axis, name)
        if node.problems.count > before:
            unsound.add(name)
    folded = {*items} - {*SCENARIO_AXES, "clean_ratio", "clean_draw", "repair", *distinguished}
    axes = Axes(
        node=node,
        items=items,
        unsound=frozenset(unsound),
        drawn=search.settings if search else None,
        folded=frozenset(folded if search else ()),
    )
    if axes.fits:
        _note_duplicates(axes)
    else:
        node.note(f"a grid has at most {MAX_TRIALS:,} trials; got {axes.count:,}")
    return axes


def _without_options(node: YamlNode) -> YamlNode:
    """Return the grid without keys that are options of what it names; each is noted."""
    options: dict[str, tuple[str, str]] = {}  # axis and name that have it
    for axis, registry in REGISTRIES.items():
        for entry in node.entries[axis].items if axis in node.entries else ():
            named = entry.entries.get("name", entry).value
            chosen = registry.get(named) if isinstance(named, str) else None
            for option in option_readers(chosen, axis) if chosen is not None else ():
                options.setdefault(option, (axis, str(named)))
    wrong = [key for key in node.entries if key not in AXES and key in options]
    for key in wrong:
        (axis, name), value = options[key], node.entries[key]
        shown = "..." if isinstance(value.value, tuple | dict) else value.shown
        value.note(
            f"{key} is an option of the {axis} {name}: "
            f"write {axis}: {{name: {name}, {key}: {shown}}}"
        )
    left = {key: value for key, value in node.entries.items() if key not in wrong}
    return replace(node, value=left) if wrong else node


def value_reader(name: str) -> tuple[Reader, Any]:
    """Return the reader of one value of a numeric or named axis, and the value's type."""
    if name == "poison_ratio":
        return _poison_ratio, float
    if name == "preset":
        return partial(read, hint=Preset), Preset
    if name in ("target_label", "seed", "defence_seed"):
        return partial(read, hint=NonNegativeInt), int
    return field_reader(PARTS[names()[name][0]], name)


def _read_axis(node: YamlNode, name: str) -> tuple[Item, ...]:
    if name in REGISTRIES:
        if node.value in (None, ()):
            raise InvalidValue(node, f"{name} has no values; list at least one")
        entries: list[Item] = []
        for entry in node.items:
            with node.problems.collecting():
                entries += read_entry(entry, name)
        return tuple(entries)
    if name not in SCENARIO_AXES and isinstance(node.value, dict):
        return (Item(node=node, value=read_range(node, name, Range)),)
    if is_range(node):
        raise InvalidValue(node, f"no range is taken here, {NO_RANGE}; list the values")
    values = axis_values(node, *value_reader(name))
    return tuple(Item(node=place, value=value) for place, value in values)


def _poison_ratio(node: YamlNode) -> float:
    value: float = read(node, float)
    attack = ATTACKS["badnets"]()  # any will do
    with rules_of(node):
        Poison(attack=attack, labels=attack.label_rules[0], poison_ratio=value)
    return value


def read_range(node: YamlNode, name: str, kind: type[R]) -> R:
    """Return part of a setting axis from one value to another: a `Range` or a `Span`."""
    return read_bounds(node, name, kind, *value_reader(name))


def _note_duplicates(axes: Axes) -> None:
    """Note values of an axis that are equal, or that the results could not tell apart."""

    def check(item: Item, key: Any, value: Any, label: str) -> None:
        other, known = first.setdefault(key, (item, value))
        if other is not item:
            text = f"the results would call it {label}, as they do {other.node.path}"
            same = f"{label} stands twice; first at {other.node.path}"
            item.node.note(same if known == value else text)

    first: dict[Any, tuple[Item, Any]] = {}
    for attack, ratio in axes.poisonings:
        choice: AttackChoice = replace(attack.value, poison_ratio=None)
        options = json.dumps(attack_options(choice), sort_keys=True)  # a file by its name alone
        label = f"{choice.attack.name} {options}".removesuffix(" {}")
        check(attack, (label, ratio.value), choice, label)
    for name in ("dataset", "architecture", "repair"):
        for item in axes.items.get(name, ()):
            check(item, (name, item.value.label), item.value, item.value.label)
    _note_same_runs(axes)


def _note_same_runs(axes: Axes) -> None:
    """Note entries that run the same once their defaults are known, on every dataset of the grid.

    ``clp`` and ``{name: clp, u: 3}`` do, but for Tiny-ImageNet, where the default is another.
    """
    first: dict[Any, tuple[Item, str]] = {}

    def check(item: Item, key: Any, label: str) -> None:
        try:
            other, known = first.setdefault(key, (item, label))
        except TypeError:  # a plugin's stage that has no hash
            return
        if other is not item and known != label:  # those of one label are noted
            _note_same_run(item, label, other, known)

    datasets = [item.value for item in axes.items["dataset"]]
    sides = {dataset: _side(dataset) for dataset in datasets}
    for attack, ratio in axes.poisonings if None not in sides.values() else ():
        found = {attack.value.attack.resolved(side) for side in sides.values()}
        choice = replace(attack.value, poison_ratio=None)
        rest = (choice.labels, choice.stamp, choice.source)
        options = ",".join(f"{name}={value}" for name, value in attack_options(choice).items())
        label = f"{choice.attack.name}({options})".removesuffix("()")
        check(attack, (frozenset(found), rest, ratio.value), label)
    names = dict.fromkeys(dataset.name for dataset in datasets)
    for item in axes.items.get("repair", ()) if names else ():
        if item.value.name == ULRL:  # whose options are axes
            continue
        ends = item.value.ends if isinstance(item.value, DrawnMethod) else (item.value,)
        run = tuple(method.resolved(name).stages for method in ends for name in names)
        check(item, (type(item.value), item.value.name, run), item.value.label)


def _side(dataset: Dataset) -> int | None:
    """Return the side of a dataset's images; None where no file tells."""
    try:
        info = dataset.info()
    except (DatasetError, OSError):
        return None
    return None if info is None else info.side


def _note_same_run(item: Item, label: str, other: Item, known: str) -> None:
    """Note that an item repeats another, at an option where both come from one list."""
    here, there = item.node, other.node
    if here.path == there.path:
        for option in item.options.keys() & other.options.keys():
            if item.options[option].path != other.options[option].path:
                here, there = item.options[option], other.options[option]
    where = "" if here.path == there.path else f" at {there.path}"
    here.note(f"{label} runs the same as {known}{where}; leave one of them out")
