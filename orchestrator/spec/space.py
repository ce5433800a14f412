"""What a setting axis that is drawn from can hold, and all settings that can be drawn."""

import dataclasses
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice, product
from math import floor, log10, prod
from typing import Any, TypeAlias

from torch import nn

from ulrl.methods import RepairMethod
from ulrl.registry import options_of

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


@dataclass(frozen=True, kw_only=True)
class DrawnMethod:
    """An entry of the axis `repair` of which some options are ranges.

    Attributes:
        kind: The method's class.
        fixed: Its other options, with the values that the entry gives them.
        ranges: What the options are drawn from.
    """

    kind: type[Any]
    fixed: tuple[tuple[str, Any], ...] = ()
    ranges: tuple[tuple[str, Range], ...]

    @property
    def name(self) -> str:
        """What a study file calls the method."""
        return str(self.kind.name)

    @property
    def label(self) -> str:
        """The name with the options, as ``ft_sam(rho=0.5 to 4)``."""
        texts = [f"{option}={value}" for option, value in self.fixed]
        texts += [f"{option}={axis.text}" for option, axis in self.ranges]
        return f"{self.name}({','.join(texts)})"

    @property
    def size(self) -> int:
        """How many methods there are."""
        return prod(axis.size for _, axis in self.ranges)

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the method does not apply to a network."""
        self.at({option: axis.low for option, axis in self.ranges}).check(network, head, classes)

    @property
    def ends(self) -> tuple[RepairMethod, RepairMethod]:
        """The methods at the low and at the high end of every range."""
        low, high = (
            self.at({option: getattr(axis, end) for option, axis in self.ranges})
            for end in ("low", "high")
        )
        return low, high

    def at(self, values: Mapping[str, float]) -> RepairMethod:
        """Return the method with these values of the options that are drawn."""
        method: RepairMethod = self.kind(**dict(self.fixed), **values)
        return method

    def options(self, method: object) -> dict[str, float] | None:
        """Return what was drawn for a method; None if it is not of this entry."""
        if type(method) is not self.kind:
            return None
        values = {option: getattr(method, option) for option, _ in self.ranges}
        inside = all(values[option] in axis for option, axis in self.ranges)
        return values if inside and self.at(values) == method else None

    def __contains__(self, method: object) -> bool:
        return self.options(method) is not None

    def read(self, plain: Mapping[str, Any]) -> RepairMethod | None:
        """Return a method from what `plainly` made of it; None if it is not of this entry."""
        defaults = {part.name: part.default for part in dataclasses.fields(self.kind)}
        values = {option: plain.get(option, defaults[option]) for option, _ in self.ranges}
        if not all(values[option] in axis for option, axis in self.ranges):
            return None
        method = self.at(values)
        return method if plainly(method) == plain else None

    def draw(self, source: random.Random) -> RepairMethod:
        """Return a method of which every option is drawn evenly."""
        return self.at({option: axis.draw(source) for option, axis in self.ranges})

    def values(self) -> Iterator[RepairMethod]:
        """Yield every method; none where any number of a range is meant."""
        for row in product(*(axis.values() for _, axis in self.ranges)):
            yield self.at({option: v for (option, _), v in zip(self.ranges, row, strict=True)})


Axis: TypeAlias = tuple[Any, ...] | Range


def is_open(axis: Axis) -> bool:
    """Whether an axis leaves a choice."""
    if isinstance(axis, Range):
        return True
    return len(axis) > 1 or any(isinstance(one, DrawnMethod) for one in axis)


class Space:
    """Every setting that some axes admit."""

    def __init__(self, axes: Mapping[str, Axis]) -> None:
        self.axes = axes

    @property
    def size(self) -> int:
        """How many settings there are."""
        return prod(
            axis.size
            if isinstance(axis, Range)
            else sum(one.size if isinstance(one, DrawnMethod) else 1 for one in axis)
            for axis in self.axes.values()
        )

    @property
    def ranges(self) -> list[Range]:
        """The ranges of axes, and of options of repair methods."""
        found = [axis for axis in self.axes.values() if isinstance(axis, Range)]
        listed = chain(*(axis for axis in self.axes.values() if isinstance(axis, tuple)))
        entries = [one for one in listed if isinstance(one, DrawnMethod)]
        return found + [axis for entry in entries for _, axis in entry.ranges]

    def nearest(self, own: Values) -> dict[str, Any] | None:
        """Return a setting's values on the axes that leave a choice; None if one lacks them."""
        values = {}
        for name, axis in self.axes.items():
            first = axis.low if isinstance(axis, Range) else axis[0]
            bound = is_open(axis) and not (name == "defence_seed" and None not in axis)
            if bound and not _admits(axis, own[name]):
                return None
            values[name] = own[name] if bound else first
        return values

    def read(self, plain: object) -> dict[str, Any] | None:
        """Return a setting from what `plainly` made of it; None if it is not of this space."""
        if not isinstance(plain, dict) or plain.keys() != self.axes.keys():
            return None
        values = {}
        for name, axis in self.axes.items():
            value, listed = plain[name], () if isinstance(axis, Range) else axis
            found = [value] if isinstance(axis, Range) and value in axis else []
            for one in listed:
                if isinstance(one, DrawnMethod):
                    method = one.read(value) if _names(value, one) else None
                    found += [] if method is None else [method]
                elif _same(plainly(one), value):
                    found.append(one)
            if not found:
                return None
            values[name] = found[0]
        return values

    def draw(self, source: random.Random) -> dict[str, Any]:
        """Return a setting of which every axis is drawn evenly."""
        values = {}
        for name, axis in self.axes.items():
            one = axis if isinstance(axis, Range) else source.choice(axis)
            values[name] = one.draw(source) if isinstance(one, Range | DrawnMethod) else one
        return values

    def everything(self, source: random.Random) -> list[dict[str, Any]]:
        """Return all settings of listed values, shuffled; of very many, the first `ENUMERATED`."""
        axes = self.axes.values()
        columns = (a.values() if isinstance(a, Range) else _each(a) for a in axes)
        rows = islice(product(*columns), ENUMERATED)
        settings = [dict(zip(self.axes, row, strict=True)) for row in rows]
        source.shuffle(settings)
        return settings


def plainly(value: Any) -> Any:
    """Return a value of an axis as JSON can hold it."""
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, RepairMethod):
        options = json.dumps(options_of(value), default=str)
        return {"name": value.name, **json.loads(options)}
    return list(value) if isinstance(value, tuple) else value


def identity(values: Values) -> str:
    """Return what two equal settings have in common, and no others."""
    return repr(sorted((name, plainly(value)) for name, value in values.items()))


def _each(axis: tuple[Any, ...]) -> Iterator[Any]:
    for one in axis:
        yield from one.values() if isinstance(one, DrawnMethod) else (one,)


def _admits(axis: Axis, value: Any) -> bool:
    if isinstance(axis, Range):
        return value in axis
    return value in axis or any(isinstance(one, DrawnMethod) and value in one for one in axis)


def _names(plain: Any, entry: DrawnMethod) -> bool:
    return isinstance(plain, dict) and plain.get("name") == entry.name


def _same(a: Any, b: Any) -> bool:
    """Whether two plain values are equal; true is not 1."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)
