"""Types of numbers with a range, for annotations that other code can read."""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both among them; NaN is in no interval."""

    low: float
    high: float

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> dict[str, Any]:
        """Return pydantic's schema of such floats; asked for where results are stored."""
        return {**handler(source), "ge": self.low, "le": self.high, "allow_inf_nan": False}


Proportion: TypeAlias = Annotated[float, Interval(0.0, 1.0)]
