"""Processes of this machine, the commit they run, temporary folders cleaned up after a crash."""

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir, mkdtemp

from filelock import FileLock, Timeout

PR_SET_PDEATHSIG = 1  # of Linux' <sys/prctl.h>


@lru_cache(maxsize=1)
def place() -> str:
    """Return this boot of this machine and its processes' namespace, or "" if it has no name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116 - as cheap as that
    except OSError:
        return ""


def end_with(parent: int) -> None:
    """Let this process be killed at the end of the thread that started it, in process `parent`.

    Elsewhere than on Linux nothing is done.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def installed(package: str) -> bool:
    """Return whether a package can be imported.

    A folder of its name without code, as mlflow/ of a checkout, is none.
    """
    try:
        spec = find_spec(package)
    except ImportError:
        return False
    return spec is not None and spec.origin is not None


PREFIX = "ulrl-"
MADE = f"/{PREFIX}12345678"  # what mkdtemp adds
LOCK = "driver.lock"  # held by the driver that a folder belongs to
SHORT = 38  # characters of a folder in which Ray's sockets have names that fit, by 5 to spare


@contextmanager
def scratch(parent: str | None = None) -> Iterator[Path]:
    """Make a temporary folder, by default in the system's place for them; left, it is gone.

    A driver that is killed leaves its folder; the next one to start takes it away.
    """
    parent = parent or gettempdir()
    for left in Path(parent).glob(f"{PREFIX}*"):
        if (left / LOCK).exists():
            with suppress(OSError, Timeout), FileLock(left / LOCK, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
    # Others find it by its name only once it is locked: they would take it for one that was left.
    folder = Path(mkdtemp(prefix=f".{PREFIX}", dir=parent))
    try:
        with FileLock(folder / LOCK, timeout=0, thread_local=False):
            folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place_for_sockets() -> str:
    """Return a folder for temporary files whose path is short and plain enough for Ray's sockets.

    Raises:
        OSError: Neither ``RAY_TMPDIR``, nor the system's place, nor /tmp is one.
    """
    places = (os.environ.get("RAY_TMPDIR"), gettempdir(), "/tmp")  # noqa: S108 - made by mkdtemp
    for place in filter(None, places):
        fits = len(place) <= SHORT - len(MADE) and place.isascii()
        if fits and os.access(place, os.W_OK | os.X_OK):
            return place
    raise OSError(
        f"the names of its sockets would be too long in {gettempdir()}; set RAY_TMPDIR to a "
        f"folder that can be written to and has at most {SHORT - len(MADE)} ASCII characters"
    )


@cache
def commit() -> str:
    """Return the checkout's commit, with a plus if files differ from it; "" outside of one."""
    here = Path(__file__).resolve().parents[1]
    if not (here / ".git").exists():
        return ""
    words = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            words, cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
