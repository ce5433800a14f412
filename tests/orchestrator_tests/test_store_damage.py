"""Damage: whatever is wrong with an entry, it counts as absent."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from orchestrator.store import Entry, Store

KEY = "ab" + "0" * 62
WHOLE = Entry(
    values={"loss": [0.25, 0.5]},
    tensors={"a": torch.arange(40.0), "b": torch.ones(40, dtype=torch.bool)},
    seconds=3.5,
    study="me",
)


class Spot:
    """A place for one entry of a local store, to be written over."""

    def __init__(self, root: Path) -> None:
        self.store = Store(str(root))
        self.store.write("unlearn", KEY, WHOLE)
        (self.path,) = (path for path in root.rglob("*") if path.is_file())

    def read(self, content: bytes) -> Entry | None:
        self.path.write_bytes(content)
        return self.store.read("unlearn", KEY)

    def peek(self, content: bytes) -> Entry | None:
        self.path.write_bytes(content)
        return self.store.peek("unlearn", KEY)


@pytest.fixture
def spot(tmp_path: Path) -> Spot:
    return Spot(tmp_path)


@pytest.fixture
def sound(spot: Spot) -> bytes:
    """Return the bytes of a sound entry: some 600 of head, and 200 of arrays."""
    return spot.path.read_bytes()


def is_whole(found: Entry) -> bool:
    return (
        (found.values, found.seconds, found.study) == (WHOLE.values, WHOLE.seconds, WHOLE.study)
        and found.tensors.keys() == WHOLE.tensors.keys()
        and all(torch.equal(found.tensors[name], t) for name, t in WHOLE.tensors.items())
    )


def flips(content: bytes, bit: int) -> Iterator[tuple[int, bytes]]:
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        yield place, bytes(damaged)


def test_every_truncation_counts_as_absent(spot: Spot, sound: bytes) -> None:
    for length in range(len(sound)):
        assert spot.read(sound[:length]) is None, length
    assert spot.read(sound + b"\0") is None
    found = spot.read(sound)
    assert found is not None
    assert is_whole(found)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_is_noticed_wherever_it_is(spot: Spot, sound: bytes, bit: int) -> None:
    """Only white space between the parts of the head may change and mean the same."""
    for place, damaged in flips(sound, bit):
        found = spot.read(damaged)
        assert found is None or is_whole(found), place


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_peek_never_returns_a_wrong_value(spot: Spot, sound: bytes, bit: int) -> None:
    for place, damaged in flips(sound, bit):
        found = spot.peek(damaged)
        told = None if found is None else (found.values, found.seconds, found.study)
        assert told in (None, (WHOLE.values, WHOLE.seconds, WHOLE.study)), place


def head(text: str) -> bytes:
    return len(text).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 8,
        b"\xff" * 64,
        b"not a store's file, but something longer than a length",
        head("{}"),
        head("[]"),
        head("1"),
        head("null"),
        head('"text"'),
        head('{"__metadata__": 1}'),
        head('{"__metadata__": null}'),
        head('{"__metadata__": {"format": "1", "entry": "1", "sha256": ""}}'),
        head('{"__metadata__": {"format": "1", "entry": 1, "sha256": ""}}'),
        head("[" * 100_000),
        (2**62).to_bytes(8, "little") + b"{}",
        safetensors.torch.save({"a": torch.ones(3)}),
        safetensors.torch.save({"a": torch.ones(3)}, {"format": "1", "entry": "{}"}),
    ],
    ids=range(17),
)
def test_a_foreign_file_counts_as_absent(spot: Spot, content: bytes) -> None:
    assert spot.read(content) is None
    assert spot.peek(content) is None


def test_another_version_counts_as_absent(
    spot: Spot, sound: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.FORMAT", 0)
    assert spot.read(sound) is None
    assert spot.peek(sound) is None


def test_a_folder_in_the_place_of_an_entry_counts_as_absent(spot: Spot) -> None:
    spot.path.unlink()
    spot.path.mkdir()
    assert spot.store.read("unlearn", KEY) is None
    assert spot.store.peek("unlearn", KEY) is None
