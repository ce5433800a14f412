"""The watch over Ray: whom it tells of a death, and what it ends."""

import errno
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
from rich.console import Console

from orchestrator.errors import ResourceError
from orchestrator.executor import watchdog
from orchestrator.executor.watchdog import Listeners, RayDaemons, RayWatchdog
from tests.system_tests.commands import wait_until

SECONDS = 20.0  # for what takes a moment


def test_somebody_listens_until_nobody_does() -> None:
    here = ("127.0.0.1", 0)
    with socket.create_server(here) as one, socket.create_server(here) as two:
        listen = Listeners([one.getsockname()[:2], two.getsockname()[:2]])
        assert listen()
        two.close()
        assert not listen()


@pytest.mark.parametrize("error", [TimeoutError, OSError(errno.EHOSTUNREACH, ""), socket.gaierror])
def test_who_does_not_answer_is_given_time(
    error: type[OSError] | OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine under load answers late; that is not the end of a study."""
    now = [0.0]
    answers: list[type[OSError] | OSError | None] = []

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        del place, timeout
        if (answer := answers.pop()) is not None:
            raise answer
        return socket.socket()

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(socket, "create_connection", connect)
    listen = Listeners([("127.0.0.1", 1)])
    found = []
    for now[0], answer in [(20, error), (24, error), (26, None), (50, error), (52, error)]:
        answers.append(answer)
        found.append(listen())
    assert found == [True, True, True, True, False]


def test_a_daemon_is_missed_once_it_was_seen(tmp_path: Path) -> None:
    program = shutil.copy("/bin/sleep", tmp_path / "daemon_of_test")  # a name that no other has
    daemons = RayDaemons(["daemon_of_test"])
    assert daemons(), "it may start yet"
    with subprocess.Popen([program, "60"]) as sleeping:
        assert daemons()
        sleeping.kill()
        wait_until(lambda: not daemons(), "it is missed, as a zombie", SECONDS)
    assert not daemons()


def test_a_daemon_of_somebody_else_is_none_of_ours() -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        theirs = psutil.Process(other.pid)
        wait_until(theirs.children, "there is one", SECONDS)
        daemons = RayDaemons(["sleep"])
        assert daemons()
        theirs.children()[0].kill()
        other.wait()
        assert daemons()


def test_a_look_that_fails_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeping:
        daemons = RayDaemons(["sleep"])
        assert daemons()
        failing = Mock(side_effect=OSError(errno.EMFILE, "too many open files"))
        monkeypatch.setattr(psutil.Process, "status", failing)
        assert daemons()
        monkeypatch.undo()
        sleeping.kill()
        wait_until(lambda: not daemons(), "it is missed", SECONDS)


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Ways out of this process, taken for real in other tests."""
    monkeypatch.setattr(watchdog, "EVERY", 0.05)
    monkeypatch.setattr(watchdog, "PATIENCE", 0.2)
    exits = Mock()
    monkeypatch.setattr("orchestrator.executor.watchdog.os._exit", exits)
    return exits


@pytest.fixture
def watch(exits: Mock) -> Iterator[RayWatchdog]:
    """A guard of what is alive; it is over when the test is."""
    del exits
    watch = RayWatchdog(lambda: True, Console(file=StringIO()))
    watch.start()
    yield watch
    with watch.leaving():
        wait_until(lambda: not watching(), "the watch is over", SECONDS)


def watching() -> bool:
    return any(thread.name.endswith("(_watch)") for thread in threading.enumerate())


def test_who_wants_to_be_told_is_told_before_anything_is_ended(
    watch: RayWatchdog, exits: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "PATIENCE", 60)
    errors: list[Exception] = []
    with watch.handling(errors.append):
        time.sleep(0.3)
        assert errors == []
        watch.watch(lambda: False)
        wait_until(lambda: errors, "it is reported", SECONDS)
        with watch.leaving():
            wait_until(lambda: not watching(), "the watch is over", SECONDS)
    assert isinstance(errors[0], ResourceError)
    exits.assert_not_called()


def test_who_is_done_with_a_study_is_not_told(watch: RayWatchdog, exits: Mock) -> None:
    tell = Mock()
    with watch.handling(tell):
        pass
    watch.watch(lambda: False)
    wait_until(lambda: exits.called, "the process ends", SECONDS)
    tell.assert_not_called()


def test_a_ray_that_dies_when_a_study_has_left_it_ends_nothing(
    watch: RayWatchdog, exits: Mock
) -> None:
    """The report is being written, say: killed here, it would be lost."""
    with watch.leaving():
        pass
    watch.watch(lambda: False)
    wait_until(lambda: not watching(), "the watch is over", SECONDS)
    exits.assert_not_called()


def test_who_cannot_get_out_of_ray_is_ended(exits: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LEAVING", 0.2)
    watch = RayWatchdog(lambda: True, Console(file=(said := StringIO())))
    with watch.leaving():
        wait_until(lambda: exits.called, "the process ends", SECONDS)
    exits.assert_called_once_with(3)
    assert said.getvalue() == f"error: {watchdog.GONE}\n"


def test_a_view_that_is_being_drawn_is_left_as_a_terminal_should_be(exits: Mock) -> None:
    watch = RayWatchdog(lambda: False, Console(file=(said := StringIO()), force_terminal=True))
    watch.start()
    wait_until(lambda: exits.called, "the process ends", SECONDS)
    before, _, after = said.getvalue().partition(watchdog.GONE)
    assert before.startswith("\n")
    assert "\x1b[?25h" in before
    assert after.strip() == ""


STUCK = """
import time, orchestrator.executor.watchdog as guard
from contextlib import nullcontext
from rich.console import Console
guard.PATIENCE = 0.2
watch = guard.RayWatchdog(lambda: False, Console())
watch.start()
with {hearer}:
    time.sleep(60)
"""


@pytest.mark.parametrize("hearer", ["watch.handling(lambda error: None)", "nullcontext()"])
def test_a_process_that_cannot_end_is_ended_with_a_line(hearer: str) -> None:
    command = [sys.executable, "-c", STUCK.format(hearer=hearer)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == f"error: {watchdog.GONE}\n"
    assert done.stderr == ""


def test_who_has_no_terminal_any_more_is_ended_all_the_same() -> None:
    """Where a pipe is broken, rich ends the thread that prints."""
    command = [sys.executable, "-c", STUCK.format(hearer="nullcontext()")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 3
