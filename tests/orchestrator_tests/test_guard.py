"""The watch over Ray: whom it tells of a death, and what it ends."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator import guard
from orchestrator.errors import Unusable
from orchestrator.guard import Daemons, Guard, Listeners


def comes(true: Callable[[], object], seconds: float = 20) -> bool:
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(true())


def test_somebody_listens_until_nobody_does() -> None:
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as one, socket.create_server(here) as two:
        listen = Listeners([one.getsockname()[:2]])
        assert listen()
        listen.add(two.getsockname()[:2])
        assert listen()
        one.close()
        assert not listen()


def test_who_does_not_answer_is_given_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load answers late; that is not the end of a study."""
    answers = iter([TimeoutError, TimeoutError, None, TimeoutError, TimeoutError, TimeoutError])

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        del place, timeout
        if (answer := next(answers)) is not None:
            raise answer
        return socket.socket()

    monkeypatch.setattr(guard, "SILENT", 3)
    monkeypatch.setattr(socket, "create_connection", connect)
    listen = Listeners([("127.0.0.1", 1)])
    assert [listen() for _ in range(6)] == [True, True, True, True, True, False]


def test_a_daemon_is_missed_once_it_was_seen() -> None:
    daemons = Daemons(["sleep"])
    assert daemons(), "it may start yet"
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        assert comes(daemons)
        sleeping.kill()
        assert comes(lambda: not daemons()), "a zombie, which nobody has waited for"
    assert not daemons()


def test_a_daemon_of_somebody_else_is_none_of_ours() -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        daemons = Daemons(["sleep"])
        time.sleep(0.5)
        assert daemons()
        other.kill()
        other.wait()
        assert daemons()


def test_who_wants_to_be_told_is_told_before_anything_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "EVERY", 0.05)
    told: list[Exception] = []
    alive = [True]
    with Guard(lambda: alive[0], Console()) as watch, watch.telling(told.append):
        time.sleep(0.3)
        assert not watch.dead
        assert told == []
        alive[0] = False
        assert comes(lambda: told)
        assert watch.dead
    assert isinstance(told[0], Unusable)


def test_a_ray_that_dies_when_a_study_is_done_with_it_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report is being written, say: killed here, it would be lost."""
    monkeypatch.setattr(guard, "EVERY", 0.05)
    monkeypatch.setattr(guard, "PATIENCE", 0.0)
    alive = [True]
    told: list[Exception] = []
    with Guard(lambda: alive[0], Console()) as watch:
        with watch.telling(told.append):
            time.sleep(0.2)
        alive[0] = False
        time.sleep(0.3)
    assert told == []


@pytest.mark.parametrize("hearer", ["watch.telling(lambda error: None)", "nullcontext()"])
def test_a_process_that_cannot_end_is_ended_with_a_line(hearer: str) -> None:
    text = f"""
import time, orchestrator.guard as guard
from contextlib import nullcontext
from rich.console import Console
guard.PATIENCE = 0.2
with guard.Guard(lambda: False, Console()) as watch, {hearer}:
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.startswith("error: Ray is gone: ")
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
