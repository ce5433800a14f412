"""The files that claims are: made by one process alone, as far as the store can promise that."""

import hashlib
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

FOLDER = ".claims"
WRITING = 2.0  # seconds in which a file that was made is written, or its maker is dead
SETTLE = 0.2  # seconds for others to overwrite what has no better way of changing hands


@dataclass(frozen=True, kw_only=True)
class Sight:
    """A claim as it was seen.

    Attributes:
        content: What its holder wrote.
        changed: When the store says that it changed last, in seconds of the store's own clock.
    """

    content: bytes
    changed: float


class ClaimFiles(Protocol):
    """A folder of small files, each named after what is claimed."""

    def create(self, name: str, content: bytes) -> bool:
        """Make a file, and return whether this call did; False where there is one."""

    def look(self, name: str) -> Sight | None:
        """Return what is in a file, if there is one."""

    def now(self) -> float:
        """Return the time by the clock that `Sight.changed` is told by."""

    def touch(self, name: str, content: bytes) -> None:
        """Renew when a file was changed."""

    def seize(self, name: str, seen: bytes, content: bytes) -> bool:
        """Replace a file that still holds what was seen, and return whether this call did."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""


class LocalClaims:
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

    def look(self, name: str) -> Sight | None:
        try:
            with (self._folder / name).open("rb") as file:
                return Sight(content=file.read(), changed=os.fstat(file.fileno()).st_mtime)
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


class RemoteClaims:
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

    def look(self, name: str) -> Sight | None:
        path = f"{self._folder}/{name}"
        try:
            modified: datetime = self._files.modified(path)
            return Sight(content=self._files.cat_file(path), changed=modified.timestamp())
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
