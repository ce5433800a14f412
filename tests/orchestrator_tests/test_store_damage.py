"""Damage: whatever is wrong with an entry, it counts as absent."""

import json
import os
import tracemalloc
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from orchestrator.store.store import Entry, Store

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


@pytest.mark.parametrize("number", [0, 1])
def test_another_version_counts_as_absent(
    spot: Spot, sound: bytes, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The format is under the checksum: no entry passes as one of another format."""
    assert b'"format": "2"' in sound
    other = sound.replace(b'"format": "2"', f'"format": "{number}"'.encode())
    assert spot.read(other) is None
    assert spot.peek(other) is None
    monkeypatch.setattr("orchestrator.store.store.FORMAT", 3)
    assert spot.read(sound) is None
    assert spot.peek(sound) is None


# Entries at another place than their own.


@pytest.mark.parametrize(("stage", "key"), [("relearn", KEY), ("unlearn", "ab" + "1" * 62)])
def test_an_entry_at_another_place_counts_as_absent(spot: Spot, stage: str, key: str) -> None:
    other = Path(str(spot.store.url), stage, "ab", f"{key}.safetensors")
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(spot.path.read_bytes())
    assert spot.store.read(stage, key) is None
    assert spot.store.peek(stage, key) is None
    found = spot.store.read("unlearn", KEY)
    assert found is not None
    assert is_whole(found)


def old_format(entry: Entry) -> bytes:
    """Return an entry as version 0.1 wrote it: its checksums know no stage and no key."""
    body = safetensors.torch.save(dict(entry.tensors))
    length = int.from_bytes(body[:8], "little")
    layout, data = json.loads(body[8 : 8 + length]), body[8 + length :]
    said = {"values": entry.values, "seconds": entry.seconds, "study": entry.study}
    values = json.dumps(said, sort_keys=True)
    known = json.dumps(layout, sort_keys=True).encode() + values.encode()
    sums = {"head": sha256(known).hexdigest(), "sha256": sha256(known + data).hexdigest()}
    text = json.dumps({"__metadata__": {"format": "1", "entry": values, **sums}, **layout})
    text += " " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text.encode() + data


def test_entries_of_the_former_format_stay_readable(spot: Spot) -> None:
    content = old_format(WHOLE)
    found, head = spot.read(content), spot.peek(content)
    assert found is not None
    assert head is not None
    assert is_whole(found)
    assert (head.values, head.seconds, head.study) == (WHOLE.values, WHOLE.seconds, WHOLE.study)
    assert spot.read(content[:-1]) is None
    for place, damaged in flips(content, 2):
        found = spot.read(damaged)
        assert found is None or is_whole(found), place


# Sizes: nothing that is no entry takes memory.


def peak(work: Callable[[], object]) -> int:
    """Return the most bytes that Python held at once for some work."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "start",
    [
        b"",
        (16_000_001).to_bytes(8, "little"),
        (2**40).to_bytes(8, "little"),
        b"\xff" * 8,
    ],
)
def test_a_sparse_file_of_30_gigabytes_counts_as_absent(spot: Spot, start: bytes) -> None:
    spot.path.write_bytes(start)
    os.truncate(spot.path, 30 * 10**9)
    found: list[Entry | None] = []
    taken = peak(
        lambda: found.extend([spot.store.read("unlearn", KEY), spot.store.peek("unlearn", KEY)])
    )
    assert found == [None, None]
    assert taken < 10**6


def test_a_sound_entry_with_gigabytes_behind_it_counts_as_absent(spot: Spot, sound: bytes) -> None:
    os.truncate(spot.path, 30 * 10**9)
    assert peak(lambda: spot.store.read("unlearn", KEY)) < 10**6
    assert spot.store.read("unlearn", KEY) is None
    assert spot.read(sound) is not None


def test_an_entry_that_claims_gigabytes_and_has_none_counts_as_absent(spot: Spot) -> None:
    """Its head is right by its checksum: somebody made it."""
    vast = torch.empty(10**13, dtype=torch.uint8, device="meta")
    layout = {"a": {"dtype": "U8", "shape": [vast.numel()], "data_offsets": [0, vast.numel()]}}
    values = json.dumps({"values": {}, "seconds": 0.0, "study": ""}, sort_keys=True)
    place = json.dumps([2, "unlearn", KEY])
    total = sha256((place + json.dumps(layout, sort_keys=True) + values).encode()).hexdigest()
    metadata = {"format": "2", "entry": values, "head": total, "sha256": total}
    content = head(json.dumps({"__metadata__": metadata, **layout}))
    assert spot.peek(content) is not None  # the checksums here are right
    assert peak(lambda: spot.read(content)) < 10**6
    assert spot.read(content) is None


def test_memory_that_is_not_there_counts_as_absent(
    spot: Spot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("safetensors.torch.load", fail)
    assert spot.store.read("unlearn", KEY) is None


def test_a_pipe_in_the_place_of_an_entry_counts_as_absent(spot: Spot) -> None:
    spot.path.unlink()
    os.mkfifo(spot.path)
    assert spot.store.read("unlearn", KEY) is None
    assert spot.store.peek("unlearn", KEY) is None


def test_a_folder_in_the_place_of_an_entry_counts_as_absent(spot: Spot) -> None:
    spot.path.unlink()
    spot.path.mkdir()
    assert spot.store.read("unlearn", KEY) is None
    assert spot.store.peek("unlearn", KEY) is None
