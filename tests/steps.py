"""Work that goes step by step, done to its end."""

from collections.abc import Generator
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")


def finished(steps: Generator[S, None, T]) -> tuple[list[S], T]:
    """Return all that a generator yields, and what it returns."""
    seen: list[S] = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            result: T = end.value
            return seen, result
