"""Processes of this machine, by number and start: numbers alone are used again."""

import ctypes
import os
import signal
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux' <sys/prctl.h>


@lru_cache(maxsize=1)
def place() -> str:
    """Return this boot of this machine and its processes' namespace, or "" if it has no name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - as cheap as that
    except OSError:
        return ""


def born(pid: int) -> str:
    """Return when a process of this machine began, in the kernel's ticks; "" if it is no more."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def end_with(parent: int) -> None:
    """Let this process be killed at the end of the thread that started it, in process `parent`.

    Elsewhere than on Linux nothing is done.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)
