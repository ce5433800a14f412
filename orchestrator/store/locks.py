"""Locks on results, so that two drivers that share a store compute nothing twice.

A claim saves work and decides nothing: where it is lost or two hold it, a result is made twice
and is the same.
"""

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from orchestrator.processes import born, place

FOLDER = ".claims"
WRITING = 2.0  # seconds in which a file that was made is written, or its maker is dead
SETTLE = 0.2  # seconds for others to overwrite what has no better way of changing hands


@dataclass(frozen=True, kw_only=True)
class LockState:
    """A claim as it was seen.

    Attributes:
        content: What its holder wrote.
        changed: When the store says that it changed last, in seconds of the store's own clock.
    """

    content: bytes
    changed: float


class LockFiles(Protocol):
    """A folder of small files, each named after what is claimed."""

    def create(self, name: str, content: bytes) -> bool:
        """Make a file, and return whether this call did; False where there is one."""

    def look(self, name: str) -> LockState | None:
        """Return what is in a file, if there is one."""

    def now(self) -> float:
        """Return the time by the clock that `Sight.changed` is told by."""

    def touch(self, name: str, content: bytes) -> None:
        """Renew when a file was changed."""

    def seize(self, name: str, seen: bytes, content: bytes) -> bool:
        """Replace a file that still holds what was seen, and return whether this call did."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""


class LocalLocks:
    """On a file system of the operating system, a mounted one too."""

    def __init__(self, root: str) -> None:
        self._folder = Path(root) / FOLDER

    def create(self, name: str, content: bytes) -> bool:
        path = self._folder / name
        try:
            return _create(path, content)
        except FileNotFoundError:
            self._folder.mkdir(parents=True, exist_ok=True)
            return _create(path, content)

    def look(self, name: str) -> LockState | None:
        try:
            with (self._folder / name).open("rb") as file:
                return LockState(content=file.read(), changed=os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None

    def now(self) -> float:
        probe = self._folder / f".now-{secrets.token_hex(8)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def touch(self, name: str, content: bytes) -> None:
        del content
        os.utime(self._folder / name)  # without a time it is the server's

    def seize(self, name: str, seen: bytes, content: bytes) -> bool:
        # The right to remove what was seen is a file too: of several, one gets it.
        right = self._folder / f".{name}.{hashlib.sha256(seen).hexdigest()[:16]}"
        if not _create(right, b""):
            with suppress(FileNotFoundError):
                if self.now() - right.stat().st_mtime > WRITING:  # who had it was killed
                    right.unlink()
            return False
        try:
            sight = self.look(name)
            if sight is None or sight.content != seen:
                return False
            self.remove(name)
            return self.create(name, content)
        finally:
            right.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)


class RemoteLocks:
    """In an object store: as good as its writes on condition, where it has them.

    Where it has none, two that come within a round trip of each other both get it.
    """

    def __init__(self, files: Any, root: str) -> None:
        self._files = files
        self._folder = f"{root}/{FOLDER}"

    def create(self, name: str, content: bytes) -> bool:
        path = f"{self._folder}/{name}"
        if self._files.exists(path):  # a back end may take no notice of the mode
            return False
        try:
            self._files.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        return True

    def look(self, name: str) -> LockState | None:
        path = f"{self._folder}/{name}"
        try:
            modified: datetime = self._files.modified(path)
            return LockState(content=self._files.cat_file(path), changed=modified.timestamp())
        except FileNotFoundError:
            return None

    def now(self) -> float:
        probe = f".now-{secrets.token_hex(8)}"
        self.touch(probe, b"")
        sight = self.look(probe)
        self.remove(probe)
        if sight is None:
            raise FileNotFoundError(probe)
        return sight.changed

    def touch(self, name: str, content: bytes) -> None:
        self._files.pipe_file(f"{self._folder}/{name}", content)

    def seize(self, name: str, seen: bytes, content: bytes) -> bool:
        sight = self.look(name)
        if sight is None or sight.content != seen:
            return False
        self.touch(name, content)
        time.sleep(SETTLE)
        sight = self.look(name)
        return sight is not None and sight.content == content

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(f"{self._folder}/{name}")


def _create(path: Path, content: bytes) -> bool:
    try:
        file = path.open("xb", buffering=0)
    except FileExistsError:
        return False
    try:
        with file:
            file.write(content)
    except OSError:  # no room
        path.unlink(missing_ok=True)
        raise
    return True


BEAT = 10.0  # seconds between signs of life of a holder
SILENCE = 60.0  # seconds without one, after which a holder is taken for dead


class ResultLock:
    """A place in the queue for one result; left, whatever it claimed is free again."""

    def __init__(self, files: LockFiles, name: str) -> None:
        self._files = files
        self._name = name
        self._token = secrets.token_hex(8)
        self._content = b""
        self._seen: LockState | None = None
        self._since = 0.0  # when the claim that was seen changed last, by this process's clock
        self._held = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._held:
            return
        self._held = False
        _HEART.drop(self._token)
        with suppress(Exception):  # the next process that needs it finds it dead
            if self._is_ours():
                self._files.remove(self._name)

    def mine(self) -> bool:
        """Whether it is this process's turn; if not, another one works on it now.

        A store that can keep no claims keeps nobody from working.
        """
        if self._held:
            return True
        _HEART.add(self._token, self)  # first, or another thread would find it forgotten
        try:
            self._held = self._take()
        except Exception:  # noqa: BLE001 - any back end, any error: no result rests on it
            return True
        finally:
            if not self._held:
                _HEART.drop(self._token)
        return self._held

    def beat(self) -> None:
        """Give a sign of life, unless another process has the claim now."""
        with suppress(Exception):  # the next may arrive
            if self._is_ours():
                self._files.touch(self._name, self._content)

    def _take(self) -> bool:
        self._content = self._content or _signed(self._token)
        if self._files.create(self._name, self._content):
            return True
        sight = self._files.look(self._name)
        if sight is None or not self.is_dead(sight):
            return False
        return self._files.seize(self._name, sight.content, self._content)

    def is_dead(self, sight: LockState) -> bool:
        """Whether the process that made a claim gives no sign of life any more."""
        holder = _holder(sight.content)
        if holder is not None and holder["place"] == place() != "":
            if born(holder["pid"]) != holder["born"]:
                return True
            if holder["pid"] == os.getpid() and not _HEART.beats_for(holder["token"]):
                return True
        return self._silent(sight) > (WRITING if holder is None else SILENCE)

    def _silent(self, sight: LockState) -> float:
        """Return the seconds without a sign of life: no two machines' clocks are compared."""
        if sight != self._seen:
            known = self._seen is not None
            age = 0.0 if known else max(0.0, self._files.now() - sight.changed)
            self._seen, self._since = sight, time.monotonic() - age
        return time.monotonic() - self._since

    def _is_ours(self) -> bool:
        sight = self._files.look(self._name)
        return sight is not None and sight.content == self._content


def is_held(files: LockFiles, name: str) -> bool:
    """Whether somebody is at a result now, as far as one look tells."""
    try:
        sight = files.look(name)
        return sight is not None and not ResultLock(files, name).is_dead(sight)
    except Exception:  # noqa: BLE001 - any back end, any error: no result rests on it
        return False


class _Heart:
    """A thread that gives a sign of life for every claim this process holds."""

    def __init__(self) -> None:
        self._turns: dict[str, ResultLock] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, token: str, turn: ResultLock) -> None:
        with self._lock:
            self._turns[token] = turn
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, daemon=True)
                self._thread.start()

    def drop(self, token: str) -> None:
        with self._lock:
            self._turns.pop(token, None)

    def beats_for(self, token: str) -> bool:
        return token in self._turns

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            with self._lock:
                turns = tuple(self._turns.values())
            for turn in turns:
                turn.beat()


_HEART = _Heart()


def _signed(token: str) -> bytes:
    """Return what says that this process holds a claim."""
    return json.dumps({"token": token, **_myself(os.getpid())}).encode()


@lru_cache(maxsize=1)
def _myself(pid: int) -> dict[str, Any]:
    return {"place": place(), "pid": pid, "born": born(pid), "host": socket.gethostname()}


def _holder(content: bytes) -> dict[str, Any] | None:
    """Return who holds a claim, if it says so."""
    try:
        found = json.loads(content)
        token, place, pid, born = (found[name] for name in ("token", "place", "pid", "born"))
    except (ValueError, KeyError, TypeError):
        return None
    sound = isinstance(pid, int) and all(isinstance(text, str) for text in (token, place, born))
    return found if sound else None
