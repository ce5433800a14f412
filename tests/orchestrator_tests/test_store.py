"""The store: what is written comes back, and whatever is damaged counts as absent."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.errors import ResourceError
from orchestrator.store.store import AHEAD, Entry, Store

VALUES: dict[str, Any] = {
    "curve": [[0.1, 0.2, 1 / 3], [0.5, 1e-300, 0.0]],
    "reached": True,
    "epoch": 2**40,
    "nothing": None,
    "text": 'naïve ☃ \n"quoted"',
    "deep": {"a": {"b": []}},
}
TENSORS = {
    "float": torch.tensor([[1.5, float("inf")], [-0.0, 1e-38]]),
    "float64": torch.tensor([1 / 3], dtype=torch.float64),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "long": torch.tensor([-(2**62), 7]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "marks": torch.tensor([[True, False], [False, True]]),
    "one": torch.tensor(3),
    "empty": torch.empty(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
ENTRY = Entry(values=VALUES, tensors=TENSORS, seconds=12.25, study="abc")


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        MemoryFileSystem.store.clear()
        return Store("memory://a/store")
    return Store(str(tmp_path / "store"))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def file_of(store: Store) -> Path:
    """Return the one file of a local store."""
    (path,) = (p for p in Path(str(store.url)).rglob("*") if p.is_file())
    return path


def same(found: Entry | None, wanted: Entry) -> bool:
    return (
        found is not None
        and (found.values, found.seconds, found.study)
        == (wanted.values, wanted.seconds, wanted.study)
        and list(found.tensors) == sorted(wanted.tensors, key=list(found.tensors).index)
        and all(
            found.tensors[name].dtype == tensor.dtype and torch.equal(found.tensors[name], tensor)
            for name, tensor in wanted.tensors.items()
        )
    )


@pytest.mark.parametrize(
    "entry",
    [ENTRY, Entry(values={}), Entry(values=VALUES), Entry(values={}, tensors=TENSORS)],
    ids=["both", "neither", "values", "tensors"],
)
def test_what_is_written_comes_back(store: Store, entry: Entry) -> None:
    assert store.read("relearn", KEY) is None
    store.write("relearn", KEY, entry)
    assert same(store.read("relearn", KEY), entry)
    assert store.read("evaluate", KEY) is None
    assert store.read("relearn", "ab" + "1" * 62) is None


def test_delete(store: Store) -> None:
    store.delete("unlearn", KEY)
    store.write("unlearn", KEY, ENTRY)
    store.delete("unlearn", KEY)
    assert store.read("unlearn", KEY) is None
    assert store.peek("unlearn", KEY) is None
    assert store.names("unlearn", KEY) == []


def test_names(store: Store) -> None:
    keys = ["abc-0.1", "abc-0.2", "abd-0.1", "ab", "xyz"]
    for key in keys:
        store.write("unlearn", key, Entry(values={}))
    store.write("relearn", "abc-0.3", Entry(values={}))
    assert store.names("unlearn", "ab") == ["ab", "abc-0.1", "abc-0.2", "abd-0.1"]
    assert store.names("unlearn", "abc") == ["abc-0.1", "abc-0.2"]
    assert store.names("unlearn", "abc-0.2") == ["abc-0.2"]
    assert store.names("unlearn", "qq") == []
    assert store.names("evaluate", "ab") == []


def test_peek_returns_the_values_and_no_numbers(store: Store) -> None:
    """Of a head that one request of an object store brings, and of a longer one."""
    for text in ("short", "x" * AHEAD):
        tensors = {"a": torch.zeros(AHEAD)}
        entry = Entry(values={"text": text}, tensors=tensors, seconds=1.5, study="s")
        store.write("unlearn", KEY, entry)
        found = store.peek("unlearn", KEY)
        assert found is not None
        assert (found.values, found.seconds, found.study) == ({"text": text}, 1.5, "s")
        assert found.tensors["a"].is_meta
        assert found.tensors["a"].shape == (AHEAD,)


def test_an_entry_is_a_safetensors_file(local: Store) -> None:
    local.write("unlearn", KEY, ENTRY)
    path = file_of(local)
    assert path.relative_to(str(local.url)) == Path("unlearn", "ab", f"{KEY}.safetensors")
    loaded = safetensors.torch.load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in TENSORS.items())
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["entry"])["values"] == VALUES


# A write that fails.


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


PLACES = ["os.fsync", "pathlib.Path.replace"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [Killed(), OSError(errno.EIO, "Input/output error")])
def test_a_write_that_does_not_end_leaves_the_old_state(
    local: Store, place: str, error: BaseException
) -> None:
    expected = ResourceError if isinstance(error, OSError) else Killed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, failing(error))
        with pytest.raises(expected):
            local.write("unlearn", KEY, ENTRY)
    assert local.read("unlearn", KEY) is None
    assert local.names("unlearn", "ab") == []
    local.write("unlearn", KEY, Entry(values={"old": True}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, failing(error))
        with pytest.raises(expected):
            local.write("unlearn", KEY, ENTRY)
    assert same(local.read("unlearn", KEY), Entry(values={"old": True}))
    assert local.names("unlearn", "ab") == [KEY]


@pytest.mark.parametrize("place", [*PLACES, "os.makedirs"])
def test_a_full_disk_is_told(local: Store, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(place, failing(full))
    with pytest.raises(ResourceError) as caught:
        local.write("unlearn", KEY, ENTRY)
    assert str(caught.value) == (
        f"the store {local.url} cannot be written to ([Errno 28] No space left on device); "
        f"nothing stored is lost: make room, and run the same command again"
    )
    assert [path for path in Path(str(local.url)).rglob("*") if path.is_file()] == []


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


@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_noticed_wherever_it_is(spot: Spot, sound: bytes, bit: int) -> None:
    """Only white space between the parts of the head may change and mean the same."""
    for place, damaged in flips(sound, bit):
        found = spot.read(damaged)
        assert found is None or is_whole(found), place


@pytest.mark.parametrize("bit", [0, 7])
def test_peek_never_returns_a_wrong_value(spot: Spot, sound: bytes, bit: int) -> None:
    for place, damaged in flips(sound, bit):
        found = spot.peek(damaged)
        seen = None if found is None else (found.values, found.seconds, found.study)
        assert seen in (None, (WHOLE.values, WHOLE.seconds, WHOLE.study)), place


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


@pytest.mark.timeout(20)
def test_a_pipe_or_folder_in_the_place_of_an_entry_counts_as_absent(spot: Spot) -> None:
    for put in (os.mkfifo, os.mkdir):
        spot.path.unlink()
        put(spot.path)
        assert spot.store.read("unlearn", KEY) is None
        assert spot.store.peek("unlearn", KEY) is None
