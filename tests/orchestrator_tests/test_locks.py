"""Locks: of all that share a store one computes a result, and who dies holds nothing."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from errno import ENOLCK, ENOSYS
from pathlib import Path

import filelock
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.store.locks import ResultLock
from orchestrator.store.store import Store

KEY = "ab" + "0" * 62


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def lock(store: Store, key: str = KEY) -> ResultLock:
    return store.lock("relearn", key)


def left(store: Store) -> list[Path]:
    return list(Path(str(store.url)).glob(".locks/*"))


def test_one_gets_it_and_the_next_when_it_is_released(store: Store) -> None:
    with lock(store) as first, lock(store) as second:
        assert not second.is_held_elsewhere()
        assert first.acquire()
        assert first.acquire()
        assert not second.acquire()
        assert second.is_held_elsewhere()
        with lock(store, "cd") as other, store.lock("evaluate", KEY) as another:
            assert not other.is_held_elsewhere()
            assert other.acquire()
            assert another.acquire()
        second.release()  # it holds nothing
        assert not second.acquire()
        first.release()
        assert second.acquire()
        assert not first.acquire()
    assert left(store) == []


def test_a_process_that_is_killed_holds_nothing(store: Store) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        theirs = lock(store)
        os.write(writing, b"1" if theirs.acquire() else b"0")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        with lock(store) as ours:
            assert not ours.acquire()
            os.kill(child, 9)
            os.waitpid(child, 0)
            assert left(store) != []
            assert not ours.is_held_elsewhere()
            assert ours.acquire()
        assert left(store) == []
    finally:
        os.close(reading)
        os.close(writing)


def test_of_many_one_gets_it(store: Store) -> None:
    for _ in range(5):
        locks = [lock(store) for _ in range(6)]
        with ThreadPoolExecutor(len(locks)) as threads:
            got = list(threads.map(ResultLock.acquire, locks))
        assert sum(got) == 1
        for one in locks:
            one.release()
        assert left(store) == []


def no_folder(root: Path, patch: pytest.MonkeyPatch) -> None:
    del patch
    (root / ".locks").write_text("in the way")


def no_file(root: Path, patch: pytest.MonkeyPatch) -> None:
    del patch
    (root / ".locks" / f"relearn-{KEY}").mkdir(parents=True)


def no_locks(error: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def refuse(_: int) -> bool:
        raise OSError(error, os.strerror(error))

    def spoil(root: Path, patch: pytest.MonkeyPatch) -> None:
        del root
        patch.setattr(filelock._unix, "lock_fd_nonblocking", refuse)

    return spoil


@pytest.mark.parametrize("spoil", [no_folder, no_file, no_locks(ENOLCK), no_locks(ENOSYS)])
def test_where_no_locks_can_be_had_everybody_computes(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    spoil(Path(str(store.url)), monkeypatch)
    with lock(store) as first, lock(store) as second:
        assert first.acquire()
        assert second.acquire()


def test_an_object_store_has_no_locks() -> None:
    MemoryFileSystem.store.clear()
    store = Store("memory://a/store")
    with lock(store) as first, lock(store) as second:
        assert first.acquire()
        assert second.acquire()
        assert not second.is_held_elsewhere()
    assert store._files.find("a/store") == []
