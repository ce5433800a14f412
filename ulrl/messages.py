"""What messages say: numbers on the side on which the rule still holds, and names that are near."""

from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from difflib import get_close_matches
from fractions import Fraction


def at_least(value: Fraction) -> str:
    """Return the smallest number of two significant digits that is not below `value`."""
    return _rounded(value, 2, ROUND_CEILING)


def at_most(value: Fraction) -> str:
    """Return the largest number of four significant digits that is not above `value`."""
    return _rounded(value, 4, ROUND_FLOOR)


def nearest(name: object, names: Iterable[str]) -> str:
    """Return ``; did you mean ...?`` with the names that are near, or nothing."""
    close = [repr(str(other)) for other in get_close_matches(str(name), list(names))]
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _rounded(value: Fraction, digits: int, direction: str) -> str:
    exact = Decimal(value.numerator) / Decimal(value.denominator)  # 28 digits
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return f"{float(exact.quantize(step, rounding=direction)):.{digits}g}"
