"""Entries of the attack, dataset and architecture axes: a name, or a name with options."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from typing import Any, get_type_hints

from orchestrator.definition import AttackChoice
from orchestrator.spec_findings import UNREADABLE, Findings, Node, Wrong
from orchestrator.spec_places import absolute_path
from orchestrator.spec_values import Reader, axis_values, fail, known, nearest, reader_for, word
from ulrl.attacks import ATTACKS, LabelRule, Stamp
from ulrl.datasets import DATASETS
from ulrl.models import ARCHITECTURES

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

    node: Node
    value: Any
    options: Mapping[str, Node] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Kind:
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
    "attack": Kind(
        word="attack",
        registry=ATTACKS,
        build=attack_choice,
        extra=ATTACK_OPTIONS,
    ),
    "dataset": Kind(
        word="dataset",
        registry=DATASETS,
        build=lambda dataset, options: dataset(**options),
        usage={"arrays": "{arrays: FILE.npz}"},
    ),
    "architecture": Kind(
        word="architecture",
        registry=ARCHITECTURES,
        build=lambda architecture, options: architecture(**options),
        families={"timm": "model"},
    ),
}


def class_of(node: Node, name: str, kind: Kind) -> type[Any]:
    """Return the class that a name selects.

    Raises:
        Wrong: There is none.
    """
    family = name.partition(":")[0]
    registered = family if family in kind.families else name
    if registered in kind.registry:
        return kind.registry[registered]
    names = [_usual(other, kind) for other in sorted(kind.registry)]
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and all(part in kind.registry for part in parts):
        text = f"several names are a list; write [{', '.join(parts)}]; got {name!r}"
        raise Wrong(node, text)
    misspelt = family if kind.families else name
    raise Wrong(node, f"no {kind.word} is called {name!r}" + nearest(misspelt, names, "there are"))


def _usual(name: str, kind: Kind) -> str:
    """Return how an entry of that name is written at its shortest."""
    return f"{name}:{kind.families[name].upper()}" if name in kind.families else name


def read_entry(node: Node, kind: Kind, found: Findings) -> list[Item]:
    """Return what one entry stands for: one thing, or one per value of its options.

    What is wrong with an option is noted, and its right values stand.

    Raises:
        Wrong: The entry cannot be understood at all.
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
            raise Wrong(node, f"{bare} cannot stand alone; write {usage}")
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


def _name_and_options(node: Node, kind: Kind) -> tuple[Node, str, dict[str, Node]]:
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
        raise Wrong(node, "")
    raise Wrong(node, f"the {kind.word} has no name; write {{name: ..., OPTION: ...}}")


def _implied(place: Node, name: str, kind: Kind, given: dict[str, Node]) -> dict[str, Node]:
    """Return the options of an entry with the one that its name says after a colon."""
    family, _, rest = name.partition(":")
    if not rest or family not in kind.families:
        return given
    option = kind.families[family]
    if option in given:
        raise Wrong(given[option], f"{name} says its {option} in its name; leave {option} out")
    return {option: replace(place, value=rest), **given}


def _option_readers(chosen: type[Any], kind: Kind) -> dict[str, tuple[Reader, Any]]:
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

    def read(node: Node) -> Any:
        is_url = isinstance(node.value, str) and _URL.match(node.value)
        return node.value if is_url or node.value in spared else absolute_path(node)

    return read


def _default_paths(node: Node, chosen: type[Any]) -> dict[str, Node]:
    """Return the paths that an entry leaves to their defaults, so that they are made absolute."""
    return {
        part.name: Node(path=f"{node.path}.{part.name}", place=node.place, value=part.default)
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
    kind: Kind, chosen: type[Any], options: Mapping[str, Any], place: Node, found: Findings
) -> Any:
    """Return the thing with these options, or None after a note of what forbids them."""
    try:
        return kind.build(chosen, options)
    except ValueError as error:
        found.add(place, str(error))
        return None


def _expanded(
    node: Node,
    kind: Kind,
    chosen: type[Any],
    values: Mapping[str, list[tuple[Node, Any]]],
    found: Findings,
) -> list[Item]:
    count = prod(len(candidates) for candidates in values.values())
    if count > MAX_VARIANTS:
        raise Wrong(node, f"one entry stands for at most {MAX_VARIANTS:,}; got {count:,}")
    entries = []
    for combination in product(*values.values()):
        named = dict(zip(values, combination, strict=True))
        options = {option: value for option, (_, value) in named.items()}
        value = _made(kind, chosen, options, node, found)
        if value is not None:
            places = {option: place for option, (place, _) in named.items()}
            entries.append(Item(node=node, value=value, options=places))
    return entries
