"""A YAML file as a tree of nodes that know their place; what YAML would hide is refused.

PyYAML's loaders keep the last of two equal keys, copy what aliases name and forget where a
value stood. Its parser tells all of that, so the tree is made from the parser's events.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from orchestrator.errors import Mistakes
from orchestrator.spec_findings import UNREADABLE, Findings, Node, Place, Wrong

MAX_BYTES = 100_000  # PyYAML needs a second or two for so much
MAX_DEPTH = 12
YAML_TAG = "tag:yaml.org,2002:"
_RESOLVER = yaml.SafeLoader("")
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})")


def read_tree(path: str, overrides: Sequence[str], found: Findings) -> Node:
    """Return the root mapping of a file after ``KEY=VALUE`` overrides.

    Raises:
        Mistakes: There is no mapping to go on with. What is wrong inside it is noted in
            `found` instead.
    """
    text = _text_of(path)

    def place(line: int, column: int) -> Place:
        return Place(source=0, line=line, column=column, shown=f"{path}:{line + 1}")

    top = Node(path="", place=place(0, 0), value=UNREADABLE)
    root = found.read(top, lambda _: _parse(text, "", place, found), top)
    if root.value is None:
        raise Mistakes([f"{path}: the file is empty; a study has a name and a grid"])
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
        raise Mistakes([f"{path}: this is a folder; name the study file in it"])
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Mistakes([f"{path}: there is no such file"]) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Mistakes([f"{path}: the file cannot be read: {reason}"]) from error
    if len(content) > MAX_BYTES:
        raise Mistakes([f"{path}: a study file has at most {MAX_BYTES // 1000} kB"])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, byte = content.count(b"\n", 0, error.start) + 1, content[error.start]
        raise Mistakes(
            [f"{path}:{line}: the file is not UTF-8 text; got byte {byte:#x}"]
        ) from error


def _overridden(root: Node, override: str, number: int, found: Findings) -> Node:
    """Return the tree with one ``KEY=VALUE`` applied; keys that are not there are made."""

    def place(line: int, column: int) -> Place:
        return Place(source=number, line=line, column=column, shown=f"--set {override}")

    key, equals, text = override.partition("=")
    keys = key.strip().split(".")
    if not equals or not all(keys):
        start = Node(path="", place=place(0, 0), value=UNREADABLE)
        raise Wrong(start, "an override is KEY=VALUE, its key a dotted path such as grid.seed")
    return _put(root, keys, _parse(text, ".".join(keys), place, found))


def _put(node: Node, keys: Sequence[str], new: Node) -> Node:
    key, rest = keys[0], keys[1:]
    path = f"{node.path}.{key}".lstrip(".")
    absent = Node(path=path, place=new.place, value=None)
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
    raise Wrong(new, f"{node.path} has {holds}, so there is no {path} to set")


def _parse(text: str, path: str, place: Callable[[int, int], Place], found: Findings) -> Node:
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
    raise Wrong(Node(path=path, place=start, value=UNREADABLE), f"this is not YAML: {problem}")


class _Builder:
    """Nodes from the parser's events, which come one by one as the text is scanned."""

    def __init__(self, text: str, place: Callable[[int, int], Place], found: Findings) -> None:
        self._loader = yaml.SafeLoader(text)
        self._events: Iterator[Any] = iter(self._loader.get_event, None)
        self._place = place
        self._found = found

    def document(self, path: str) -> Node:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return Node(path=path, place=self._place(0, 0), value=None)
        root = self._node(next(self._events), path, None, 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            second = Node(path=path, place=self._at(event), value=None)
            self._found.add(second, "a second document starts here; a study file has one")
        return root

    def reached(self) -> Place:
        """Return the place up to which the text has been scanned."""
        return self._place(self._loader.line, self._loader.column)

    def _at(self, event: Any) -> Place:
        return self._place(event.start_mark.line, event.start_mark.column)

    def _node(self, event: Any, path: str, place: Place | None, depth: int) -> Node:
        node = Node(path=path, place=place or self._at(event), value=UNREADABLE)
        if depth > MAX_DEPTH:
            raise Wrong(node, f"a study file is at most {MAX_DEPTH} levels deep")
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

    def _items(self, path: str, depth: int) -> tuple[Node, ...]:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, f"{path}.{len(items)}".lstrip("."), None, depth + 1))
        return tuple(items)

    def _entries(self, path: str, depth: int) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            place = self._at(event)
            refusal = _key_refusal(event)
            if refusal:
                self._found.add(Node(path=path, place=place, value=UNREADABLE), refusal)
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
