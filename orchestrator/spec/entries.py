"""Entries of the grid's lists: an attack, a dataset, a network or a method, with its options.

An entry stands for one thing, or for one per combination of its options' values. A key that stands
where it does not belong is refused with the place where it does.
"""

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import EnumType
from functools import partial
from itertools import product
from math import prod
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from orchestrator.spec.dump import in_line
from orchestrator.spec.model import (
    FIRST_SETTINGS,
    SCENARIO_AXES,
    AttackChoice,
    Budget,
    Limits,
    Resources,
    Tracking,
    VictimRule,
    is_of_ulrl,
)
from orchestrator.spec.rules import AbsolutePath, nearest
from orchestrator.spec.space import DrawnMethod, Range, Span
from orchestrator.spec.validation import Reader, axis_values, named_in, read, rules_of
from orchestrator.spec.yaml_tree import UNREADABLE, InvalidValue, YamlNode
from ulrl.attacks import ATTACKS, Attack, LabelRule, Stamp
from ulrl.audits import AUDITS
from ulrl.datasets import DATASETS
from ulrl.hyperparameters import names
from ulrl.methods import METHODS, TUNERS, ULRL, TuningMethod
from ulrl.models import ARCHITECTURES
from ulrl.registry import words_of
from ulrl.supervised import VictimConfig


def _names_of(kind: type[Any]) -> tuple[str, ...]:
    return tuple(part.name for part in dataclasses.fields(kind))


MAX_VARIANTS = 10_000
AXES = (
    *(*SCENARIO_AXES, *FIRST_SETTINGS, "preset", "repair"),
    *(name for name in names() if name not in FIRST_SETTINGS),
)
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
    readers = option_readers(chosen, axis)
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
        text = refusal(**{pivot: one, option: value}) if option != pivot else ""
        return text if text.startswith(f"{option} ") and not refusal(**{option: value}) else ""

    for pivot, listed in values.items():
        if len(listed) == 1 or issubclass(chosen, Attack):
            continue
        refusals = [
            {o: text for o in values if (text := against(o, pivot, one))} for _, one in listed
        ]
        mixed = [o for o in values if any(o in texts for texts in refusals)]
        if not mixed or any(all(o in texts for texts in refusals) for o in mixed):
            continue
        entries: dict[tuple[str, ...], list[Any]] = defaultdict(list)
        for (at, _), texts in zip(listed, refusals, strict=True):
            entries[tuple(texts)].append(at.plain)
        lines = []
        for left_out, some in entries.items():
            others = {o: part.plain for o, part in node.entries.items() if o not in left_out}
            lines.append(in_line({**others, pivot: some if len(some) > 1 else some[0]}))
        text = next(texts[mixed[0]] for texts in refusals if mixed[0] in texts).partition(";")[0]
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
        if not is_range(part):
            others[option] = part
            continue
        if not drawn:
            part.note(f"no range is taken here, {NO_RANGE}; list the values")
            continue
        with part.problems.collecting():
            ranges[option] = part, read_bounds(part, option, Range, *readers[option])
    return ranges, others


def is_range(node: YamlNode) -> bool:
    """Return whether a value is part of an axis, from ``low`` to ``high``."""
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
        if name in option_readers(_ENTRIES[axis][name], axis):  # {arrays: FILE.npz}
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
        axis: [name for name, kind in registry.items() if key in option_readers(kind, axis)]
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


def option_readers(chosen: type[Any], axis: str) -> dict[str, tuple[Reader, Any]]:
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


def read_bounds(node: YamlNode, name: str, kind: type[R], reader: Reader, hint: Any) -> R:
    """Return a `Range` or a `Span` of numbers.

    Args:
        node: The mapping with ``low`` and ``high``.
        name: Of the axis or option, for messages.
        kind: What to return.
        reader: Of one value, with the rules that both ends keep.
        hint: The type of one value.

    Raises:
        InvalidValue: It is no range, or an end breaks a rule.
    """
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
