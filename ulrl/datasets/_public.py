"""Datasets that anyone can download: found on disk or fetched, then decoded once."""

import os
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ulrl.datasets._base import Dataset, DatasetError, DatasetInfo, Fetched, ImageSet
from ulrl.datasets._decoded import Rows, UnsoundError, locked, open_decoded, write_decoded
from ulrl.datasets._download import Archive, download, md5_of, unlike
from ulrl.datasets._members import Folder, Members, packed


@dataclass(frozen=True, kw_only=True)
class Part:
    """A published archive, and where its unpacked files are looked for.

    Attributes:
        archive: The archive.
        inside: What the names of its members begin with: empty, or with a ``/`` at the end.
        folders: Where people unpack it to, below the root.
        marker: A file by which an unpacked folder is known.
    """

    archive: Archive
    inside: str
    folders: tuple[str, ...]
    marker: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was published as one dataset.

    Attributes:
        parts: Its archives, by what they are for.
        info: What they hold.
        version: Of the rule by which they are decoded; another one is another folder.
    """

    parts: Mapping[str, Part]
    info: DatasetInfo
    version: int = 1


@dataclass(frozen=True, kw_only=True)
class PublicDataset(Dataset):
    """Images that come from published archives.

    In the root are looked for, in this order: what an earlier call decoded, the unpacked
    archive, the archive; then the mirror or the official address is asked.

    Attributes:
        root: Folder that holds the data, or shall hold it. It may be read-only if it holds
            them: decoded images then go to the user's cache (``$XDG_CACHE_HOME/ulrl``).
        download: Whether archives that are not there may be downloaded.
        mirror: Where to take archives from instead of the official address: the start of a
            URL (``http`` or ``https``), or the absolute path of a folder, which is used
            even if nothing may be downloaded. Checksums are verified either way.
    """

    root: str = field(default="data", metadata={"runtime": True})
    download: bool = field(default=True, metadata={"runtime": True})
    mirror: str | None = field(default=None, metadata={"runtime": True})

    def __post_init__(self) -> None:
        if self.mirror is None or Path(self.mirror).is_absolute():
            return
        parts = urlsplit(self.mirror)
        if parts.scheme not in {"http", "https"} or not parts.netloc:
            raise ValueError(
                f"mirror is a URL that begins with http:// or https://, or the absolute path of "
                f"a folder; got {self.mirror!r}"
            )

    @property
    @abstractmethod
    def source(self) -> Source:
        """What was published."""

    @abstractmethod
    def _verify(self, role: str, members: Members) -> None:
        """Check an unpacked archive as far as that can be done.

        Raises:
            DatasetError: It is incomplete, or something else.
        """

    @abstractmethod
    def _rows(self, places: Mapping[str, Members]) -> Iterator[Rows]:
        """Decode all images, given where the files of each archive are.

        Raises:
            DatasetError: A file is missing or damaged.
        """

    @property
    def label(self) -> str:
        return self.name

    def info(self) -> DatasetInfo:
        return self.source.info

    def fetch(self) -> Iterator[Fetched]:
        if self._stored()[0] is not None:
            return
        self._check_hope()
        refusal: OSError | None = None
        for home in self._homes():
            try:
                decoded = self._place(home).parent
                decoded.mkdir(parents=True, exist_ok=True)
                lock = yield from locked(decoded / f".{self.name}.lock", self.name)
            except OSError as error:  # a folder to read only
                refusal = refusal or error
                continue
            with lock:
                if self._stored()[0] is None:  # else another process was faster
                    yield from self._decode(home)
            return
        raise DatasetError(f"{self.name} cannot be decoded: {refusal}; name a folder with root:")

    def load(self) -> ImageSet:
        for _ in self.fetch():
            pass
        images, _ = self._stored()
        if images is None:
            raise DatasetError(f"{self.name} was decoded and is gone; was {self.root} emptied?")
        return images

    def _homes(self) -> tuple[Path, ...]:
        """Return where decoded images may lie, the best place first."""
        root, chosen = Path(self.root).absolute(), Path(os.environ.get("XDG_CACHE_HOME", ""))
        if chosen.is_absolute():
            return root, chosen / "ulrl"
        try:
            return root, Path("~/.cache/ulrl").expanduser()
        except RuntimeError:  # a user without a home
            return (root,)

    def _place(self, home: Path) -> Path:
        return home / "decoded" / f"{self.name}-{self.source.version}"

    def _stored(self) -> tuple[ImageSet | None, list[str]]:
        """Return the decoded images, if they are there, and what is wrong where they are not."""
        damage = []
        for home in self._homes():
            folder = self._place(home)
            try:
                return open_decoded(folder, self.source.info), []
            except FileNotFoundError:
                continue
            except UnsoundError as error:
                damage.append(f"{folder}: {error}")
        return None, damage

    def _decode(self, home: Path) -> Iterator[Fetched]:
        places = {}
        for role, part in self.source.parts.items():
            places[role] = yield from self._locate(role, part, home)
        folder = self._place(home)
        try:
            yield from write_decoded(folder, self.name, self.source.info, self._rows(places))
        except OSError as error:
            raise DatasetError(f"{self.name} cannot be decoded into {folder}: {error}") from error

    def _locate(self, role: str, part: Part, home: Path) -> Generator[Fetched, None, Members]:
        """Return where the files of an archive are, downloading it where they are not."""
        complaints = []
        for place in self._unpacked(part):
            members = Folder(place)
            try:
                self._verify(role, members)
            except DatasetError as error:
                complaints.append(str(error))
            else:
                return members
        for place in self._held(part):
            got = md5_of(place)
            if got == part.archive.md5:
                return packed(place, part.inside)
            complaints.append(unlike(str(place), part.archive.md5, got))
        root = self._homes()[0]
        try:
            yield from self._bring(part.archive, root, home)
        except DatasetError as error:
            raise self._missing([*complaints, str(error)], part) from error
        return packed(root / part.archive.file, part.inside)

    def _bring(self, archive: Archive, root: Path, home: Path) -> Iterator[Fetched]:
        if self.mirror is not None and Path(self.mirror).is_absolute():
            raise DatasetError(f"nor is {archive.file} in {self.mirror}")
        if not self.download:
            raise DatasetError("download is false")
        if home != root:
            raise DatasetError("the folder cannot be written")
        url = archive.url if self.mirror is None else f"{self.mirror.rstrip('/')}/{archive.file}"
        yield from download(archive, url, root)

    def _check_hope(self) -> None:
        """Leave no trace of a call that can find nothing.

        Raises:
            DatasetError: Nothing is there, and nothing may be fetched.
        """
        if self.download:
            return
        for part in self.source.parts.values():
            if not any(self._unpacked(part)) and not any(self._held(part)):
                raise self._missing(["download is false"], part)

    def _unpacked(self, part: Part) -> Iterator[Path]:
        for folder in part.folders:
            place = self._homes()[0] / folder
            if (place / part.marker).is_file():
                yield place

    def _held(self, part: Part) -> Iterator[Path]:
        """Yield where the archive itself lies."""
        mirrors = [Path(self.mirror)] if self.mirror and Path(self.mirror).is_absolute() else []
        for folder in (self._homes()[0], *mirrors):
            if (folder / part.archive.file).is_file():
                yield folder / part.archive.file

    def _missing(self, complaints: list[str], part: Part) -> DatasetError:
        reasons = "; ".join([*self._stored()[1], *complaints])
        return DatasetError(
            f"{self.name} is not in {self._homes()[0]} and could not be fetched ({reasons}); put "
            f"{part.archive.file} there, or name a folder that has it with root:"
        )
