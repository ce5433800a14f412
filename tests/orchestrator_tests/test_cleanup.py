"""The end of what a driver's Ray started, when the driver ends in whatever way."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from orchestrator.executor import cleanup
from tests.system_tests.commands import adopting, left, wait_until

# It starts what its Ray would start, says so, and ends in the way asked for. The child forgets
# its environment, is of another session, and writes to nothing of the folder but its inheritance.
DRIVER = """
import os, signal, subprocess, sys
from pathlib import Path
from orchestrator.executor import cleanup
folder, end = Path(sys.argv[1]), sys.argv[2]
own = (folder / "driver.log").open("w")  # as Ray writes one in the driver too
with cleanup.watched(folder):
    with (folder / "log").open("a") as log:
        child = subprocess.Popen(["sleep", "600"], start_new_session=True, stdout=log, env={})
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
SLEEPER = ("sleep", "600")


def test_however_a_driver_ends_nothing_of_its_ray_is_left(tmp_path: Path) -> None:
    """All at once, since each waits seconds for what may end by itself."""
    with adopting() as descendants, ExitStack() as stack:
        log = stack.enter_context((tmp_path / "log").open("w"))
        bystanders = [stack.enter_context(subprocess.Popen(SLEEPER, stdout=log))]  # beside them
        drivers = {}
        for number, (what, end) in enumerate(ENDS.items()):
            folder = tmp_path / str(number)
            folder.mkdir()
            drivers[what] = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", DRIVER, str(folder), end],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    process_group=0,
                )
            )
        for driver in drivers.values():
            assert driver.stdout is not None
            assert driver.stdout.readline() == "started\n"
        (tmp_path / "3" / "log").unlink()  # as a driver does that starts before all is over
        reader = stack.enter_context((tmp_path / "0" / "log").open())  # a person, with `less`
        bystanders.append(stack.enter_context(subprocess.Popen(SLEEPER, stdin=reader)))
        for bystander in bystanders:
            stack.callback(bystander.kill)
        for driver in drivers.values():
            assert driver.stdin is not None
            driver.stdin.write("\n")
            driver.stdin.flush()
        own = {psutil.Process(bystander.pid) for bystander in bystanders}
        wait_until(lambda: set(descendants()) == own, lambda: left(descendants()), 20)
        codes = {what: driver.wait(20) for what, driver in drivers.items()}
        assert codes == dict(zip(ENDS, (0, 1, 1, -signal.SIGKILL, -signal.SIGINT), strict=True))


def test_what_starts_another_meanwhile_is_ended_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raylet may start a worker between the look and the kill."""
    monkeypatch.setattr(cleanup, "PATIENCE", 0.3)
    hydra = "import subprocess, time\nwhile time.sleep(0.01) is None:\n"
    hydra += "    subprocess.Popen(['sleep', '600'])"
    with adopting() as descendants, (tmp_path / "log").open("w") as log:
        with subprocess.Popen([sys.executable, "-c", hydra], stdout=log):
            wait_until(lambda: len(descendants()) > 4, "it starts others", 20)
            cleanup.sweep(tmp_path, os.getpid())
        assert descendants() == []


HOLDER = """
import sys, time
from pathlib import Path
from filelock import FileLock
from orchestrator.processes import LOCK
file = Path(sys.argv[1]) / LOCK
with FileLock(file):
    print("held", flush=True)
    sys.stdin.readline()
    file.unlink()
    print("removed", flush=True)
    time.sleep(600)
"""


def test_another_driver_that_removes_the_folder_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command typed again at once, while what the killed one left is still ended."""
    monkeypatch.setattr(cleanup, "PATIENCE", 0.1)
    monkeypatch.setattr(cleanup, "GIVE_UP", 1)
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as next_:
        assert next_.stdin is not None
        assert next_.stdout is not None
        for said in ("held\n", "removed\n"):
            assert next_.stdout.readline() == said
            cleanup.sweep(tmp_path, os.getpid())
            assert next_.poll() is None
            if said == "held\n":
                next_.stdin.write("\n")
                next_.stdin.flush()
        next_.kill()


def test_what_cannot_be_ended_is_left_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits inside the system's core for a disk, say."""

    class Unending:
        def kill(self) -> None:
            raise psutil.AccessDenied

    monkeypatch.setattr(cleanup, "PATIENCE", 0.1)
    monkeypatch.setattr(cleanup, "GIVE_UP", 0.3)
    unending = Unending()
    monkeypatch.setattr(cleanup, "_left", lambda *_: {unending})
    monkeypatch.setattr(psutil, "wait_procs", lambda _, timeout: time.sleep(timeout))
    began = time.monotonic()
    cleanup.sweep(Path("any"), 1)
    assert 0.4 <= time.monotonic() - began < 5


PARENT = """
import os, subprocess, sys, time
child = "import os, time; from orchestrator.processes import end_with; end_with({}); "
child = (child + "print(os.getpid(), flush=True); time.sleep(60)").format(os.getpid())
subprocess.Popen([sys.executable, "-c", child])
time.sleep(60)
"""


def test_a_process_ends_with_the_one_that_started_it() -> None:
    command = [sys.executable, "-c", PARENT]
    with (
        adopting() as descendants,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent,
    ):
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) in {one.pid for one in descendants()}
        parent.kill()
        wait_until(lambda: not descendants(), lambda: left(descendants()), 5)


def test_a_process_whose_parent_was_gone_before_ends_at_once() -> None:
    code = "from orchestrator.processes import end_with; end_with(1 << 30); print('on')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
