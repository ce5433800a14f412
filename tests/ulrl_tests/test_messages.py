"""Numbers that messages name must obey the rule they are named for."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ulrl.messages import at_least, at_most

SHARES = st.builds(Fraction, st.integers(1, 100_000), st.integers(1, 1_000_000))


@given(SHARES)
def test_at_least_is_not_below(share: Fraction) -> None:
    named = Fraction(at_least(share))
    assert share <= named <= share * Fraction(11, 10)


@given(SHARES)
def test_at_most_is_not_above(share: Fraction) -> None:
    named = Fraction(at_most(share))
    assert share * Fraction(999, 1000) <= named <= share


@pytest.mark.parametrize(
    ("share", "least", "most"),
    [
        (Fraction(1, 100), "0.01", "0.01"),
        (Fraction(2, 199), "0.011", "0.01005"),  # 0.010050251...
        (Fraction(43, 500), "0.086", "0.086"),
        (Fraction(2, 3), "0.67", "0.6666"),
        (Fraction(99_999, 100_000), "1", "0.9999"),
    ],
)
def test_by_hand(share: Fraction, least: str, most: str) -> None:
    assert (at_least(share), at_most(share)) == (least, most)
