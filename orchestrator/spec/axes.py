"""The grid of a study file: entries of attacks, datasets and architectures, and the axes."""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import EnumType
from functools import cached_property, partial
from itertools import product
from math import prod
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import NonNegativeInt

from orchestrator.spec.dump import in_line
from orchestrator.spec.model import (
    FIRST_SETTINGS,
    SCENARIO_AXES,
    AttackChoice,
    Budget,
    Grid,
    Limits,
    Resources,
    Search,
    Tracking,
    VictimRule,
    attack_options,
    is_of_ulrl,
)
from orchestrator.spec.rules import AbsolutePath, nearest
from orchestrator.spec.space import DrawnMethod, Range, Span
from orchestrator.spec.validation import Reader, axis_values, field_reader, named_in, read, rules_of
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, YamlNode
from ulrl.attacks import ATTACKS, Attack, LabelRule, Stamp
from ulrl.audits import AUDITS
from ulrl.datasets import DATASETS, Dataset, DatasetError
from ulrl.hyperparameters import PARTS, Preset, names
from ulrl.methods import METHODS, TUNERS, ULRL, TuningMethod
from ulrl.models import ARCHITECTURES
from ulrl.poison import Poison
from ulrl.registry import words_of
from ulrl.supervised import VictimConfig


def _names_of(kind: type[Any]) -> tuple[str, ...]:
    return tuple(part.name for part in dataclasses.fields(kind))


MAX_TRIALS = 1_000_000
MAX_VARIANTS = 10_000
AXES = (
    *(*SCENARIO_AXES, *FIRST_SETTINGS, "preset", "repair"),
    *(name for name in names() if name not in FIRST_SETTINGS),
)
DEFAULTS = {"poison_ratio": 0.1, "target_label": 0, "seed": 0}
ATTACK_OPTIONS = {
    "labels": LabelRule,
    "poison_ratio": float,
    "stamp": Stamp,
    "source": tuple[int, ...],
}
KEYS = (
    *("name", "plugins", "preset", "grid", "exclude", "search", "victim", "prune", "objective"),
    *("metrics", "audit", "audit_models", "resources", "limits", "budget", "optuna", "mlflow"),
    *("store", "labels"),
)
# Keys inside sections, for those that stand elsewhere.
SECTIONS = {
    "victim": ("recipe", "import", *_names_of(VictimConfig), *_names_of(VictimRule)),
    "search": ("sampler", "settings"),
    "prune": ("setting", "curve"),
    "resources": _names_of(Resources),
    "limits": _names_of(Limits),
    "budget": _names_of(Budget),
    "mlflow": _names_of(Tracking),
    "optuna": ("storage",),
}
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
R = TypeVar("R", Range, Span)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One value of an axis, its place, and those of its options."""

    node: YamlNode
    value: Any
    options: Mapping[str, YamlNode] = field(default_factory=dict)


def attack_choice(attack_class: type[Any], options: Mapping[str, Any]) -> AttackChoice:
    """Return an attack with its own options and with how it poisons."""
    poison = {name: options[name] for name in ATTACK_OPTIONS if name in options}
    attack = attack_class(**{n: value for n, value in options.items() if n not in poison})
    usual = {"labels": attack.label_rules[0], "stamp": attack.default_stamp}
    choice = AttackChoice(attack=attack, **(usual | poison))
    choice = replace(choice, source=choice.source or choice.usual_source)
    choice.poison(0.1 if choice.poison_ratio is None else choice.poison_ratio, 0)  # for its rules
    return choice


REGISTRIES: Mapping[str, Mapping[str, type[Any]]] = {
    "attack": ATTACKS,
    "dataset": DATASETS,
    "architecture": ARCHITECTURES,
    "repair": METHODS,
}
_ENTRIES = {**REGISTRIES, "tune": TUNERS, "audit": AUDITS}  # with what is on no axis
# Of these things, if it is not the axis's name.
_NOUNS = {"repair": "repair method", "tune": "tuner"}
NO_RANGE = "since a sampler draws setting axes and options of an entry of repair alone"
ENTRY = "an entry of an axis"
FAMILIES = {"timm": "model"}  # names that go on after a colon, and the option that the rest is for


def class_of(node: YamlNode, name: str, axis: str) -> type[Any]:
    """Return the class that a name selects.

    Raises:
        InvalidValue: There is none.
    """
    registry = _ENTRIES[axis]
    family = name.partition(":")[0]
    registered = family if family in FAMILIES else name
    if registered in registry:
        return registry[registered]
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and all(part in registry for part in parts):
        text = f"several names are a list; write [{', '.join(parts)}]; got {name!r}"
        raise InvalidValue(node, text)
    hint = nearest(family, sorted(registry), "there are")
    raise InvalidValue(node, f"no {_NOUNS.get(axis, axis)} is called {name!r}{hint}")


def read_entry(node: YamlNode, axis: str) -> list[Item]:
    """Return what one entry stands for: one thing, or one per value of its options.

    What is wrong with an option is noted, and then there is nothing.

    Raises:
        InvalidValue: The entry cannot be understood at all.
    """
    named, name, given = _name_and_options(node, axis)
    chosen = class_of(named, name, axis)
    family, _, rest = name.partition(":")
    if rest and (option := FAMILIES[family]) in given:
        text = f"{name} says its {option} in its name; leave {option} out"
        raise InvalidValue(given[option], text)
    if rest:
        given = {FAMILIES[family]: replace(named, value=rest), **given}
    parts = dataclasses.fields(chosen)
    # Paths that an entry leaves to their defaults are made absolute too.
    paths = [part for part in parts if _is_path(part)]
    defaults = {p.name: node.child(p.name, p.default) for p in paths if isinstance(p.default, str)}
    readers = _option_readers(chosen, axis)
    if given and not readers:
        text = f"{name} has no options"
        if name == ULRL:
            text += ", its hyper-parameters are axes: write them in the grid, beside repair"
        raise InvalidValue(next(iter(given.values())), text)
    options = replace(node, value={**defaults, **given}).known(readers, _beside)
    required = [p.name for p in parts if p.default is p.default_factory is dataclasses.MISSING]
    before = node.problems.count
    for option in required:
        if option not in options:
            node.child(option, None).note("this key is required")
    ranges, options = _taken_ranges(options, readers, drawn=axis == "repair")
    values = {option: _option_values(part, *readers[option]) for option, part in options.items()}
    right = {option: found for option, found in values.items() if found}
    ends = {option: [(at, axis.low)] for option, (at, axis) in ranges.items()}
    complete = all(option in right or option in ranges for option in required)
    if not complete or _is_mixed(node, chosen, right | ends, required):
        return []
    count = prod(map(len, right.values()))
    if count > MAX_VARIANTS:
        raise InvalidValue(node, f"one entry stands for at most {MAX_VARIANTS:,}; got {count:,}")
    items = []
    for combination in product(*right.values()):
        variant = dict(zip(right, combination, strict=True))
        make = partial(_drawn, ranges=ranges) if ranges else partial(_built, required=required)
        value = make(node, chosen, variant)
        places = {option: place for option, (place, _) in {**variant, **ranges}.items()}
        items.append(Item(node=node, value=value, options=places))
    return items if node.problems.count == before else []


def _is_mixed(
    node: YamlNode,
    chosen: type[Any],
    values: Mapping[str, Sequence[tuple[YamlNode, Any]]],
    required: Sequence[str],
) -> bool:
    """Return whether only some values of an option admit another option, which is noted.

    Those of ``rule: [budget, threshold]`` beside ``mask_threshold``, for example: each combination
    by itself would be told to leave out what the next one needs.
    """

    def refusal(**options: Any) -> str:
        try:
            chosen(**{option: values[option][0][1] for option in required} | options)
        except (TypeError, ValueError) as error:
            return str(error)
        return ""

    def against(option: str, pivot: str, one: Any) -> str:
        value = values[option][0][1]
        told = refusal(**{pivot: one, option: value}) if option != pivot else ""
        return told if told.startswith(f"{option} ") and not refusal(**{option: value}) else ""

    for pivot, listed in values.items():
        if len(listed) == 1 or issubclass(chosen, Attack):
            continue
        told = [{o: text for o in values if (text := against(o, pivot, one))} for _, one in listed]
        mixed = [o for o in values if any(o in texts for texts in told)]
        if not mixed or any(all(o in texts for texts in told) for o in mixed):
            continue
        entries: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for (at, _), texts in zip(listed, told, strict=True):
            entries[tuple(texts)].append(at.plain)
        lines = []
        for left_out, some in entries.items():
            kept = {o: part.plain for o, part in node.entries.items() if o not in left_out}
            lines.append(in_line({**kept, pivot: some if len(some) > 1 else some[0]}))
        text = next(texts[mixed[0]] for texts in told if mixed[0] in texts).partition(";")[0]
        at = node.entries.get(mixed[0], node)
        at.note(f"{text}; write {len(lines)} entries, {' and '.join(lines)}")
        return True
    return False


def _option_values(node: YamlNode, reader: Reader, hint: Any) -> list[tuple[YamlNode, Any]]:
    """Return the values of an option; a tuner's own options multiply them as an entry's do."""
    if hint != TuningMethod | None or not node.items:
        return axis_values(node, reader, hint)
    found: list[tuple[YamlNode, Any]] = []
    for entry in node.items:
        with node.problems.collecting():
            if entry.value is None:  # as the method tunes by itself
                found.append((entry, None))
            else:
                found += [(item.node, item.value) for item in read_entry(entry, "tune")]
    return found


def _taken_ranges(
    options: Mapping[str, YamlNode], readers: Mapping[str, tuple[Reader, Any]], *, drawn: bool
) -> tuple[dict[str, tuple[YamlNode, Range]], dict[str, YamlNode]]:
    """Return the options that are ranges, and the others; what is wrong with a range is noted.

    Where nothing is `drawn`, every range is.
    """
    ranges: dict[str, tuple[YamlNode, Range]] = {}
    others = {}
    for option, part in options.items():
        if not _is_range(part):
            others[option] = part
            continue
        if not drawn:
            part.note(f"no range is taken here, {NO_RANGE}; list the values")
            continue
        with part.problems.collecting():
            ranges[option] = part, _read_range(part, option, Range, *readers[option])
    return ranges, others


def _is_range(node: YamlNode) -> bool:
    return not {"low", "high"}.isdisjoint(node.entries)


def _drawn(
    node: YamlNode,
    chosen: type[Any],
    fixed: Mapping[str, tuple[YamlNode, Any]],
    ranges: Mapping[str, tuple[YamlNode, Range]],
) -> DrawnMethod | None:
    """Return a method whose options are drawn; note the first end of a range that it forbids."""
    ends = [
        [(part, end, getattr(axis, end)) for end in ("low", "high")]
        for part, axis in ranges.values()
    ]
    before = node.problems.count
    for corner in product(*ends):
        at = {
            o: (part.at([end]), value) for o, (part, end, value) in zip(ranges, corner, strict=True)
        }
        _built(node, chosen, {**fixed, **at}, [*fixed, *at])
        if node.problems.count > before:
            return None
    return DrawnMethod(
        kind=chosen,
        fixed=tuple((option, value) for option, (_, value) in fixed.items()),
        ranges=tuple((option, axis) for option, (_, axis) in ranges.items()),
    )


def _name_and_options(node: YamlNode, axis: str) -> tuple[YamlNode, str, dict[str, YamlNode]]:
    """Return where the thing is named, its name and its options."""
    if isinstance(node.value, str):
        return node, node.value, {}
    if not isinstance(node.value, dict):
        raise node.invalid("a name, or a mapping with a name and options")
    options = dict(node.value)
    if "name" in options:
        named = options.pop("name")
        return replace(named, path=node.path), read(named, str), options
    named_by_key = [name for name in options if name in _ENTRIES[axis]]
    for name in named_by_key:
        if name in _option_readers(_ENTRIES[axis][name], axis):  # {arrays: FILE.npz}
            return node, name, options
    if named_by_key:
        raise InvalidValue(node, _as_entries(options, named_by_key))
    noted = any(option.value is UNREADABLE for option in options.values())
    text = f"the {_NOUNS.get(axis, axis)} has no name; write {{name: ..., OPTION: ...}}"
    raise InvalidValue(node, "" if noted else text)


def _beside(key: str, node: YamlNode) -> str:
    """Return where a key of an entry belongs that is no option: an axis of all, or a section."""
    return "" if key in AXES and is_of_ulrl(key) else place_of(key, node, here=ENTRY)


def _as_entries(options: Mapping[str, YamlNode], named: Sequence[str]) -> str:
    """Return what to write for things whose names are keys, as in {ft_sam: {rho: 1}}."""
    rest = {option: node.plain for option, node in options.items() if option not in named}
    entries: list[Any] = []
    for name in named:
        inner, lone = options[name].plain, options[name].value is None
        given = inner if isinstance(inner, dict) else {} if lone else {"OPTION": inner}
        entries.append({"name": name, **given, **rest} if given or rest else name)
    written = in_line(entries)
    if len(entries) == 1:
        written = named[0] if entries == [named[0]] else in_line(entries[0])
    return f"an entry is a name, or a mapping with the key name; write {written}"


def place_of(key: str, node: YamlNode, here: str, named: Iterable[str] = ()) -> str:
    """Return what a message says of a key that belongs elsewhere, "" if it belongs nowhere.

    Args:
        key: It is valid neither where it stands nor misspelt.
        node: Its value.
        here: Where it stands.
        named: Of things that have it as an option, those to prefer.
    """
    shown = "..." if isinstance(node.value, tuple | dict) else node.shown.strip("'")
    if key in AXES:
        return f"{key} is an axis; this is {here}; write grid: {{..., {key}: {shown}}}"
    if key in KEYS:
        return f"{key} is a key of the study; this is {here}; write it beside grid, not inside"
    if here == ENTRY:
        return ""
    found: list[tuple[str, str]] = [
        (f"a key of {s}", f"{s}: {{{key}: {shown}}}") for s in SECTIONS if key in SECTIONS[s]
    ]
    having = {
        axis: [name for name, kind in registry.items() if key in _option_readers(kind, axis)]
        for axis, registry in _ENTRIES.items()
        if axis != "tune"  # they are methods too
    }
    preferred = {axis: [one for one in those if one in named] for axis, those in having.items()}
    if any(preferred.values()):
        found.clear()
        having = preferred
    for axis, those in having.items():
        if those:
            most = ", ".join(those[:4]) + (" and others" if len(those) > 4 else "")
            kinds = _NOUNS.get(axis, axis) + ("s" if len(those) > 1 else "")
            way = f"{axis}: {{name: {those[0]}, {key}: {shown}}}"
            found.append((f"an option of the {kinds} {most}", way))
    if not found:
        return ""
    what, ways = zip(*found, strict=True)
    return f"{key} is {', and '.join(what)}; this is {here}; write {' or '.join(ways)}"


def _option_readers(chosen: type[Any], axis: str) -> dict[str, tuple[Reader, Any]]:
    """Return the reader and the type of each option."""
    parts = {part.name: part for part in dataclasses.fields(chosen)}
    types = get_type_hints(chosen)
    hints = {name: types[name] for name in parts}
    if axis == "attack" and not chosen.benign:
        hints |= ATTACK_OPTIONS
    readers: dict[str, tuple[Reader, Any]] = {}
    for name, hint in hints.items():
        is_path = name in parts and _is_path(parts[name])
        if is_path and hint in (str, str | None):
            readers[name] = partial(_read_path, part=parts[name]), hint
        else:
            words = _words(chosen, name, hint)
            readers[name] = partial(_read_word, hint=hint, words=words, of=chosen.name), hint
    return readers


def _words(chosen: type[Any], option: str, hint: Any) -> tuple[str, ...]:
    """Return the words that this thing's option may be; nothing where its type says enough."""
    kind = next((k for k in (hint, *get_args(hint)) if isinstance(k, EnumType)), None)
    if kind is None:
        return ()
    if kind is LabelRule:
        return tuple(map(str, chosen.label_rules))
    found: list[Any] = words_of(chosen, option, list(kind))
    return () if len(found) == len(kind) else tuple(map(str, found))


def _read_word(node: YamlNode, hint: Any, words: Sequence[str], of: str) -> Any:
    """Return an option's value; a word that no such thing knows is told those of this one."""
    try:
        return read(node, hint)
    except InvalidValue:
        if not words:
            raise
        text = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
        raise node.invalid(f"{text} for {of}", nearest(node.value, words)) from None


def _is_path(part: dataclasses.Field[Any]) -> bool:
    return bool(part.metadata.get("runtime")) and "text" not in part.metadata


def _read_path(node: YamlNode, part: dataclasses.Field[Any]) -> Any:
    """Return a path, or what may stand instead of one: a word, a URL."""
    words = part.metadata.get("words", ())
    spared = words if part.default is not None else (None, *words)
    is_url = isinstance(node.value, str) and _URL.match(node.value)
    return node.value if is_url or node.value in spared else read(node, AbsolutePath)


def _built(
    node: YamlNode,
    chosen: type[Any],
    options: Mapping[str, tuple[YamlNode, Any]],
    required: Sequence[str],
) -> Any:
    """Return the thing with these options; note each that it forbids, at the option."""
    left = dict(options)
    while True:
        values = {option: value for option, (_, value) in left.items()}
        try:
            return attack_choice(chosen, values) if issubclass(chosen, Attack) else chosen(**values)
        except ValueError as error:
            places = {option: place for option, (place, _) in left.items()}
            culprit = named_in(str(error), replace(node, value=places))
            culprit.note(str(error))
            wrong = [option for option, place in places.items() if place is culprit]
            if not wrong or wrong[0] in required:
                return None
            del left[wrong[0]]  # another may be wrong too


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
            for option in _option_readers(chosen, axis) if chosen is not None else ():
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
    if _is_range(node):
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
    return _read_range(node, name, kind, *value_reader(name))


def _read_range(node: YamlNode, name: str, kind: type[R], reader: Reader, hint: Any) -> R:
    kinds = {hint, *get_args(hint)}
    if get_origin(hint) is tuple or not {int, float} & kinds:
        raise InvalidValue(node, f"{name} has no range, which is of numbers; list the values")
    number = int if int in kinds else float
    types = {"low": number, "high": number, "log": bool, "step": number}
    before = node.problems.count
    values = {}
    given = node.known(part.name for part in dataclasses.fields(kind))
    missing = [key for key in ("low", "high") if key not in given]
    if missing:
        raise InvalidValue(node, f"a range needs {' and '.join(missing)}")
    for key, part in given.items():
        with node.problems.collecting():
            values[key] = read(part, types[key])
            if key in ("low", "high"):
                reader(part)  # for the rules of the axis
    if node.problems.count > before:
        raise InvalidValue(node, "")
    with rules_of(node):
        return kind(**values)


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
