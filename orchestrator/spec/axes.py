"""The grid of a study file: entries of attacks, datasets and architectures, and the axes."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from math import prod
from typing import Any, get_args, get_origin, get_type_hints

from orchestrator.spec.model import (
    FIRST_SETTINGS,
    SCENARIO_AXES,
    AttackChoice,
    Grid,
    Search,
    attack_options,
)
from orchestrator.spec.search_section import read_range
from orchestrator.spec.space import Range
from orchestrator.spec.validation import (
    Reader,
    absolute_path,
    axis_values,
    between,
    choice,
    fail,
    field_reader,
    items,
    known,
    listed,
    nearest,
    number,
    reader_for,
    whole,
    word,
)
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, Problems, YamlNode
from ulrl.attacks import ATTACKS, LabelRule, Stamp
from ulrl.datasets import DATASETS
from ulrl.hyperparameters import PARTS, Preset, names
from ulrl.methods import METHODS, ULRL
from ulrl.models import ARCHITECTURES
from ulrl.poisoning import Poison

MAX_VARIANTS = 10_000
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ATTACK_OPTIONS = {
    "labels": LabelRule,
    "poison_ratio": float,
    "stamp": Stamp,
    "source": tuple[int, ...],
}


@dataclass(frozen=True, kw_only=True)
class Item:
    """One value of an axis, its place, and those of its options."""

    node: YamlNode
    value: Any
    options: Mapping[str, YamlNode] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Component:
    """What an axis of named things is made of.

    Attributes:
        word: What a message calls one.
        registry: Classes by name.
        build: Makes one of its class and options; ``ValueError`` where they are out of range.
        extra: Types of options that are not the class's own.
        usage: How to write those that need an option; the option of the same name says the
            name too.
        families: Names that go on after a colon, and the option that the rest is for.
    """

    word: str
    registry: Mapping[str, type[Any]]
    build: Callable[[type[Any], Mapping[str, Any]], Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, str] = field(default_factory=dict)
    families: Mapping[str, str] = field(default_factory=dict)


def attack_choice(attack_class: type[Any], options: Mapping[str, Any]) -> AttackChoice:
    """Return an attack with its own options and with how it poisons."""
    own = {name: value for name, value in options.items() if name not in ATTACK_OPTIONS}
    attack = attack_class(**own)
    poison = {name: options[name] for name in ATTACK_OPTIONS if name in options}
    poison.setdefault("labels", attack.label_rules[0])
    poison.setdefault("stamp", attack.default_stamp)
    choice = AttackChoice(attack=attack, **poison)
    choice = replace(choice, source=choice.source or choice.usual_source)
    some = 0.1 if choice.poison_ratio is None else choice.poison_ratio
    choice.poison(some, 0)  # for its rules
    return choice


KINDS = {
    "attack": Component(
        word="attack",
        registry=ATTACKS,
        build=attack_choice,
        extra=ATTACK_OPTIONS,
    ),
    "dataset": Component(
        word="dataset",
        registry=DATASETS,
        build=lambda dataset, options: dataset(**options),
        usage={"arrays": "{arrays: FILE.npz}"},
    ),
    "architecture": Component(
        word="architecture",
        registry=ARCHITECTURES,
        build=lambda architecture, options: architecture(**options),
        families={"timm": "model"},
    ),
}


def class_of(node: YamlNode, name: str, kind: Component) -> type[Any]:
    """Return the class that a name selects.

    Raises:
        InvalidValue: There is none.
    """
    family = name.partition(":")[0]
    registered = family if family in kind.families else name
    if registered in kind.registry:
        return kind.registry[registered]
    names = [_usual(other, kind) for other in sorted(kind.registry)]
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and all(part in kind.registry for part in parts):
        text = f"several names are a list; write [{', '.join(parts)}]; got {name!r}"
        raise InvalidValue(node, text)
    misspelt = family if kind.families else name
    raise InvalidValue(
        node, f"no {kind.word} is called {name!r}" + nearest(misspelt, names, "there are")
    )


def _usual(name: str, kind: Component) -> str:
    """Return how an entry of that name is written at its shortest."""
    return f"{name}:{kind.families[name].upper()}" if name in kind.families else name


def read_entry(node: YamlNode, kind: Component, found: Problems) -> list[Item]:
    """Return what one entry stands for: one thing, or one per value of its options.

    What is wrong with an option is noted, and its right values stand.

    Raises:
        InvalidValue: The entry cannot be understood at all.
    """
    place, name, given = _name_and_options(node, kind)
    chosen = class_of(place, name, kind)
    given = _implied(place, name, kind, given)
    readers = _option_readers(chosen, kind)
    complaint = f"{name} has no option {{!r}}"
    options = known({**_default_paths(node, chosen), **given}, readers, found, complaint, "it has")
    needed = [part.name for part in dataclasses.fields(chosen) if _is_required(part)]
    for option in needed:
        if option not in options:
            bare = name.removesuffix(":")
            usual = _usual(bare, kind)
            usual = usual if usual != bare else f"{{name: {bare}, {option}: ...}}"
            usage = kind.usage.get(bare, usual)
            raise InvalidValue(node, f"{bare} cannot stand alone; write {usage}")
    values = {
        option: axis_values(where, *readers[option], found) for option, where in options.items()
    }
    if not all(values[option] for option in needed):
        return []
    first = {option: candidates[0][1] for option, candidates in values.items() if candidates}
    required = {option: first[option] for option in needed}

    def complaint_about(**some: Any) -> str:
        try:
            kind.build(chosen, {**required, **some})
        except ValueError as error:
            return str(error)
        return ""

    alone = {option: complaint_about(**{option: value}) for option, value in first.items()}
    for option, candidates in values.items():
        kept = []
        for where, value in candidates:
            own = complaint_about(**{option: value})
            # What another option cures, or changes, is for their combination to say.
            beside = [
                complaint_about(**{option: value, other: first[other]})
                for other in first
                if other != option
            ]
            known_already = {own, *alone.values()} - {""}
            if own and known_already.issuperset(beside):
                found.add(where, own)
            else:
                kept.append((where, value))
        values[option] = kept
    return _expanded(node, kind, chosen, values, found)


def _name_and_options(node: YamlNode, kind: Component) -> tuple[YamlNode, str, dict[str, YamlNode]]:
    """Return where the thing is named, its name and its options."""
    if isinstance(node.value, str):
        return node, node.value, {}
    if not isinstance(node.value, dict):
        raise fail(node, "a name, or a mapping with a name and options")
    options = dict(node.value)
    if "name" in options:
        named = options.pop("name")
        return replace(named, path=node.path), word(named), options
    for name in kind.usage:
        if name in options:
            return node, name, options
    if any(option.value is UNREADABLE for option in options.values()):
        raise InvalidValue(node, "")
    raise InvalidValue(node, f"the {kind.word} has no name; write {{name: ..., OPTION: ...}}")


def _implied(
    place: YamlNode, name: str, kind: Component, given: dict[str, YamlNode]
) -> dict[str, YamlNode]:
    """Return the options of an entry with the one that its name says after a colon."""
    family, _, rest = name.partition(":")
    if not rest or family not in kind.families:
        return given
    option = kind.families[family]
    if option in given:
        raise InvalidValue(
            given[option], f"{name} says its {option} in its name; leave {option} out"
        )
    return {option: replace(place, value=rest), **given}


def _option_readers(chosen: type[Any], kind: Component) -> dict[str, tuple[Reader, Any]]:
    """Return the reader and the type of each option."""
    hints = get_type_hints(chosen)
    readers = {
        part.name: (
            _place_reader(part) if part in _paths(chosen) else reader_for(hints[part.name]),
            hints[part.name],
        )
        for part in dataclasses.fields(chosen)
    }
    return readers | {name: (reader_for(hint), hint) for name, hint in kind.extra.items()}


def _place_reader(part: dataclasses.Field[Any]) -> Reader:
    """Return the reader of a path, or of what may stand instead of one: a word, a URL."""
    words = part.metadata.get("words", ())
    spared = words if part.default is not None else (None, *words)

    def read(node: YamlNode) -> Any:
        is_url = isinstance(node.value, str) and _URL.match(node.value)
        return node.value if is_url or node.value in spared else absolute_path(node)

    return read


def _default_paths(node: YamlNode, chosen: type[Any]) -> dict[str, YamlNode]:
    """Return the paths that an entry leaves to their defaults, so that they are made absolute."""
    return {
        part.name: YamlNode(path=f"{node.path}.{part.name}", place=node.place, value=part.default)
        for part in _paths(chosen)
        if isinstance(part.default, str)
    }


def _paths(chosen: type[Any]) -> list[dataclasses.Field[Any]]:
    hints = get_type_hints(chosen)
    parts = dataclasses.fields(chosen)
    places = (str, str | None)
    return [part for part in parts if part.metadata.get("runtime") and hints[part.name] in places]


def _is_required(part: dataclasses.Field[Any]) -> bool:
    return part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING


def _made(
    kind: Component, chosen: type[Any], options: Mapping[str, Any], place: YamlNode, found: Problems
) -> Any:
    """Return the thing with these options, or None after a note of what forbids them."""
    try:
        return kind.build(chosen, options)
    except ValueError as error:
        found.add(place, str(error))
        return None


def _expanded(
    node: YamlNode,
    kind: Component,
    chosen: type[Any],
    values: Mapping[str, list[tuple[YamlNode, Any]]],
    found: Problems,
) -> list[Item]:
    count = prod(len(candidates) for candidates in values.values())
    if count > MAX_VARIANTS:
        raise InvalidValue(node, f"one entry stands for at most {MAX_VARIANTS:,}; got {count:,}")
    entries = []
    for combination in product(*values.values()):
        named = dict(zip(values, combination, strict=True))
        options = {option: value for option, (_, value) in named.items()}
        value = _made(kind, chosen, options, node, found)
        if value is not None:
            places = {option: place for option, (place, _) in named.items()}
            entries.append(Item(node=node, value=value, options=places))
    return entries


MAX_TRIALS = 1_000_000
AXES = (
    *(*SCENARIO_AXES, *FIRST_SETTINGS, "preset", "repair"),
    *(name for name in names() if name not in FIRST_SETTINGS),
)
DEFAULTS = {"poison_ratio": 0.1, "target_label": 0, "seed": 0}


@dataclass(frozen=True, kw_only=True)
class AxisValues:
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

    node: YamlNode
    by_name: Mapping[str, AxisValues]
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
    def settings(self) -> dict[str, AxisValues]:
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
    node: YamlNode, found: Problems, search: Search | None = None, told_apart: Iterable[str] = AXES
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
        by_name[name] = AxisValues(items=values, sound=len(found) == before)
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
    if name == "repair":
        return _repair, str
    if name in ("target_label", "seed", "defence_seed"):
        return _from_zero, int
    return field_reader(PARTS[names()[name][0]], name)


def _in_order(given: Mapping[str, YamlNode]) -> Iterator[str]:
    yield from SCENARIO_AXES
    yield from (name for name in FIRST_SETTINGS if name in given)
    yield from (name for name in given if name not in (*SCENARIO_AXES, *FIRST_SETTINGS))


def _default(grid: YamlNode, name: str) -> YamlNode:
    """Return what stands for an axis that the file leaves out."""
    path = f"{grid.path}.{name}"
    return YamlNode(path=path, place=grid.place, value=DEFAULTS.get(name, UNREADABLE))


def _read_axis(node: YamlNode, *, name: str, found: Problems) -> tuple[Item, ...]:
    if name in KINDS:
        return _read_entries(node, name, found)
    if name not in SCENARIO_AXES and isinstance(node.value, dict):
        reader, hint = value_reader(name)
        if not {int, float} & {hint, *get_args(hint)} or get_origin(hint) is tuple:
            raise InvalidValue(node, f"{name} has no range, which is of numbers; list the values")
        return (Item(node=node, value=read_range(node, reader, found)),)
    values = axis_values(node, *value_reader(name), found)
    return tuple(Item(node=place, value=value) for place, value in values)


def _read_entries(node: YamlNode, name: str, found: Problems) -> tuple[Item, ...]:
    if node.value in (None, ()):
        raise InvalidValue(node, f"{name} has no values; list at least one")
    entries: list[Item] = []
    for entry in items(node):
        entries += found.read(entry, partial(read_entry, kind=KINDS[name], found=found), [])
    return tuple(entries)


def _poison_ratio(node: YamlNode) -> float:
    value = number(node)
    any_attack = ATTACKS["badnets"]()
    try:
        Poison(attack=any_attack, labels=any_attack.label_rules[0], poison_ratio=value)
    except ValueError as error:
        raise InvalidValue(node, str(error)) from error
    return value


def _repair(node: YamlNode) -> str:
    name, methods = word(node), (ULRL, *METHODS)
    if name not in methods:
        raise fail(node, f"repair is {listed(methods, ' or ')}", nearest(name, methods))
    return name


def _from_zero(node: YamlNode) -> int:
    value = whole(node)
    between(node, value, 0)
    return value


def _note_duplicates(axes: Axes, found: Problems) -> None:
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
