"""YAML as a tree of nodes with their places, and the problems found in it.

PyYAML's loaders keep the last of two equal keys, copy what aliases name and forget where a
value stood. Its parser tells all of that, so the tree is made from the parser's events.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from orchestrator.errors import SpecError

T = TypeVar("T")
UNREADABLE = object()  # the value of a node whose mistake is told already


@dataclass(frozen=True, order=True)
class Location:
    """Where a user wrote something; places sort in the order in which one reads them.

    Attributes:
        source: 0 for the file, then the overrides in their order.
        line: From 0, inside the source.
        column: From 0.
        shown: What a message begins with: ``FILE:LINE``, or the override as given.
    """

    source: int
    line: int
    column: int
    shown: str = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class YamlNode:
    """One value of a study file.

    Attributes:
        path: Keys and list positions that lead to it, joined by dots.
        place: Its key's place, or its own where it is an item of a list.
        value: None, a bool, a number, a text, a tuple of nodes, a dict of nodes by key, or
            `UNREADABLE`.
        plain: Whether a scalar stood there without quotes.
    """

    path: str
    place: Location
    value: Any
    plain: bool = True

    @property
    def name(self) -> str:
        """The key that the value belongs to, for messages."""
        return next((part for part in self.path.split(".")[::-1] if not part.isdecimal()), "")


class InvalidValue(Exception):  # noqa: N818 - a finding about the user's text, not an error of ours
    """A value breaks a rule; the text says the rule and the value, empty if told already."""

    def __init__(self, node: YamlNode, text: str) -> None:
        super().__init__(text)
        self.node = node


class Problems:
    """The mistakes found so far, told in the order of the file."""

    def __init__(self) -> None:
        self._found: dict[tuple[Location, str], None] = {}  # in the order of finding
        self._count = 0

    def __len__(self) -> int:
        """How often something was found wrong, known or new."""
        return self._count

    def add(self, node: YamlNode, text: str) -> None:
        """Note what is wrong with a value, once; an empty text says that it is told already."""
        self._count += 1
        parts = (node.place.shown, node.path, text.replace("\n", " "))
        if text:
            self._found[node.place, ": ".join(part for part in parts if part)] = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note a `InvalidValue` that is raised inside, and go on after the block."""
        try:
            yield
        except InvalidValue as wrong:
            self.add(wrong.node, str(wrong))

    def read(self, node: YamlNode | None, reader: Callable[[YamlNode], T], default: T) -> T:
        """Return what `reader` makes of a node, or the default if it is absent or wrong."""
        if node is not None:
            with self.collecting():
                return reader(node)
        return default

    def raise_if_any(self) -> None:
        """End with all mistakes so far.

        Raises:
            SpecError: There are some.
        """
        if self._found:
            in_order = sorted(self._found, key=lambda entry: entry[0])
            raise SpecError([line for _, line in in_order])


MAX_BYTES = 100_000  # PyYAML needs a second or two for so much
MAX_DEPTH = 12
YAML_TAG = "tag:yaml.org,2002:"
_RESOLVER = yaml.SafeLoader("")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")


def read_tree(path: str, overrides: Sequence[str], found: Problems) -> YamlNode:
    """Return the root mapping of a file after ``KEY=VALUE`` overrides.

    Raises:
        SpecError: There is no mapping to go on with. What is wrong inside it is noted in
            `found` instead.
    """
    text = _text_of(path)

    def place(line: int, column: int) -> Location:
        return Location(source=0, line=line, column=column, shown=f"{path}:{line + 1}")

    top = YamlNode(path="", place=place(0, 0), value=UNREADABLE)
    root = found.read(top, lambda _: _parse(text, "", place, found), top)
    if root.value is None:
        raise SpecError([f"{path}: the file is empty; a study has a name and a grid"])
    if not isinstance(root.value, dict):
        found.add(
            root, "" if root.value is UNREADABLE else "a study is a mapping of keys to values"
        )
        found.raise_if_any()
    for number, override in enumerate(overrides, start=1):
        with found.collecting():
            root = _overridden(root, override, number, found)
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


def _overridden(root: YamlNode, override: str, number: int, found: Problems) -> YamlNode:
    """Return the tree with one ``KEY=VALUE`` applied; keys that are not there are made."""

    def place(line: int, column: int) -> Location:
        return Location(source=number, line=line, column=column, shown=f"--set {override}")

    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        start = YamlNode(path="", place=place(0, 0), value=UNREADABLE)
        raise InvalidValue(
            start, "an override is KEY=VALUE, its key a dotted path such as grid.seed"
        )
    return _put(root, keys, _parse(text, ".".join(keys), place, found))


def _put(node: YamlNode, keys: Sequence[str], new: YamlNode) -> YamlNode:
    key, rest = keys[0], keys[1:]
    path = f"{node.path}.{key}".lstrip(".")
    absent = YamlNode(path=path, place=new.place, value=None)
    if node.value is None or isinstance(node.value, dict):
        children = dict(node.value or {})
        children[key] = _put(children.get(key, absent), rest, new) if rest else new
        return replace(node, value=children)
    if isinstance(node.value, tuple) and re.fullmatch("[0-9]{1,6}", key):
        index, items = int(key), list(node.value)
        if index < len(items):
            items[index] = _put(items[index], rest, new) if rest else new
            return replace(node, value=tuple(items))
    holds = f"{len(node.value)} items" if isinstance(node.value, tuple) else "no keys"
    raise InvalidValue(new, f"{node.path} has {holds}, so there is no {path} to set")


def _parse(
    text: str, path: str, place: Callable[[int, int], Location], found: Problems
) -> YamlNode:
    """Return the root of the one document in `text`; None is the value of an empty one."""
    try:
        builder = _Builder(text, place, found)
        return builder.document(path)
    except yaml.reader.ReaderError as error:
        start = place(text.count("\n", 0, error.position), 0)
        problem = f"{error.reason}; got {chr(error.character)!r}"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        start = place(mark.line, mark.column) if mark else place(0, 0)
        problem = ", ".join(part for part in (error.context, error.problem) if part)
    except (ValueError, OverflowError):
        start, problem = builder.reached(), "an escape names no character"
    raise InvalidValue(
        YamlNode(path=path, place=start, value=UNREADABLE), f"this is not YAML: {problem}"
    )


class _Builder:
    """Nodes from the parser's events, which come one by one as the text is scanned."""

    def __init__(self, text: str, place: Callable[[int, int], Location], found: Problems) -> None:
        self._loader = yaml.SafeLoader(text)
        self._events: Iterator[Any] = iter(self._loader.get_event, None)
        self._place = place
        self._found = found

    def document(self, path: str) -> YamlNode:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return YamlNode(path=path, place=self._place(0, 0), value=None)
        root = self._node(next(self._events), path, None, 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            second = YamlNode(path=path, place=self._at(event), value=None)
            self._found.add(second, "a second document starts here; a study file has one")
        return root

    def reached(self) -> Location:
        """Return the place up to which the text has been scanned."""
        return self._place(self._loader.line, self._loader.column)

    def _at(self, event: Any) -> Location:
        return self._place(event.start_mark.line, event.start_mark.column)

    def _node(self, event: Any, path: str, place: Location | None, depth: int) -> YamlNode:
        node = YamlNode(path=path, place=place or self._at(event), value=UNREADABLE)
        if depth > MAX_DEPTH:
            raise InvalidValue(node, f"a study file is at most {MAX_DEPTH} levels deep")
        if event.anchor is not None:
            self._found.add(node, "anchors and aliases are not read here; write the value out")
        if isinstance(event, yaml.AliasEvent):
            return node
        value: Any = event.value if isinstance(event, yaml.ScalarEvent) else None
        plain = isinstance(event, yaml.ScalarEvent) and bool(event.implicit[0])
        if plain:
            value = plain_value(event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = self._items(path, depth)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._entries(path, depth)
        if event.tag is not None:
            tag = event.tag.replace(YAML_TAG, "!!")
            self._found.add(node, f"YAML tags are not read here; got {tag}")
            return node
        return replace(node, value=value, plain=plain)

    def _items(self, path: str, depth: int) -> tuple[YamlNode, ...]:
        items: list[YamlNode] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}.{len(items)}".lstrip("."), None, depth + 1))
        return tuple(items)

    def _entries(self, path: str, depth: int) -> dict[str, YamlNode]:
        entries: dict[str, YamlNode] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = self._at(event)
            refusal = _key_refusal(event)
            if refusal:
                self._found.add(YamlNode(path=path, place=place, value=UNREADABLE), refusal)
                self._skip(event)
                self._skip(next(self._events))
                continue
            key = event.value
            shown = key if key and key.isprintable() else repr(key)
            node = self._node(next(self._events), f"{path}.{shown}".lstrip("."), place, depth + 1)
            if key in entries:
                first = entries[key].place.line + 1
                self._found.add(node, f"the key stands twice; first on line {first}")
            else:
                entries[key] = node
        return entries

    def _skip(self, event: Any) -> None:
        """Pass over a node whose first event this is."""
        level = 0
        while True:
            level += isinstance(event, yaml.CollectionStartEvent)
            level -= isinstance(event, yaml.CollectionEndEvent)
            if level == 0:
                return
            event = next(self._events)


def _key_refusal(event: Any) -> str:
    """Return why a key cannot be one, or nothing."""
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
        return "a key is a plain word"
    if event.value == "<<" and event.implicit[0]:
        return "merge keys are not read here; write the keys out"
    return ""


def plain_value(text: str) -> Any:
    """Return what an unquoted scalar stands for: nothing, a truth, a number, or its text.

    Only decimal numbers are numbers: YAML 1.1 would read ``010`` as 8 and ``1:30`` as 90,
    and dates are of no use here.
    """
    tag: str = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    kind = tag.removeprefix(YAML_TAG)
    digits = text.replace("_", "").lower()
    if kind == "null":
        return None
    if kind == "bool":
        return digits in ("true", "yes", "on")
    if kind == "int" and _DECIMAL.fullmatch(digits):
        return int(digits)
    if kind == "float" and ":" not in text:
        return float(digits.replace(".inf", "inf").replace(".nan", "nan"))
    return text
