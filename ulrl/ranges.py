"""Types of numbers with a range, for annotations that other code can read."""

from dataclasses import dataclass
from typing import Annotated, TypeAlias


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both among them; NaN is in no interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"in [{self.low:g}, {self.high:g}]"


Proportion: TypeAlias = Annotated[float, Interval(0.0, 1.0)]
