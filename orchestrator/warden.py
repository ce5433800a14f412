"""The end of what an embedded Ray started, however its driver ends.

A driver that is killed, or that Ray itself ends, sweeps nothing up. What it started then waits,
some of it for more than a minute and with its GPU memory, for a Ray that is not there any more.
So a process of its own waits for the driver's end: run as a program, this module is that
process. It imports nothing else of this package, to be there in a moment.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

SESSION = "ULRL_SESSION"  # names the driver in the environment of all that its Ray starts
PATIENCE = 5.0  # seconds for processes to end by themselves
IN_VAIN = 30.0  # seconds after which a process that was killed is left to the system
EVERY = 0.2  # seconds between looks


@contextmanager
def watched(session: str) -> Iterator[None]:
    """Have nothing left that carries a session's mark, once this is left or the process ends.

    Raises:
        OSError: The process that waits for that cannot be started.
    """
    warden = subprocess.Popen(  # noqa: S603 - our interpreter, our file
        [sys.executable, "-P", __file__, session],  # whatever lies in the working folder
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the driver
    )
    try:
        yield
    finally:
        warden.communicate(b"\n")
        if warden.returncode:
            sweep(session)


@contextmanager
def marked(session: str) -> Iterator[None]:
    """Let what this process starts now be known as a session's, but for what is `unmarked`."""
    os.environ[SESSION] = session
    try:
        yield
    finally:
        del os.environ[SESSION]


def unmarked() -> dict[str, str]:
    """Return the environment for what another thread may start while Ray is being started."""
    return {name: os.environ[name] for name in os.environ if name != SESSION}  # it may go meanwhile


def sweep(session: str) -> None:
    """End what is left of a session; most of it needs a moment to end by itself."""
    began = time.monotonic()
    while left := _left(session):
        waited = time.monotonic() - began
        if waited > PATIENCE + IN_VAIN:
            return
        if waited > PATIENCE:  # again and again: one may just have started another
            for process in left:
                with suppress(psutil.Error):
                    process.kill()
        psutil.wait_procs(left, timeout=EVERY)


def _left(session: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(SESSION) == session:
                found.append(process)
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read(1)  # until the driver is done with its Ray, or has ended
    sweep(sys.argv[1])
