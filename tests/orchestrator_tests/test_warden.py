"""The end of what a driver's Ray started, when the driver ends in whatever way."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from uuid import uuid4

import psutil
import pytest

from orchestrator import warden
from tests.system_tests.commands import killed, processes_with, such, title, wait_until

# It starts what its Ray would start, says so, and ends in the way asked for.
DRIVER = """
import os, signal, subprocess, sys
from orchestrator import warden
mark, end = sys.argv[1:]
with warden.watched(mark):
    with warden.marked(mark):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    print("started", flush=True)
    sys.stdin.readline()
    exec(end)
"""
ENDS = {
    "the study is over": "pass",
    "an error": "raise KeyError",
    "Ray ends it": "os._exit(1)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "Ctrl-C twice": "signal.signal(signal.SIGINT, signal.SIG_DFL); os.killpg(0, signal.SIGINT)",
}


@pytest.fixture
def mark() -> Iterator[str]:
    mark = uuid4().hex
    yield mark
    killed(processes_with(warden.SESSION, mark))


def nothing_of(mark: str) -> bool:
    return not processes_with(warden.SESSION, mark)


def test_however_a_driver_ends_nothing_of_its_session_is_left() -> None:
    """All at once, since each waits seconds for what may end by itself."""
    another = uuid4().hex
    with ExitStack() as stack:
        bystander = stack.enter_context(
            subprocess.Popen(["sleep", "600"], env={**os.environ, warden.SESSION: another})
        )
        stack.callback(bystander.kill)
        drivers = {}
        for what, end in ENDS.items():
            mark = uuid4().hex
            drivers[what] = (
                mark,
                subprocess.Popen(
                    [sys.executable, "-c", DRIVER, mark, end],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    process_group=0,
                ),
            )
            stack.enter_context(drivers[what][1])
        for mark, driver in drivers.values():
            assert driver.stdout is not None
            assert driver.stdout.readline() == "started\n"
            assert len(processes_with(warden.SESSION, mark)) == 1
        for _, driver in drivers.values():
            assert driver.stdin is not None
            driver.stdin.write("\n")
            driver.stdin.flush()
        for what, (mark, _) in drivers.items():
            wait_until(partial(nothing_of, mark), f"nothing is left: {what}", 40)
        codes = {what: driver.wait(20) for what, (_, driver) in drivers.items()}
        assert codes == dict(zip(ENDS, (0, 1, 1, -signal.SIGKILL, -signal.SIGINT), strict=True))
        assert bystander.poll() is None
        wardens = {f"{warden.__file__} {mark}" for mark, _ in drivers.values()}
        wait_until(lambda: not ended_by(wardens), "no warden is left", 5)


def ended_by(ends: Iterable[str]) -> list[psutil.Process]:
    """Return the processes whose command lines end so."""
    return such(psutil.process_iter(), lambda one: title(one).endswith(tuple(ends)))


def test_what_starts_another_meanwhile_is_ended_with_it(
    mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raylet may start a worker between the look and the kill."""
    monkeypatch.setattr(warden, "PATIENCE", 0.3)
    hydra = "import subprocess, time\nwhile time.sleep(0.01) is None:\n"
    hydra += "    subprocess.Popen(['sleep', '600'])"
    with subprocess.Popen([sys.executable, "-c", hydra], env={**os.environ, warden.SESSION: mark}):
        wait_until(lambda: len(processes_with(warden.SESSION, mark)) > 4, "it starts others", 20)
        warden.sweep(mark)
    assert nothing_of(mark)


def test_what_cannot_be_ended_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits inside the system's core for a disk, say."""

    class Unending:
        def kill(self) -> None:
            raise psutil.AccessDenied

    monkeypatch.setattr(warden, "PATIENCE", 0.1)
    monkeypatch.setattr(warden, "IN_VAIN", 0.3)
    monkeypatch.setattr(warden, "_left", lambda _: [Unending()])
    monkeypatch.setattr(psutil, "wait_procs", lambda _, timeout: time.sleep(timeout))
    began = time.monotonic()
    warden.sweep("any")
    assert 0.4 <= time.monotonic() - began < 5


def test_the_mark_is_on_what_is_started_meanwhile_alone(mark: str) -> None:
    ask = [sys.executable, "-c", f"import os; print(os.environ.get({warden.SESSION!r}))"]
    with warden.marked(mark):
        assert subprocess.check_output(ask, text=True) == f"{mark}\n"
        assert subprocess.check_output(ask, text=True, env=warden.unmarked()) == "None\n"
    assert subprocess.check_output(ask, text=True) == "None\n"
