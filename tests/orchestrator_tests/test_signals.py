"""Signals: the first is remembered, the second does what it does by default."""

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
from orchestrator.terminal import OBEYED, Interrupts, spared

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
        (signal.SIGUSR1, 138),
        (signal.SIGUSR2, 140),
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


def test_a_library_that_replaces_handlers_is_outlived() -> None:
    interrupts = Interrupts()
    with interrupts.watched():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with interrupts.watched():
            os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        interrupts.check()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
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
