"""Signals, output that is closed, full or narrow, and how a command's process ends."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest

from orchestrator.errors import Interrupted, ResourceError, SpecError, StudyError
from orchestrator.terminal import OBEYED, Interrupts, failure_of, spared, tolerant

ROOT = Path(__file__).parents[2]
STUBBORN = """
import os, signal, sys, time
from orchestrator.terminal import Interrupts
with Interrupts().watched() as interrupts:
    os.kill(os.getpid(), signal.{name})
    print("still here", flush=True)
    os.kill(os.getpid(), signal.{name})
    time.sleep(30)
"""


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Let each test begin as a process does, and leave others as they were."""
    before = {signum: signal.getsignal(signum) for signum in OBEYED}
    for signum in OBEYED:
        default = signum == signal.SIGINT
        signal.signal(signum, signal.default_int_handler if default else signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize(
    ("signum", "code"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 129),
        (signal.SIGXCPU, 152),
    ],
)
def test_a_signal_is_obeyed_at_the_next_check(signum: signal.Signals, code: int) -> None:
    interrupts = Interrupts()
    interrupts.check()
    with interrupts.watched() as watched:
        assert watched is interrupts
        interrupts.check()
        os.kill(os.getpid(), signum)
        with pytest.raises(Interrupted) as caught:
            interrupts.check()
    assert str(caught.value) == signum.name
    assert caught.value.exit_code == code


def test_handlers_are_put_back() -> None:
    seen: list[int] = []

    def own(signum: int, frame: FrameType | None) -> None:
        del frame
        seen.append(signum)

    before = signal.signal(signal.SIGTERM, own)
    try:
        with Interrupts().watched():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyError), Interrupts().watched():
            raise KeyError
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_second_signal_ends_the_process(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN.format(name=name)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "still here\n"
    assert done.returncode == -getattr(signal, name)


def test_a_closed_terminal_may_be_told_twice() -> None:
    """By the shell, and by the kernel when the shell ends."""
    with Interrupts().watched() as interrupts:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(Interrupted, match="SIGHUP"):
            interrupts.check()


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts().watched() as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        interrupts.check()


def test_a_handler_that_a_library_has_set_is_replaced() -> None:
    """Ray Tune takes SIGUSR1 for itself."""
    interrupts = Interrupts()
    with interrupts.watched():
        signal.signal(signal.SIGUSR1, lambda *_: None)
        interrupts.listen()
        os.kill(os.getpid(), signal.SIGUSR1)
        interrupts.listen()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL, "the second one ends it"
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with pytest.raises(Interrupted, match="SIGUSR1"):
        interrupts.check()


def test_outside_the_main_thread_nothing_is_listened_to() -> None:
    def enter() -> bool:
        with Interrupts().watched() as interrupts, spared():
            interrupts.check()
            return signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(enter).result()


def test_what_is_started_spared_lives_through_a_signal_to_the_group() -> None:
    """A closed terminal and a batch system signal every process of a job, Ray's too."""
    code = """
import os, signal, subprocess, time
from orchestrator.terminal import OBEYED, Interrupts, spared
with Interrupts().watched() as interrupts:
    with spared():
        child = subprocess.Popen(["sleep", "60"])
        os.kill(os.getpid(), signal.SIGUSR2)
        interrupts.check()
    assert interrupts.signum == signal.SIGUSR2, "it waited"
    for signum in (signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU):
        os.killpg(0, signum)
    time.sleep(0.3)
    print(child.poll(), interrupts.signum is None)
    child.kill()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        process_group=0,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("None False\n", "")


@pytest.mark.parametrize(
    ("stop", "code", "text"),
    [
        (StudyError("a"), 1, "a"),
        (SpecError(["a", "b"]), 2, "a\nb"),
        (ResourceError("a"), 3, "a"),
        (Interrupted(signal.SIGINT), 130, "SIGINT"),
        (Interrupted(signal.SIGTERM), 143, "SIGTERM"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_stop_has_its_exit_code(stop: StudyError, code: int, text: str) -> None:
    assert (stop.exit_code, str(stop)) == (code, text)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_characters_that_an_encoding_lacks_are_escaped(encoding: str, tmp_path: Path) -> None:
    text = "4 × 3 → ü \N{GREEK SMALL LETTER ALPHA} \udcff\n"
    with (tmp_path / "out").open("wb") as file:
        tolerant(file.fileno(), encoding).write(text)
    found = (tmp_path / "out").read_bytes().decode(encoding)
    assert found.encode("ascii", "backslashreplace") == text.encode("ascii", "backslashreplace")


def test_a_full_disk_is_known_and_later_writes_arrive(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, Path("/dev/full").open("wb") as full:
        place = os.dup(file.fileno())
        stream = tolerant(place, "utf-8")
        assert stream.fileno() == place
        assert not stream.isatty()
        stream.write("one\n")
        assert failure_of(stream) is None
        os.dup2(full.fileno(), place)
        stream.write("two\n")
        failure = failure_of(stream)
        assert failure is not None
        assert failure.errno == errno.ENOSPC
        os.dup2(file.fileno(), place)
        stream.write("three\n")
        assert failure_of(stream) is None
        os.close(place)
    assert (tmp_path / "out").read_text() == "one\nthree\n"


PROGRAM = """
import atexit, logging, sys, threading, time
from orchestrator.terminal import as_process

class Late:
    def __del__(self):
        print("taken apart")

late = Late()

def main():
    late.itself = late  # only taken apart when everything is
    atexit.register(print, "registered")
    threading.Timer(0.2, print, ["thread"]).start()
    print("main")
    {last}

sys.exit(as_process(main))
"""


def ended(last: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a process whose command ends so."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last)],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 143])
def test_all_but_taking_apart_is_done(code: int) -> None:
    done = ended(f"return {code}")
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines() == ["main", "thread", "registered"]


@pytest.mark.parametrize("code", [0, 1])
def test_output_that_nobody_takes_changes_no_exit_code(code: int) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - no path of ours
        done = ended(f"return {code}", output=full.fileno())
    assert (done.returncode, done.stderr) == (code, "")
