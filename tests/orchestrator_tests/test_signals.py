"""Signals: the first is remembered, the second does what it does by default."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

from orchestrator.errors import Interrupted, Mistakes, Stop, Unusable
from orchestrator.signals import Interrupts

ROOT = Path(__file__).parents[2]
STUBBORN = """
import os, signal, sys, time
from orchestrator.signals import Interrupts
with Interrupts().watched() as interrupts:
    os.kill(os.getpid(), signal.{name})
    print("still here", flush=True)
    os.kill(os.getpid(), signal.{name})
    time.sleep(30)
"""


@pytest.mark.parametrize(
    ("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
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


@pytest.mark.parametrize(
    ("stop", "code", "text"),
    [
        (Stop("a"), 1, "a"),
        (Mistakes(["a", "b"]), 2, "a\nb"),
        (Unusable("a"), 3, "a"),
        (Interrupted(signal.SIGINT), 130, "SIGINT"),
        (Interrupted(signal.SIGTERM), 143, "SIGTERM"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_stop_has_its_exit_code(stop: Stop, code: int, text: str) -> None:
    assert (stop.exit_code, str(stop)) == (code, text)
