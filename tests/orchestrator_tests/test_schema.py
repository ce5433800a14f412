"""Schemas from dataclasses: what fits comes back, everything else is named."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from orchestrator.store.schema import OWN_NAMES, SchemaMismatch, narrowed, pack, unpack, widened
from ulrl.metrics import Metrics
from ulrl.ranges import Proportion


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True, eq=False)
class Inner:
    """A plain value and a tensor."""

    share: Proportion
    counts: Int64[Tensor, "a b"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Outer:
    """One field of each kind."""

    name: str
    count: int
    is_it: bool
    loss: float
    shares: tuple[Proportion, ...]
    pair: tuple[int, str]
    colour: Colour
    inside: Metrics
    one: Float[Tensor, " n"]
    two: Float[Tensor, " n"]
    layers: Mapping[str, Float[Tensor, "rows cols"]]
    notes: Mapping[str, int] = field(default_factory=dict)
    perhaps: int | None = None
    anything: Mapping[str, Tensor] = field(default_factory=dict, metadata=OWN_NAMES)


def outer(**changes: Any) -> Outer:
    fields: dict[str, Any] = {
        "name": "x",
        "count": 3,
        "is_it": True,
        "loss": float("inf"),
        "shares": (0.0, 1.0, 1 / 3),
        "pair": (1, "b"),
        "colour": Colour.BLUE,
        "inside": Metrics(acc=0.5, asr=1.0, ra=0.0),
        "one": torch.ones(4),
        "two": torch.zeros(4),
        "layers": {"z": torch.ones(2, 3), "a": torch.ones(5, 1)},
        "anything": {"free": torch.tensor(1), "layers.0": torch.ones(1)},
    }
    return Outer(**{**fields, **changes})


def through(value: Any) -> Any:
    """Return plain values as JSON would bring them back: no tuples, no enums."""
    if isinstance(value, dict):
        return {name: through(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [through(one) for one in value]
    return str(value) if isinstance(value, StrEnum) else value


def parts() -> tuple[dict[str, Any], dict[str, Tensor]]:
    values, tensors = pack(outer(notes={"a": 1}))
    return through(values), tensors


def test_what_is_packed_comes_back() -> None:
    values, tensors = parts()
    assert set(tensors) == {
        *("one", "two", "layers/z", "layers/a", "free", "layers.0"),
    }
    found = unpack(Outer, values, dict(sorted(tensors.items())))
    again, back = pack(found)
    assert through(again) == values
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    assert list(found.layers) == ["z", "a"]
    assert found.colour is Colour.BLUE
    assert (found.pair, found.shares) == ((1, "b"), (0.0, 1.0, 1 / 3))


def test_tensors_without_numbers_fit_as_well() -> None:
    values, tensors = parts()
    bare = {name: tensor.to("meta") for name, tensor in tensors.items()}
    assert unpack(Outer, values, bare).one.is_meta
    with pytest.raises(SchemaMismatch, match="one"):
        unpack(Outer, values, {**bare, "one": torch.empty(4, 4, device="meta")})


def test_a_field_with_a_default_may_be_absent() -> None:
    values, tensors = parts()
    for name in ("notes", "perhaps"):
        del values[name]
    found = unpack(Outer, values, tensors)
    assert (found.notes, found.perhaps) == ({}, None)


WRONG: list[tuple[str, Any]] = [
    ("name", 5),
    ("name", None),
    ("count", 1.5),
    ("count", True),
    ("count", "3"),
    ("is_it", 1),
    ("loss", "nan"),
    ("loss", True),
    ("loss", [1.0]),
    ("shares", 0.5),
    ("shares", [0.5, 1.5]),
    ("shares", [-1e-9]),
    ("shares", [float("nan")]),
    ("shares", [None]),
    ("pair", [1]),
    ("pair", [1, "b", "c"]),
    ("pair", ["b", 1]),
    ("colour", "green"),
    ("colour", ["red"]),
    ("inside", {}),
    ("inside", None),
    ("inside", {"acc": 0.5, "asr": 0.5, "ra": 5.0}),
    ("inside", {"acc": 0.5, "asr": 0.5, "ra": 0.5, "more": 1}),
    ("layers", "za"),
    ("layers", ["z", "a", "b"]),
    ("layers", {"z": 1}),
    ("notes", [1]),
    ("notes", {"a": "b"}),
    ("perhaps", "x"),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=range(len(WRONG)))
def test_a_value_that_does_not_fit(name: str, value: Any) -> None:
    values, tensors = parts()
    with pytest.raises(SchemaMismatch):
        unpack(Outer, {**values, name: value}, tensors)


@pytest.mark.parametrize("values", [None, "text", [], 1.0, True, {}])
def test_content_that_is_no_such_mapping(values: Any) -> None:
    with pytest.raises(SchemaMismatch):
        unpack(Outer, values, parts()[1])


def test_each_absent_and_each_unknown_name_is_told() -> None:
    values, tensors = parts()
    for name in ("name", "count", "is_it", "loss", "shares", "pair", "colour", "inside", "layers"):
        with pytest.raises(SchemaMismatch, match=name):
            unpack(Outer, {key: one for key, one in values.items() if key != name}, tensors)
    with pytest.raises(SchemaMismatch, match="novel"):
        unpack(Outer, {**values, "novel": 1}, tensors)
    for name in ("one", "two", "layers/a"):
        with pytest.raises(SchemaMismatch, match=name):
            unpack(Outer, values, {key: one for key, one in tensors.items() if key != name})
    with pytest.raises(SchemaMismatch, match="unknown tensors: more"):
        unpack(Inner, {"share": 0.5}, {"counts": torch.ones(1, 1).long(), "more": torch.ones(1)})


ODD = {
    "one": [torch.ones(4, 1), torch.ones(4).long(), torch.ones(5)],  # the last unlike `two`
    "layers/z": [torch.ones(2), torch.ones(2, 3).int()],
}


@pytest.mark.parametrize(
    ("name", "tensor"), [(name, tensor) for name, odd in ODD.items() for tensor in odd]
)
def test_a_tensor_of_another_type_or_rank(name: str, tensor: Tensor) -> None:
    values, tensors = parts()
    with pytest.raises(SchemaMismatch, match="tensor"):
        unpack(Outer, values, {**tensors, name: tensor})


def test_a_whole_number_is_a_float_where_one_is_wanted() -> None:
    values, tensors = parts()
    found = unpack(Outer, {**values, "loss": 2, "shares": [1, 0]}, tensors)
    assert (repr(found.loss), repr(found.shares)) == ("2.0", "(1.0, 0.0)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Wider(Inner):
    """With a field more."""

    more: str


def test_widened_and_narrowed_share_their_fields() -> None:
    inner = Inner(share=0.5, counts=torch.tensor([[1, 2]]))
    wide = widened(Wider, inner, more="x")
    assert (wide.share, wide.counts, wide.more) == (inner.share, inner.counts, "x")
    back = narrowed(Inner, wide)
    assert type(back) is Inner
    assert (back.share, back.counts) == (inner.share, inner.counts)
