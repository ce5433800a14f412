"""Processes of this machine, by number and start: numbers alone are used again."""

import os
from functools import lru_cache
from pathlib import Path


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
