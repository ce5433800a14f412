"""Numbers that a run of the mirror lacks, given what it holds."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from orchestrator.records import Record

Value: TypeAlias = tuple[str, float, int, int]  # name, value, time in ms since 1970, step
History: TypeAlias = Callable[[str], list[Any]]  # a metric's values so far, by its name

SYSTEM = "system/"  # metrics of the machine: their steps are seconds since 1970


def lacking(record: Record, had: Mapping[str, float], birth: int, history: History) -> list[Value]:
    """Return the values of `record` that a run has not got.

    A value's time is the run's birth, so that sending it twice is sending it once; a value
    that takes another's place needs a later time. Final values stand at step 0 in all runs.

    Args:
        record: What the run is to hold.
        had: Its last values.
        birth: When it began, in ms since 1970.
        history: Asked for the curves that it has begun.
    """
    return [*_finals(record, had, birth), *_points(record, had, birth, history)]


def _finals(record: Record, had: Mapping[str, float], birth: int) -> Iterator[Value]:
    for name, value in record.metrics.items():
        if had.get(name) != value:
            yield name, value, _later(birth) if name in had else birth, 0


def _points(
    record: Record, had: Mapping[str, float], birth: int, history: History
) -> Iterator[Value]:
    for name, curve in record.curves.items():
        past = sorted(history(name) if name in had else (), key=lambda point: point.timestamp)
        held = {point.step: point.value for point in past}
        when = _later(birth) if held else birth
        for step, value in curve:
            if held.get(step) != value:
                yield name, value, 1000 * step if name.startswith(SYSTEM) else when, step


def _later(birth: int) -> int:
    """Return the time in milliseconds, which is after `birth` whatever clocks say."""
    return max(time.time_ns() // 1_000_000, birth + 1)
