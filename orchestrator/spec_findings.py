"""Values of a study file with their places, and the mistakes found among them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.errors import Mistakes

T = TypeVar("T")
UNREADABLE = object()  # the value of a node whose mistake is told already


@dataclass(frozen=True, order=True)
class Place:
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
class Node:
    """One value of a study file.

    Attributes:
        path: Keys and list positions that lead to it, joined by dots.
        place: Its key's place, or its own where it is an item of a list.
        value: None, a bool, a number, a text, a tuple of nodes, a dict of nodes by key, or
            `UNREADABLE`.
        plain: Whether a scalar stood there without quotes.
    """

    path: str
    place: Place
    value: Any
    plain: bool = True

    @property
    def name(self) -> str:
        """The key that the value belongs to, for messages."""
        return next((part for part in self.path.split(".")[::-1] if not part.isdecimal()), "")


class Wrong(Exception):  # noqa: N818 - a finding about the user's text, not an error of ours
    """A value breaks a rule; the text says the rule and the value, empty if told already."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.node = node


class Findings:
    """The mistakes found so far, told in the order of the file."""

    def __init__(self) -> None:
        self._found: dict[tuple[Place, str], None] = {}  # in the order of finding
        self._count = 0

    def __len__(self) -> int:
        """How often something was found wrong, known or new."""
        return self._count

    def add(self, node: Node, text: str) -> None:
        """Note what is wrong with a value, once; an empty text says that it is told already."""
        self._count += 1
        parts = (node.place.shown, node.path, text.replace("\n", " "))
        if text:
            self._found[node.place, ": ".join(part for part in parts if part)] = None

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Note a `Wrong` that is raised inside, and go on after the block."""
        try:
            yield
        except Wrong as wrong:
            self.add(wrong.node, str(wrong))

    def read(self, node: Node | None, reader: Callable[[Node], T], default: T) -> T:
        """Return what `reader` makes of a node, or the default if it is absent or wrong."""
        if node is not None:
            with self.collecting():
                return reader(node)
        return default

    def raise_if_any(self) -> None:
        """End with all mistakes so far.

        Raises:
            Mistakes: There are some.
        """
        if self._found:
            in_order = sorted(self._found, key=lambda entry: entry[0])
            raise Mistakes([line for _, line in in_order])
