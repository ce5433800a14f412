"""What a key is made of: canonical JSON, and nothing that has none."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.store.keys import plain, result_key
from ulrl.attacks import ATTACKS
from ulrl.clean import CleanConfig
from ulrl.datasets import DATASETS, Preprocessing
from ulrl.models import ARCHITECTURES
from ulrl.poison import Poison
from ulrl.relearning import RelearnConfig
from ulrl.scoring import ScoreConfig
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig
from ulrl.weight_selection import ResetConfig

HEX = set("0123456789abcdef")


@dataclass(frozen=True)
class Left:
    size: int = 1
    place: str = field(default="here", metadata={"runtime": True})


@dataclass(frozen=True)
class Right:
    size: int = 1


class Colour(Enum):
    RED = "red"


def key_of(config: Any) -> str:
    return result_key("stage", 1, config, {})


def test_a_key_is_a_sha256_of_canonical_json() -> None:
    text = (
        '{"config":{"size":[1,0.1,null,true,"a"],"type":"Left"},'
        '"inputs":{"a":"1","b":"2"},"stage":"unlearn","version":3}'
    )
    found = result_key("unlearn", 3, Left(size=[1, 0.1, None, True, "a"]), {"b": "2", "a": "1"})  # type: ignore[arg-type]
    assert found == hashlib.sha256(text.encode()).hexdigest()


def test_stage_version_inputs_and_types_change_the_key() -> None:
    base = result_key("a", 1, Left(), {"x": "1"})
    others = [
        result_key("b", 1, Left(), {"x": "1"}),
        result_key("a", 2, Left(), {"x": "1"}),
        result_key("a", 1, Right(), {"x": "1"}),
        result_key("a", 1, {"size": 1}, {"x": "1"}),
        result_key("a", 1, Left(), {"x": "2"}),
        result_key("a", 1, Left(), {"y": "1"}),
        result_key("a", 1, Left(), {}),
    ]
    assert len({base, *others}) == 8
    assert all(len(key) == 64 and set(key) <= HEX for key in (base, *others))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, 1.0), (1, True), (1, "1"), (None, "null"), ((1, 2), (2, 1)), ((1,), 1), ((), None)],
)
def test_different_values_have_different_keys(one: Any, other: Any) -> None:
    assert key_of({"a": one}) != key_of({"a": other})


def test_equal_values_have_equal_keys() -> None:
    assert key_of({"a": (1, 2), "b": 1}) == key_of({"b": 1, "a": [1, 2]})
    assert key_of({"a": Colour.RED}) == key_of({"a": "red"})
    assert key_of(MappingProxyType({"a": 1})) == key_of({"a": 1})
    assert key_of({"a": np.float64(0.1)}) == key_of({"a": 0.1})
    assert key_of(Left(place="there")) == key_of(Left())


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        {1, 2},
        frozenset(),
        object(),
        Left,
        b"bytes",
        1j,
        {1: "a"},
        Path("a"),
        np.int64(1),
        np.zeros(2),
        torch.zeros(2),
        len,
    ],
    ids=lambda value: type(value).__name__,  # the same in every process
)
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    for config in (value, [value], {"a": (value,)}, Left(size=value)):
        with pytest.raises(TypeError) as caught:
            plain(config)
        assert str(caught.value) == (
            f"{value!r} has no canonical form, so it cannot be part of a key"
        )


def test_no_field_is_called_type() -> None:
    """It would hide which dataclass a key is about."""
    configs: list[Any] = [VictimConfig, CleanConfig, UnlearnConfig, ScoreConfig]
    configs += [RelearnConfig, ResetConfig, Poison, Preprocessing]
    configs += [*ATTACKS.values(), *DATASETS.values(), *ARCHITECTURES.values()]
    for config in configs:
        assert "type" not in {part.name for part in dataclasses.fields(config)}, config
