"""Numbers in messages: rounded to the side on which the rule still holds."""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction


def at_least(value: Fraction) -> str:
    """Return the smallest number of two significant digits that is not below `value`."""
    return _rounded(value, 2, ROUND_CEILING)


def at_most(value: Fraction) -> str:
    """Return the largest number of four significant digits that is not above `value`."""
    return _rounded(value, 4, ROUND_FLOOR)


def _rounded(value: Fraction, digits: int, direction: str) -> str:
    exact = Decimal(value.numerator) / Decimal(value.denominator)  # 28 digits
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return f"{float(exact.quantize(step, rounding=direction)):.{digits}g}"
