"""What a setting axis that is drawn from can hold, and all settings that can be drawn."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice, product
from math import floor, log10, prod
from typing import Any, TypeAlias

from ulrl.methods import RepairMethod

DIGITS = 3  # after the first, to which a value is drawn: of the width or, if log, of itself
MOST_STEPS = 1_000_000  # a study has as many trials
MOST_DIGITS = 12  # of a value in all, as many as a study file's numbers have
ENUMERATED = 200_000  # settings looked through for one that is not drawn yet

Values: TypeAlias = Mapping[str, Any]  # of each setting axis by its name


@dataclass(frozen=True, kw_only=True)
class Range:
    """An axis between two values, both of which belong to it."""

    low: float  # a whole number where all values are
    high: float
    log: bool = False  # whether the logarithm is spread evenly instead of the value
    step: float | None = None  # between values, counted from `low`; None is any value

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise ValueError(f"high is above low, {self.low}; got {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low is above 0 where log is true; got {self.low}")
        if self.step is None:
            return
        if self.log:
            raise ValueError("step and log exclude each other; leave one out")
        if self.step <= 0:
            raise ValueError(f"step is above 0; got {self.step:g}")
        steps = (self.high - self.low) / self.step
        if steps > MOST_STEPS:
            raise ValueError(
                f"step is for at most {MOST_STEPS:,} values; got {steps:.3g}; leave it out, or "
                f"raise it"
            )
        if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
            below = self.low + int(steps) * self.step
            raise ValueError(
                f"high is low plus a whole number of steps; got {self.low} to {self.high} by "
                f"{self.step:g}, of which the last is {below:.12g}"
            )

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.whole and not isinstance(value, int):
            return False
        if not self.low <= value <= self.high:
            return False
        return self.step is None or abs(value - self.settle(value)) <= 1e-9 * abs(self.step)

    @property
    def text(self) -> str:
        """The range in words."""
        by = "" if self.step is None else f" by {self.step:.12g}"
        return f"{self.low:.12g} to {self.high:.12g}{by}"

    @property
    def whole(self) -> bool:
        """Whether only whole numbers belong to it."""
        return isinstance(self.low, int)

    @property
    def count(self) -> int | None:
        """How many values there are; None where any number between the ends is meant."""
        step = self.step or (1 if self.whole else None)
        return None if step is None else round((self.high - self.low) / step) + 1

    @property
    def size(self) -> int:
        """How many values `settle` tells apart; at most, where any number is meant."""
        spacing = 10.0 ** -self._decimals(self.low)
        return self.count or round((self.high - self.low) / spacing) + 1

    def settle(self, value: float) -> float:
        """Return the nearest value that belongs to it and is short to write."""
        within = min(max(float(value), self.low), self.high)
        step = self.step or (1 if self.whole else None)
        if step is not None:
            near = self.low + round((within - self.low) / step) * step
            return int(near) if self.whole else float(f"{near:.12g}")
        near = round(within, self._decimals(within))
        return min(max(near, self.low), self.high)

    def _decimals(self, value: float) -> int:
        """Return the decimals that a value near `value` is written with."""
        width = self.high - self.low
        decimals = DIGITS - floor(log10(min(abs(value), width) if self.log else width))
        largest = max(abs(self.low), abs(self.high))
        return min(decimals, MOST_DIGITS - 1 - floor(log10(largest)))

    def draw(self, source: random.Random) -> float:
        """Return a value drawn evenly; in the logarithm, if so."""
        if self.log:
            return self.settle(self.low * (self.high / self.low) ** source.random())
        count = self.count
        if count is not None:
            return self.settle(self.low + source.randrange(count) * (self.step or 1))
        return self.settle(source.uniform(self.low, self.high))

    def values(self) -> Iterator[float]:
        """Yield every value; none where any number between the ends is meant."""
        for number in range(self.count or 0):
            yield self.settle(self.low + number * (self.step or 1))


@dataclass(frozen=True, kw_only=True)
class Span:
    """Values from `low` to `high`, both included, wherever they lie on an axis."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"high is at least low, {self.low}; got {self.high}")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    @property
    def text(self) -> str:
        """The span in words."""
        return f"{self.low:.12g} to {self.high:.12g}"


Axis: TypeAlias = tuple[Any, ...] | Range


def is_open(axis: Axis) -> bool:
    """Whether an axis leaves a choice."""
    return isinstance(axis, Range) or len(axis) > 1


class Space:
    """Every setting that some axes admit."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        self.axes = axes

    @property
    def size(self) -> int:
        """How many settings there are."""
        return prod(a.size if isinstance(a, Range) else len(a) for a in self.axes.values())

    def read(self, plain: object) -> dict[str, Any] | None:
        """Return a setting from what `plainly` made of it; None if it is not of this space."""
        if not isinstance(plain, dict) or plain.keys() != self.axes.keys():
            return None
        values = {}
        for name, axis in self.axes.items():
            value, listed = plain[name], () if isinstance(axis, Range) else axis
            found = [value] if isinstance(axis, Range) and value in axis else []
            found += [one for one in listed if _same(plainly(one), value)]
            if not found:
                return None
            values[name] = found[0]
        return values

    def draw(self, source: random.Random) -> dict[str, Any]:
        """Return a setting of which every axis is drawn evenly."""
        return {
            name: axis.draw(source) if isinstance(axis, Range) else source.choice(axis)
            for name, axis in self.axes.items()
        }

    def everything(self, source: random.Random) -> list[dict[str, Any]]:
        """Return all settings of listed values, shuffled; of very many, the first `ENUMERATED`."""
        axes = self.axes.values()
        columns = (a.values() if isinstance(a, Range) else a for a in axes)
        rows = islice(product(*columns), ENUMERATED)
        settings = [dict(zip(self.axes, row, strict=True)) for row in rows]
        source.shuffle(settings)
        return settings


def plainly(value: Any) -> Any:
    """Return a value of an axis as JSON can hold it."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, RepairMethod):
        return value.label
    return list(value) if isinstance(value, tuple) else value


def identity(values: Values) -> str:
    """Return what two equal settings have in common, and no others."""
    return repr(sorted((name, plainly(value)) for name, value in values.items()))


def _same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal; true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
