"""Files of a published archive, packed or unpacked: read by name, never extracted."""

import contextlib
import gzip
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from ulrl.datasets._base import DatasetError

DAMAGE = (
    *(OSError, EOFError, KeyError, RuntimeError, NotImplementedError),
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile),
)


class Members(ABC):
    """Named files below one place.

    Names are relative, with ``/`` between their parts. Only what is asked for is read, so
    what else an archive may hold (paths that leave it, links) does nothing.

    Attributes:
        place: The folder or archive, for messages.
    """

    place: Path

    @abstractmethod
    def each(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield each name with its content, in the order that is cheapest.

        Raises:
            DatasetError: A file is missing or cannot be read.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Return the sorted names of the files that lie in `folder` itself.

        Raises:
            DatasetError: The folder is missing.
        """

    def read(self, name: str) -> bytes:
        """Return the content of one file.

        Raises:
            DatasetError: It is missing or cannot be read.
        """
        ((_, content),) = self.each([name])
        return content


class Folder(Members):
    """An unpacked archive."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def each(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        for name in names:
            with _told(self.place, name):
                content = (self.place / name).read_bytes()
            yield name, content

    def names(self, folder: str) -> list[str]:
        with _told(self.place, folder):
            return sorted(entry.name for entry in (self.place / folder).iterdir())


class Zip(Members):
    """A ``.zip``, of which the names begin with `inside`."""

    def __init__(self, place: Path, inside: str) -> None:
        self.place = place
        self._inside = inside

    def each(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        with contextlib.ExitStack() as stack:
            with _told(self.place):
                archive = stack.enter_context(zipfile.ZipFile(self.place))
            for name in names:
                with _told(self.place, name):
                    content = archive.read(self._inside + name)
                yield name, content

    def names(self, folder: str) -> list[str]:
        if folder not in self._by_folder:
            raise DatasetError(f"{self.place} has no {self._inside}{folder}")
        return sorted(self._by_folder[folder])

    @cached_property
    def _by_folder(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with _told(self.place), zipfile.ZipFile(self.place) as archive:
            for path in archive.namelist():
                if path.startswith(self._inside) and not path.endswith("/"):
                    folder, _, name = path.removeprefix(self._inside).rpartition("/")
                    found.setdefault(folder, []).append(name)
        return found


class Tar(Members):
    """A ``.tar.gz``, of which the names begin with `inside`; read in one pass."""

    def __init__(self, place: Path, inside: str) -> None:
        self.place = place
        self._inside = inside

    def each(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        wanted = {self._inside + name: name for name in names}
        with contextlib.ExitStack() as stack:
            with _told(self.place):
                archive = stack.enter_context(tarfile.open(self.place, "r|gz"))
            while wanted:
                with _told(self.place, next(iter(wanted.values()))):
                    entry = archive.next()
                    if entry is None:
                        raise KeyError("it is not in the archive")
                    file = archive.extractfile(entry) if entry.isreg() else None
                    if file is None or entry.name not in wanted:
                        continue
                    content = file.read()
                yield wanted.pop(entry.name), content

    def names(self, folder: str) -> list[str]:
        start = f"{self._inside}{folder}/" if folder else self._inside
        with _told(self.place), tarfile.open(self.place, "r:gz") as archive:
            below = [entry.name for entry in archive if entry.isreg()]
        rest = [name.removeprefix(start) for name in below if name.startswith(start)]
        if not rest:
            raise DatasetError(f"{self.place} has no {self._inside}{folder}")
        return sorted(name for name in rest if "/" not in name)


def packed(place: Path, inside: str) -> Members:
    """Return the members of a ``.zip`` or ``.tar.gz`` whose names begin with `inside`."""
    return Zip(place, inside) if place.suffix == ".zip" else Tar(place, inside)


@contextlib.contextmanager
def _told(place: Path, name: str = "") -> Iterator[None]:
    """Turn what a damaged file raises into one line that names the file."""
    try:
        yield
    except DAMAGE as error:
        of = f"{name} of " if name else ""
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise DatasetError(f"{of}{place} cannot be read: {reason}") from error
