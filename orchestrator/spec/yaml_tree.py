"""A study file as a tree of values with their places, and the problems found in it.

PyYAML's constructors keep the last of two equal keys, copy the targets of aliases and drop the
places. The tree is made from its nodes instead.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import inf, ulp
from pathlib import Path
from typing import Any

import yaml

from orchestrator.address import redacted
from orchestrator.errors import SpecError
from orchestrator.spec.rules import nearest

UNREADABLE = object()  # the value of a node whose problem is noted already
MAX_BYTES = 100_000  # PyYAML needs a second or two for so much
MAX_DEPTH = 12
LARGEST = 10**18  # whole numbers fit 64 bits, in tables and elsewhere
# Only decimal numbers: YAML 1.1 would read 010 as 8, 1:30 as 90 and 1e-3 as a text.
NUMBER = re.compile(r"[-+]?(?=\.?[0-9])(0|[1-9][0-9_]*)?(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SPELLINGS: Mapping[Any, str] = {None: "null", True: "true yes on", False: "false no off"}
_WORDS = {"": None, "~": None} | {
    case(word): value
    for value, words in _SPELLINGS.items()
    for word in words.split()
    for case in (str.lower, str.title, str.upper)
}


@dataclass(frozen=True, order=True)
class Location:
    """Where a user wrote something; locations sort in reading order."""

    source: int  # 0 for the file, then the overrides in their order
    line: int  # from 0, inside the source
    column: int
    shown: str = field(compare=False)  # `FILE:LINE`, or the override as given


class Problems:
    """The problems found so far, reported in the order of the file."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Location, str], None] = {}  # in the order of finding
        self.count = 0  # of everything found, known or new

    def add(self, node: "YamlNode", text: str) -> None:
        """Note a problem once; an empty text is one that is noted already."""
        self.count += 1
        if text:
            parts = (node.place.shown, node.path, text.replace("\n", " "))
            self._lines[node.place, ": ".join(part for part in parts if part)] = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note an `InvalidValue` that is raised inside, and go on after the block."""
        try:
            yield
        except InvalidValue as invalid:
            for node, text in invalid.problems:
                self.add(node, text)

    def raise_if_any(self) -> None:
        """End with all problems so far.

        Raises:
            SpecError: There are some.
        """
        if self._lines:
            in_order = sorted(self._lines, key=lambda entry: entry[0])
            raise SpecError([line for _, line in in_order])


@dataclass(frozen=True, kw_only=True)
class YamlNode:
    """One value of a study file."""

    path: str  # keys and list positions that lead to it, joined by dots
    place: Location  # its key's, or its own where it is an item of a list
    # None, a bool, a number, a text, a tuple of nodes, a dict of nodes by key, or `UNREADABLE`.
    value: Any
    problems: Problems = field(repr=False)  # of the whole file

    @property
    def name(self) -> str:
        """The key that the value belongs to, for messages."""
        return next((part for part in self.path.split(".")[::-1] if not part.isdecimal()), "")

    @property
    def shown(self) -> str:
        """The value as a message shows it."""
        if isinstance(self.value, bool):
            return str(self.value).lower()
        kinds = {type(None): "nothing", tuple: "a list", dict: "a mapping"}
        text = kinds.get(type(self.value)) or redacted(repr(self.value))  # before it is cut
        return text if len(text) <= 60 else f"{text[:57]}..."

    @property
    def plain(self) -> Any:
        """The value without places; None stands for what cannot be read."""
        if isinstance(self.value, dict):
            return {key: node.plain for key, node in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.plain for node in self.value]
        return None if self.value is UNREADABLE else self.value

    @property
    def items(self) -> "tuple[YamlNode, ...]":
        """A list's items; anything else is a list of one."""
        return self.value if isinstance(self.value, tuple) else (self,)

    @property
    def entries(self) -> "dict[str, YamlNode]":
        """A mapping's entries; anything else has none."""
        return self.value if isinstance(self.value, dict) else {}

    def inner(self) -> "Iterator[YamlNode]":
        """Yield the values of a mapping, and of those in it."""
        for node in self.entries.values():
            yield node
            yield from node.inner()

    def at(self, keys: Iterable[str | int]) -> "YamlNode":
        """Return the node that keys and positions lead to, or the last one on the way."""
        node = self
        for key in keys:
            is_item = isinstance(node.value, tuple) and isinstance(key, int)
            if is_item or key in node.entries:
                node = node.value[key]
        return node

    def child(self, key: str, value: Any) -> "YamlNode":
        """Return a node for a key that the file leaves out."""
        return replace(self, path=f"{self.path}.{key}".lstrip("."), value=value)

    def note(self, text: str) -> None:
        """Note a problem with the value."""
        self.problems.add(self, text)

    def invalid(self, rule: str, end: str = "") -> "InvalidValue":
        """Return the exception for a value that breaks the rule of its key."""
        noted = self.value is UNREADABLE
        return InvalidValue(self, "" if noted else f"{self.name} is {rule}; got {self.shown}{end}")

    def known(
        self, valid: Iterable[str], elsewhere: "Callable[[str, YamlNode], str] | None" = None
    ) -> "dict[str, YamlNode]":
        """Return the entries with valid keys, and note the others; nothing has no entries.

        Args:
            valid: The keys.
            elsewhere: Returns where a key that is not valid belongs, "" if it is no key at all.

        Raises:
            InvalidValue: The value is no mapping.
        """
        if self.value is not None and not isinstance(self.value, dict):
            raise self.invalid("a mapping")
        names = list(valid)
        for key, node in self.entries.items():
            if key not in names:
                where = elsewhere(key, node) if elsewhere else ""
                node.note(where or f"unknown key{nearest(key, names, 'the keys are')}")
        return {key: node for key, node in self.entries.items() if key in names}


class InvalidValue(Exception):  # noqa: N818 - a finding about the user's text, not an error of ours
    """Values break rules; a text has the rule and the value, and is empty if noted already."""

    def __init__(self, node: YamlNode, text: str, *more: tuple[YamlNode, str]) -> None:
        super().__init__(text)
        self.problems = ((node, text), *more)


def read_tree(path: str, overrides: Sequence[str]) -> YamlNode:
    """Return the root mapping of a file after ``KEY=VALUE`` overrides.

    Raises:
        SpecError: There is no mapping to go on with. What is wrong inside it is noted in
            the problems of the root instead.
    """
    start = Location(0, 0, 0, f"{path}:1")
    root = top = YamlNode(path="", place=start, value=UNREADABLE, problems=Problems())
    text = _text_of(path)
    with top.problems.collecting():
        root = _parse(text, top, lambda line: f"{path}:{line + 1}")
    if root.value is None:
        raise SpecError([f"{path}: the file is empty; a study has a name and a grid"])
    if not isinstance(root.value, dict):
        noted = root.value is UNREADABLE
        root.note("" if noted else "a study is a mapping of keys to values")
        root.problems.raise_if_any()
    for number, override in enumerate(overrides, start=1):
        with root.problems.collecting():
            root = _overridden(root, override, Location(number, 0, 0, f"--set {override}"))
    return root


def _text_of(path: str) -> str:
    if Path(path).is_dir():
        raise SpecError([f"{path}: this is a folder; name the study file in it"])
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError([f"{path}: there is no such file"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError([f"{path}: the file cannot be read: {reason}"]) from error
    if len(content) > MAX_BYTES:
        raise SpecError([f"{path}: a study file has at most {MAX_BYTES // 1000} kB"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise SpecError(
            [f"{path}:{line}: the file is not UTF-8 text; got byte {byte:#x}"]
        ) from error


def _overridden(root: YamlNode, override: str, place: Location) -> YamlNode:
    """Return the tree with one ``KEY=VALUE`` applied; missing keys are added."""
    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    top = replace(root, place=place, value=UNREADABLE)
    if not equals or not all(keys):
        raise InvalidValue(top, "an override is KEY=VALUE, its key a dotted path such as grid.seed")
    new = _parse(text, replace(top, path=".".join(keys)), lambda _: place.shown)
    return _put(root, keys, new)


def _put(node: YamlNode, keys: Sequence[str], new: YamlNode) -> YamlNode:
    if not keys:
        return new
    key, rest = keys[0], keys[1:]
    path = f"{node.path}.{key}".lstrip(".")
    if node.value is None or isinstance(node.value, dict):
        inner = node.entries.get(key, replace(new, path=path, value=None))
        return replace(node, value={**node.entries, key: _put(inner, rest, new)})
    if isinstance(node.value, tuple) and re.fullmatch("[0-9]{1,6}", key):
        index, items = int(key), list(node.value)
        if index < len(items):
            items[index] = _put(items[index], rest, new)
            return replace(node, value=tuple(items))
    holds = "no keys"
    if isinstance(node.value, tuple):
        holds = "1 item" if len(node.value) == 1 else f"{len(node.value)} items"
    raise InvalidValue(new, f"{node.path} has {holds}, so there is no {path} to set")


class _Composer(yaml.SafeLoader):
    """PyYAML's nodes, each with a `refusal`: why a study file may not have it."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        parser: Any = self
        event = parser.peek_event()
        if self.depth > MAX_DEPTH:
            problem = f"a study file is at most {MAX_DEPTH} levels deep"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        is_alias = isinstance(event, yaml.AliasEvent)
        node: Any = yaml.ScalarNode("", "", event.start_mark, event.end_mark)
        if is_alias:
            parser.get_event()
        else:
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
        node.refusal = ""
        if is_alias or event.anchor is not None:
            node.refusal = "anchors and aliases are not read here; write the value out"
        elif event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            node.refusal = f"YAML tags are not read here; got {tag}"
        return node  # type: ignore[no-any-return]


def _parse(text: str, top: YamlNode, shown: Any) -> YamlNode:
    """Return the root of the one document in `text`; None is the value of an empty one."""

    def located(node: YamlNode, line: int, column: int) -> YamlNode:
        return replace(node, place=Location(top.place.source, line, column, shown(line)))

    composer: Any = None
    try:
        composer = _Composer(text)
        root = composer.get_single_node()
        return replace(top, value=None) if root is None else _tree(root, top, located)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        problem = f"{error.reason}; got {chr(error.character)!r}"
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        line, problem = mark.line, ", ".join(filter(None, (error.context, error.problem)))
    except (ValueError, OverflowError):
        line, problem = composer.line, "an escape names no character"
    raise InvalidValue(located(top, line, 0), f"this is not YAML: {problem}")


def _tree(composed: Any, node: YamlNode, located: Any, *, key: Any = None) -> YamlNode:
    """Return what PyYAML composed as a node like `node`, at the place of its key or its own."""
    mark, refusal = (key or composed).start_mark, composed.refusal
    node = located(node, mark.line, mark.column)
    if isinstance(composed, yaml.MappingNode):
        node = replace(node, value=_entries(composed, node, located))
    elif isinstance(composed, yaml.SequenceNode):
        items = enumerate(composed.value)
        node = replace(
            node, value=tuple(_tree(i, node.child(str(n), 0), located) for n, i in items)
        )
    if refusal:
        node.note(refusal)
        return replace(node, value=UNREADABLE)
    return _scalar(composed, node) if composed.id == "scalar" else node


def _entries(composed: Any, node: YamlNode, located: Any) -> dict[str, YamlNode]:
    entries: dict[str, YamlNode] = {}
    for key, value in composed.value:
        place = located(node, key.start_mark.line, key.start_mark.column)
        if key.id != "scalar" or key.refusal:
            place.note("a key is a plain word")
            continue
        if key.value == "<<" and key.style is None:
            place.note("merge keys are not read here; write the keys out")
            continue
        shown = key.value if key.value and key.value.isprintable() else repr(key.value)
        child = _tree(value, node.child(shown, UNREADABLE), located, key=key)
        if key.value in entries:
            first = entries[key.value].place.line + 1
            child.note(f"the key stands twice; first on line {first}")
        else:
            entries[key.value] = child
    return entries


def _scalar(composed: Any, node: YamlNode) -> YamlNode:
    """Return a scalar as null, a bool, a finite number in its shortest form, or a text."""
    text = composed.value
    is_plain, as_text = composed.style is None, replace(node, value=text)
    if is_plain and text in _WORDS:
        return replace(node, value=_WORDS[text])
    if is_plain and (_NOT_FINITE.fullmatch(text) or NUMBER.fullmatch(text)):
        value = inf if _NOT_FINITE.fullmatch(text) else _number(text.replace("_", ""))
        if abs(value) <= LARGEST:
            return replace(node, value=value)
        shown = as_text.shown.strip("'")
        node.note(f"{node.name} is a finite number, at most 10^18 in magnitude; got {shown}")
    elif text and text.isprintable():
        return as_text
    else:
        rule = "a text in one line, of printable characters"
        node.note(f"{node.name} is {rule}; got {as_text.shown}")
    return replace(node, value=UNREADABLE)


def _number(digits: str) -> float:
    """Return a number; whole ones are ints, however they are written.

    0.30000000000000004, as arithmetic in floats leaves it, is read as the 0.3 that it stands
    for, so that no axis has one value twice.
    """
    if digits.lstrip("+-").isdecimal() and len(digits) <= 40:
        return int(digits)
    value = float(digits)
    rounded = float(f"{value:.12g}")
    if len(repr(rounded)) <= 12 and abs(rounded - value) <= 4 * ulp(value):
        value = rounded
    return int(value) if value.is_integer() and abs(value) <= LARGEST else value
