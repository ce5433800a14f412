"""Claims: one of all that share a store gets a result to make, and whoever dies is found out."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.store import locks
from orchestrator.store.locks import SILENCE, ResultLock
from orchestrator.store.store import Store
from tests.orchestrator_tests.held import KEY, age, file_of, left, rewrite, turn

PLACES = ["local", "memory"]


@pytest.fixture(params=PLACES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "memory":
        MemoryFileSystem.store.clear()
        return Store("memory://a/store")
    return Store(str(tmp_path))


@pytest.fixture
def local(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


# Who holds one, and until when.


def test_one_gets_it_and_the_next_when_it_is_left(store: Store) -> None:
    with turn(store) as first, turn(store) as second:
        assert first.mine()
        assert first.mine()
        assert not second.mine()
        with turn(store, "cd") as other, store.turn("evaluate", KEY) as another:
            assert other.mine()
            assert another.mine()
        first.__exit__(None, None, None)
        assert second.mine()
        assert not first.mine()
    assert left(store) == []


def test_a_claim_is_free_again_after_an_exception(store: Store) -> None:
    def fail() -> None:
        with turn(store) as first:
            assert first.mine()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert left(store) == []


def test_leaving_without_a_claim_leaves_that_of_another(store: Store) -> None:
    with turn(store) as first:
        assert first.mine()
        with turn(store) as second:
            assert not second.mine()
        assert len(left(store)) == 1


# Who is dead.


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_of_this_machine_that_is_no_more_is_dead_at_once(
    local: Store, *, reaped: bool
) -> None:
    child = os.fork()
    if not child:
        os._exit(0 if turn(local).mine() else 1)
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == 0
    if reaped:
        os.waitpid(child, 0)
    assert file_of(local).exists()
    with turn(local) as ours:
        assert ours.mine()
    if not reaped:
        os.waitpid(child, 0)


def test_a_process_of_this_machine_that_lives_holds_it(local: Store) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        held = turn(local).mine()
        os.write(writing, b"1" if held else b"0")
        time.sleep(60)
        os._exit(0)
    try:
        assert os.read(reading, 1) == b"1"
        with turn(local) as ours:
            assert not ours.mine()
            os.kill(child, 9)
            os.waitpid(child, 0)
            assert ours.mine()
    finally:
        os.close(reading)
        os.close(writing)


def test_another_process_of_the_same_number_is_not_the_holder(local: Store) -> None:
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        rewrite(local, born="1")
        assert second.mine()


def test_what_this_process_left_behind_is_dead(local: Store) -> None:
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        rewrite(local, token="forgotten")
        assert second.mine()


FOREIGN = {"place": "another machine", "pid": 1, "born": "1"}


def test_another_machines_is_alive_as_long_as_it_gives_signs(
    local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        rewrite(local, **FOREIGN)
        assert not second.mine()
        for sign in range(1, 4):
            now[0] += SILENCE - 1
            os.utime(file_of(local), (sign, sign))  # whatever its clock says
            assert not second.mine()
        now[0] += SILENCE - 1
        assert not second.mine()
        now[0] += 2
        assert second.mine()


@pytest.mark.parametrize("holder", [FOREIGN, {}])
def test_who_was_silent_for_long_is_dead_when_it_is_first_seen(
    local: Store, holder: dict[str, Any]
) -> None:
    """A machine that is gone, or a process that was stopped."""
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        rewrite(local, **holder)
        age(local, SILENCE - 20)
        assert not second.mine()
        age(local, SILENCE + 20)
        with turn(local) as third:
            assert third.mine()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"[]", b'{"pid": 5}', b"\xff" * 9])
def test_what_says_nothing_is_soon_nobodys(local: Store, content: bytes) -> None:
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        file_of(local).write_bytes(content)
        assert not second.mine()  # it may be about to be written
        age(local, 5)
        with turn(local) as third:
            assert third.mine()


def test_signs_of_life_are_given_while_a_claim_is_held(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "BEAT", 0.02)
    monkeypatch.setattr(locks, "_HEART", locks._Heart())
    with turn(store) as first:
        assert first.mine()
        before = store._claims.look(f"relearn-{KEY}")
        assert before is not None
        until = time.monotonic() + 20
        while time.monotonic() < until:
            now = store._claims.look(f"relearn-{KEY}")
            if now is not None and now.changed > before.changed:
                break
            time.sleep(0.01)
        assert now is not None
        assert (now.changed > before.changed, now.content) == (True, before.content)


# What was taken over.


def test_who_lost_a_claim_neither_renews_nor_removes_it(local: Store) -> None:
    with turn(local) as second:
        with turn(local) as first:
            assert first.mine()
            age(local, SILENCE + 20)
            assert second.mine()
            age(local, 30)
            changed = file_of(local).stat().st_mtime
            first.beat()
            assert file_of(local).stat().st_mtime == changed
            second.beat()
            assert file_of(local).stat().st_mtime > changed
        assert file_of(local).exists()
    assert left(local) == []


def test_of_many_heirs_one_gets_it(local: Store) -> None:
    for _ in range(25):
        dead = turn(local)
        assert dead.mine()
        rewrite(local, born="1")
        turns = [turn(local) for _ in range(6)]
        with ThreadPoolExecutor(len(turns)) as threads:
            got = list(threads.map(ResultLock.mine, turns))
        assert sum(got) == 1
        for one in (*turns, dead):
            one.__exit__(None, None, None)
        assert left(local) == []


def test_an_heir_killed_in_between_does_not_bar_the_others(local: Store) -> None:
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        rewrite(local, born="1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                second.mine()
        (right,) = Path(local.url.reveal()).glob(".claims/.relearn-*")
        assert not second.mine()
        then = time.time() - 10
        os.utime(right, (then, then))
        assert not second.mine()
        assert second.mine()


def killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# A store that cannot keep claims.


def nothing(path: Path) -> None:
    (path / ".claims").write_text("in the way")


def no_room(path: Path) -> None:
    (path / ".claims").mkdir(parents=True)
    (path / ".claims" / f"relearn-{KEY}").mkdir()


@pytest.mark.parametrize("spoil", [nothing, no_room])
def test_where_no_claims_can_be_kept_everybody_works(
    local: Store, spoil: Callable[[Path], None]
) -> None:
    spoil(Path(local.url.reveal()))
    with turn(local) as first, turn(local) as second:
        assert first.mine()
        assert second.mine()
