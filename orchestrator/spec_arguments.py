"""Arguments of Optuna's pruners and samplers: read by tables that repeat its signatures.

So a file is checked without importing Optuna; tests hold the tables and Optuna together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.spec_findings import Findings, Node, Wrong
from orchestrator.spec_values import Reader, at_most, between, fail, known, listed, truth, whole

REQUIRED = object()


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument; a default of None is left to Optuna."""

    read: Reader
    default: Any = REQUIRED
    low: float = float("-inf")
    high: float | None = None
    most: int | None = None  # of a count: what Optuna still takes in sensible time and memory


Table: TypeAlias = Mapping[str, Argument]
MOST = 1_000_000  # a study has as many trials


def counted(default: Any, low: int = 0, most: int = MOST) -> Argument:
    """Return an argument that is a whole number, from `low` to `most`."""
    return Argument(read=whole, default=default, low=low, most=most)


def switch(*, default: bool | None) -> Argument:
    """Return an argument that is true or false."""
    return Argument(read=truth, default=default)


def auto_or_whole(node: Node) -> int | str:
    if node.value == "auto":
        return "auto"
    try:
        return whole(node)
    except Wrong:
        raise fail(node, "a whole number or auto") from None


def defaults(table: Table) -> dict[str, Any]:
    """Return the arguments that have a default of ours."""
    parts = table.items()
    return {key: part.default for key, part in parts if part.default not in (REQUIRED, None)}


def in_range(node: Node, argument: Argument) -> Any:
    """Return an argument's value, once it is of its type and in its range."""
    value = argument.read(node)
    if isinstance(value, int | float):
        between(node, value, argument.low, argument.high)
        if argument.most is not None:
            at_most(node, value, argument.most)
    return value


def read_arguments(
    node: Node,
    name: str,
    table: Table,
    given: Mapping[str, Node],
    found: Findings,
    read: Callable[[Node, str], Any],
) -> dict[str, Any]:
    """Return all arguments of what is called `name`; `read` makes one of a place and a key."""
    chosen = defaults(table)
    complaint = f"{name} has no argument {{!r}}"
    for key, place in known(given, table, found, complaint, "it has").items():
        with found.collecting():
            chosen[key] = read(place, key)
    missing = [key for key, part in table.items() if part.default is REQUIRED and key not in given]
    if missing:
        raise Wrong(node, f"{name} needs {listed(missing, ' and ')}")
    return chosen
