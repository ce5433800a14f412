"""The store: what is written comes back, and whatever is damaged counts as absent."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.errors import ResourceError
from orchestrator.store.store import AHEAD, Entry, Store, _File

KEY = "ab" + "0" * 62
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


def test_numbers_that_are_none_come_back(store: Store) -> None:
    values = {"loss": [float("inf"), float("-inf"), float("nan")]}
    store.write("unlearn", KEY, Entry(values=values))
    found = store.read("unlearn", KEY)
    assert found is not None
    assert repr(found.values) == repr(values)


def test_what_is_read_may_be_changed(store: Store) -> None:
    store.write("unlearn", KEY, ENTRY)
    first = store.read("unlearn", KEY)
    assert first is not None
    first.tensors["long"][0] = 5
    assert same(store.read("unlearn", KEY), ENTRY)


def test_the_last_write_counts(store: Store) -> None:
    store.write("unlearn", KEY, ENTRY)
    store.write("unlearn", KEY, Entry(values={"a": 1}))
    assert same(store.read("unlearn", KEY), Entry(values={"a": 1}))
    assert store.names("unlearn", "ab") == [KEY]


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


def test_peek_returns_the_values_and_reads_no_array(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = Entry(values=VALUES, tensors={"a": torch.zeros(100_000)}, seconds=1.5, study="s")
    store.write("unlearn", KEY, large)
    read: list[int] = []

    def counted(take: Callable[..., bytes]) -> Callable[..., bytes]:
        def count(*arguments: Any, **options: Any) -> bytes:
            content = take(*arguments, **options)
            read.append(len(content))
            return content

        return count

    monkeypatch.setattr(_File, "read", counted(_File.read))
    monkeypatch.setattr(store._files, "cat_file", counted(store._files.cat_file))
    found = store.peek("unlearn", KEY)
    assert found is not None
    assert found.values == VALUES
    assert [(name, t.shape, t.is_meta) for name, t in found.tensors.items()] == [
        ("a", (100_000,), True)
    ]
    assert (found.seconds, found.study) == (1.5, "s")
    assert 0 < sum(read) <= (4000 if store._local else AHEAD) < 400_000


def test_entries_of_any_size_come_back_from_an_object_store() -> None:
    """Around the end of what the first request brings."""
    store = Store("memory://a/sizes")
    empty = Entry(values={}, tensors={"a": torch.zeros(0, dtype=torch.uint8)})
    store.write("unlearn", KEY, empty)
    head = len(store._files.cat_file(store._path("unlearn", KEY)))
    for size in (*range(AHEAD - head - 40, AHEAD - head + 2), 3 * AHEAD):
        numbers = torch.arange(size, dtype=torch.int64).to(torch.uint8)
        store.write("unlearn", KEY, Entry(values={}, tensors={"a": numbers}))
        found = store.read("unlearn", KEY)
        assert found is not None, size
        assert torch.equal(found.tensors["a"], numbers)


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
        f"nothing stored is lost: make room or mend it, and run the same command again"
    )
    assert [path for path in Path(str(local.url)).rglob("*") if path.is_file()] == []


def test_two_writers_of_one_entry_do_not_meet(local: Store) -> None:
    """Their files aside have different names, so neither renames the other's half."""
    seen: list[str] = []
    replace = Path.replace

    def note(path: Path, target: Path) -> Path:
        seen.append(path.name)
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", note)
        local.write("unlearn", KEY, ENTRY)
        local.write("unlearn", KEY, ENTRY)
    assert len(set(seen)) == 2
    assert all(name.startswith(".") and name.endswith(".tmp") for name in seen)


def test_check_finds_a_store_that_works(store: Store) -> None:
    store.check()
    store.check()
    store.write("unlearn", KEY, ENTRY)
    assert store.names("unlearn", "ab") == [KEY]


def test_check_leaves_nothing_behind(local: Store) -> None:
    local.check()
    assert list(Path(str(local.url)).iterdir()) == []


def test_check_refuses_a_file(tmp_path: Path) -> None:
    root = tmp_path / "store"
    root.write_text("in the way")
    with pytest.raises(ResourceError) as caught:
        Store(str(root)).check()
    assert str(caught.value) == (
        f"the store {root} cannot be written to ([Errno 17] File exists: '{root}'); "
        f"name another with store:"
    )
