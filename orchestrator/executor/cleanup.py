"""The end of what an embedded Ray started, however its driver ends.

A driver that is killed, or that Ray itself ends, cleans up nothing. What it started then waits,
some of it for more than a minute and with its GPU memory, for a Ray that is not there any more.
So a process of its own waits for the driver's end: run as a program, this module is that
process. It imports nothing else of this package, to be there in a moment.

Ray's processes are known by the files of Ray's folder that they write to: all of them inherit
some. Their parents die before them, they change their titles, and a new title may overwrite the
environment.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PATIENCE = 3.0  # seconds for processes to end by themselves
GIVE_UP = 30.0  # seconds after which a process that was killed is left to the system
EVERY = 0.2  # seconds between looks
LOCK = "driver.lock"  # `processes.LOCK`: another driver holds it while it removes the folder


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Have no other process left that writes to a folder, once this is left or the process ends.

    Raises:
        OSError: The process that waits for that cannot be started.
    """
    sweeper = subprocess.Popen(  # noqa: S603 - our interpreter, our file
        [sys.executable, "-P", __file__, str(folder), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the driver
    )
    try:
        yield
    finally:
        sweeper.communicate(b"\n")
        if sweeper.returncode:
            sweep(folder, os.getpid())


def sweep(folder: Path, driver: int) -> None:
    """End all that writes to a folder but the driver; most needs a moment to end by itself."""
    began = time.monotonic()
    before: set[psutil.Process] = set()
    while left := _left(folder, driver):
        waited = time.monotonic() - began
        if waited > PATIENCE + GIVE_UP:
            return
        if waited > PATIENCE:  # again and again: one may just have started another
            for process in before & left:  # a copy of the driver becomes another program at once
                with suppress(psutil.Error):
                    process.kill()
        before = left
        psutil.wait_procs(left, timeout=EVERY)


def _left(folder: Path, driver: int) -> set[psutil.Process]:
    found, since = set(), psutil.Process().create_time()  # it was there before Ray
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            late = process.pid != driver and process.create_time() >= since
            if late and _writes(process.pid, f"{folder}/"):
                found.add(process)
    return found


def _writes(pid: int, folder: str) -> bool:
    """Return whether a process has a file below a folder open for writing, but for the lock.

    Also one that is deleted, which psutil does not list: another driver that starts now removes
    the folder, and holds its lock for that time. That driver must live.
    """
    place = Path(f"/proc/{pid}")
    for file in (place / "fd").iterdir():
        with suppress(OSError):  # closed by now
            target = str(file.readlink())
            if target.startswith(folder) and not target.startswith(f"{folder}{LOCK}"):
                flags = (place / "fdinfo" / file.name).read_text().partition("flags:")[2]
                if int(flags.split()[0], 8) & os.O_ACCMODE != os.O_RDONLY:
                    return True
    return False


if __name__ == "__main__":
    sys.stdin.buffer.read(1)  # until the driver is done with its Ray, or has ended
    sweep(Path(sys.argv[1]), int(sys.argv[2]))
