"""Ranges and spaces: what belongs to them, and what is drawn from them."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.spec.space import Axis, Range, Space, identity, plainly
from ulrl.layers import Layers

RANGES = {
    "any": Range(low=0.1, high=0.7),
    "stepped": Range(low=0.0, high=0.3, step=0.1),
    "log": Range(low=1e-5, high=1.0, log=True),
    "whole": Range(low=1, high=5),
    "stepped whole": Range(low=2, high=10, step=4),
    "whole log": Range(low=1, high=1000, log=True),
    "narrow": Range(low=0.99999, high=1.00001),
    "wide": Range(low=-1000.0, high=5000.0),
}


@pytest.mark.parametrize("axis", RANGES.values(), ids=RANGES)
@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_belongs_to_the_range_and_stays_as_it_is(axis: Range, seed: int) -> None:
    value = axis.draw(random.Random(seed))
    assert value in axis
    assert type(value) is type(axis.low)
    assert axis.settle(value) == value
    assert axis.low <= value <= axis.high


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("stepped", [0.0, 0.1, 0.2, 0.3]),
        ("whole", [1, 2, 3, 4, 5]),
        ("stepped whole", [2, 6, 10]),
    ],
)
def test_what_can_be_counted_is(name: str, values: list[float]) -> None:
    axis = RANGES[name]
    assert list(axis.values()) == values
    assert axis.count == axis.size == len(values)
    assert all(value in axis for value in values)


def test_values_are_drawn_evenly() -> None:
    source = random.Random(0)
    counts = Counter(RANGES["stepped whole"].draw(source) for _ in range(3000))
    assert set(counts) == {2, 6, 10}
    assert min(counts.values()) > 900
    below = sum(RANGES["log"].draw(source) < 10**-2.5 for _ in range(2000))
    assert 900 < below < 1100  # half of the exponents from -5 to 0
    below = sum(RANGES["any"].draw(source) < 0.4 for _ in range(2000))
    assert 900 < below < 1100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("any", 0.71),
        ("any", None),
        ("stepped", 0.15),
        ("whole", 2.0),
        ("whole", True),
        ("stepped whole", 4),
    ],
)
def test_what_does_not_belong(name: str, value: object) -> None:
    assert value not in RANGES[name]


AXES: dict[str, Axis] = {
    "alpha": RANGES["any"],
    "max_suspects": (1, 2, None),
    "score_bias": (True, False),
    "layers": (Layers.HEAD, Layers.ALL),
    "unlearn_milestones": ((5,), (5, 10)),
}


def test_a_setting_survives_being_written_down() -> None:
    space = Space(AXES)
    for seed in range(50):
        values = space.draw(random.Random(seed))
        again = space.read({name: plainly(value) for name, value in values.items()})
        assert again == values
        assert again is not None
        assert identity(again) == identity(values)
        assert type(again["layers"]) is Layers


def test_a_setting_of_another_space_is_none_of_this() -> None:
    good = {
        "alpha": 0.5,
        "max_suspects": 1,
        "score_bias": True,
        "layers": "head",
        "unlearn_milestones": [5],
    }
    space = Space(AXES)
    assert space.read(good) is not None
    for changes in (
        {"alpha": 0.8},
        {"max_suspects": True},
        {"score_bias": 1},
        {"layers": "tail"},
        {"unlearn_milestones": 5},
        {"beta": 1},
    ):
        assert space.read({**good, **changes}) is None, changes
    assert space.read({name: good[name] for name in list(good)[1:]}) is None
    assert space.read([1]) is None


def test_a_space_is_counted_and_listed() -> None:
    axes: dict[str, Axis] = {"a": (1, 2, 3), "b": RANGES["stepped whole"]}
    finite = Space(axes)
    assert finite.size == 9
    assert Space({"a": (1, 2), "b": RANGES["any"]}).size == 2 * 6001
    everything = finite.everything(random.Random(0))
    assert len({identity(values) for values in everything}) == 9
    assert everything != sorted(everything, key=identity)
