"""Results of stages by key: complete or absent, never wrong.

A store is trusted: a checksum tells an accident (a torn, flipped, swapped or misplaced file),
not a forgery by somebody who may write there.
"""

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from orchestrator.address import Address
from orchestrator.errors import ResourceError, StudyError, TimeLimitExceeded, sentence
from orchestrator.files import ASIDE, obstacle, remove_left, write_bytes
from orchestrator.store.locks import FOLDER, ResultLock

FORMAT = 2
# Entries of format 1, written by versions up to 0.1, do not say whose they are. They stay readable,
# since victims are expensive; that two of them changed places is not noticed.
PLACELESS = 1
LARGEST_HEAD = 16_000_000  # bytes of an entry's head
AHEAD = 65_536  # bytes of an object that a look at its head brings: all of most heads
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
SUFFIX = ".safetensors"
# Where fsspec's file systems say when a file was written: local, S3, Azure, Google, memory.
TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
# What reading a file can raise whose content is not what this module wrote.
UNSOUND = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError),
    *(RuntimeError, MemoryError, SafetensorError),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One stored result.

    Attributes:
        values: Plain values, as JSON holds them.
        tensors: Arrays by name, on the CPU; on torch's meta device where only the head was read.
        seconds: What computing it took, the first time.
        study: Identifier of the study that computed it.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    study: str = ""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The file of a result.

    Attributes:
        size: In bytes.
        stored: When, in seconds since 1970, if the place can tell.
    """

    stage: str
    key: str
    size: int
    stored: float | None


class Store:
    """A folder of results, local or on any file system that fsspec knows.

    Each is one safetensors file with its plain values in the header, and checksums of its
    content, its stage and its key. It is written aside and renamed, so a reader sees all of it
    or nothing; an entry that cannot be read, or that lies elsewhere than where it was written,
    counts as absent.
    """

    def __init__(self, url: Address | str) -> None:
        self.url = Address.of(url)
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url.reveal())
            self._files.dircache.use_listings_cache = False  # others write here too
        except Exception as error:  # any back end, any error: one meaning for the user
            raise ResourceError(
                f"the store {self.url} cannot be used: {sentence(error)}"
            ) from error
        self._local = isinstance(self._files, LocalFileSystem)

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine's file system; None if it is elsewhere."""
        return Path(self._root) if self._local else None

    def look(self) -> None:
        """Raise ``ResourceError`` where there can be no store; nothing is written or asked for."""
        if self.folder is not None and (reason := obstacle(self.folder)):
            raise self._unwritable(reason)

    def check(self) -> None:
        """Raise ``ResourceError`` unless the store can be written to."""
        try:
            self._files.makedirs(self._root, exist_ok=True)
            with self.beacon():
                pass
        except Exception as error:  # any back end, any error: one meaning for the user
            raise self._unwritable(sentence(error)) from error
        if self._local:
            for place in (f"*/??/{ASIDE}", ".beacon-*"):
                remove_left(Path(self._root).glob(place))

    def _unwritable(self, reason: str) -> ResourceError:
        return ResourceError(
            f"the store {self.url} cannot be written to ({reason}); name another with store:"
        )

    @contextmanager
    def beacon(self) -> Iterator[str]:
        """Put a file there, for others to say whether they see it; left, it is gone."""
        name = f".beacon-{secrets.token_hex(8)}"
        self._files.pipe_file(f"{self._root}/{name}", b"")
        try:
            yield name
        finally:
            with contextlib.suppress(OSError):
                self._files.rm_file(f"{self._root}/{name}")

    def sees(self, beacon: str) -> bool:
        """Whether another process's beacon is in this store."""
        return bool(self._files.exists(f"{self._root}/{beacon}"))

    def peek(self, stage: str, key: str) -> Entry | None:
        """Return a result whose tensors have no numbers, from the head of the file alone.

        Raises:
            ResourceError: The store cannot be reached.
        """
        return self.read(stage, key, whole=False)

    def read(self, stage: str, key: str, *, whole: bool = True) -> Entry | None:
        """Return a result with its tensors, or None if there is no sound one.

        Raises:
            ResourceError: The store cannot be reached.
        """
        path = self._path(stage, key)
        with self._reached("read"):
            try:
                if self._local:
                    if not Path(path).is_file():  # opening a pipe waits for its writer
                        return None
                    with Path(path).open("rb") as file:
                        return _decode(file, stage, key, whole=whole)
                if not whole:
                    content = self._files.cat_file(path, start=0, end=AHEAD)
                if whole or int.from_bytes(content[:8], "little") + 8 > AHEAD:
                    content = self._files.cat_file(path)
                return _decode(BytesIO(content), stage, key, whole=whole)
            except UNSOUND:
                return None

    @contextmanager
    def _reached(self, done: str) -> Iterator[None]:
        """Turn what a back end's library raises on its own into one line for the user."""
        try:
            yield
        except (OSError, StudyError, TimeLimitExceeded):
            raise
        except Exception as error:  # any back end, any error: one meaning for the user
            text = f"the store {self.url} cannot be {done} ({sentence(error)})"
            raise ResourceError(text) from error

    def written(self, stage: str, key: str) -> float | None:
        """Return when a result was stored, in seconds since 1970, if the place can tell."""
        try:
            modified: datetime = self._files.modified(self._path(stage, key))
        except Exception:  # noqa: BLE001 - any back end, any error: nobody's result rests on it
            return None
        return modified.timestamp()

    def write(self, stage: str, key: str, entry: Entry) -> None:
        """Store a result for good.

        Raises:
            ResourceError: The store is full, read-only or gone.
        """
        self.put(stage, key, _encode(entry, stage, key))

    def put(self, stage: str, key: str, content: bytes) -> None:
        """Store what `content` returned of another store.

        Raises:
            ResourceError: The store is full, read-only or gone.
        """
        path = self._path(stage, key)
        try:
            with self._reached("written to"):
                self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
                if self._local:
                    write_bytes(Path(path), content, durable=True)
                else:
                    self._files.pipe_file(path, content)  # object stores put whole objects
        except OSError as error:
            raise ResourceError(
                f"the store {self.url} cannot be written to ({error}); nothing stored is lost: "
                f"make room, and run the same command again"
            ) from error

    def content(self, stage: str, key: str) -> bytes | None:
        """Return the file of a result, or None if there is no sound one.

        Raises:
            ResourceError: The store cannot be reached.
        """
        try:
            with self._reached("read"):
                content = bytes(self._files.cat_file(self._path(stage, key)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ResourceError(f"the store {self.url} cannot be read ({error})") from error
        try:
            _decode(BytesIO(content), stage, key, whole=True)
        except UNSOUND:
            return None
        return content

    def holdings(self) -> list["Holding"]:
        """Return what the store holds, sound or not, by stage and key; nothing where none is.

        Raises:
            ResourceError: The store cannot be reached.
        """
        found = [
            Holding(stage=parts[0], key=parts[2].removesuffix(SUFFIX), size=size, stored=stored)
            for parts, size, stored in self._tree()
            if len(parts) == 3 and parts[2].startswith(parts[1]) and parts[2].endswith(SUFFIX)
        ]
        return sorted(found, key=lambda one: (one.stage, one.key))

    def is_something_else(self) -> bool:
        """Whether there are files at this place, and none of them is a result."""
        files = [parts for parts, _, _ in self._tree() if not parts[0].startswith(".")]
        return bool(files) and not self.holdings()

    def _tree(self) -> Iterator[tuple[tuple[str, ...], int, float | None]]:
        """Yield path below the root, bytes and time of each file that may be an entry."""
        try:
            with self._reached("read"):
                files = self._files.find(self._root, maxdepth=3, detail=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ResourceError(f"the store {self.url} cannot be read ({error})") from error
        depth = len(PurePosixPath(self._root).parts)
        for path, facts in files.items():
            yield (
                PurePosixPath(path).parts[depth:] or (PurePosixPath(path).name,),
                int(facts.get("size") or 0),
                _time_of(facts),
            )

    def delete(self, stage: str, key: str) -> None:
        """Remove a result if it is there."""
        with contextlib.suppress(OSError), self._reached("written to"):
            self._files.rm_file(self._path(stage, key))

    def remove(self, stage: str, key: str) -> bool:
        """Remove a result for sure, and return whether one was there.

        Raises:
            ResourceError: It cannot be removed.
        """
        path = self._path(stage, key)
        try:
            with self._reached("written to"):
                if not self._files.exists(path):
                    return False
                self._files.rm_file(path)
        except FileNotFoundError:  # another process was faster
            return False
        except OSError as error:
            raise ResourceError(f"the store {self.url} cannot be written to ({error})") from error
        return True

    def lock(self, stage: str, key: str) -> ResultLock:
        """Return the lock on a result: who computes it, holds it."""
        folder = self.folder
        return ResultLock(None if folder is None else folder / FOLDER / f"{stage}-{key}")

    def names(self, stage: str, prefix: str) -> list[str]:
        """Return the keys of a stage that begin with `prefix` (of two characters or more)."""
        folder = self._path(stage, prefix).rpartition("/")[0]
        try:
            with self._reached("read"):
                paths = self._files.ls(folder, detail=False)
        except OSError:
            return []
        files = (PurePosixPath(path) for path in paths)
        return sorted(
            file.stem for file in files if file.name.startswith(prefix) and file.suffix == SUFFIX
        )

    def _path(self, stage: str, key: str) -> str:
        return f"{self._root}/{stage}/{key[:2]}/{key}{SUFFIX}"


def _time_of(facts: dict[str, Any]) -> float | None:
    """Return when a file was written, by what its file system says of it."""
    for name in TIMES:
        value = facts.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _encode(entry: Entry, stage: str, key: str) -> bytes:
    """Return a safetensors file whose header carries the plain values and checksums."""
    body = safetensors.torch.save({name: t.contiguous() for name, t in entry.tensors.items()})
    length = int.from_bytes(body[:8], "little")
    layout = json.loads(body[8 : 8 + length])
    data = body[8 + length :]
    values = json.dumps(
        {"values": entry.values, "seconds": entry.seconds, "study": entry.study}, sort_keys=True
    )
    place = _place(FORMAT, stage, key)
    metadata = {
        "format": str(FORMAT),
        "entry": values,
        "head": _checksum(place, layout, values, b""),
        "sha256": _checksum(place, layout, values, data),
    }
    header = json.dumps({"__metadata__": metadata, **layout}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def _decode(file: BinaryIO, stage: str, key: str, *, whole: bool) -> Entry:
    """Return an entry as `_encode` wrote it; unless `whole`, its tensors have no numbers.

    Raises:
        Exception: One of `UNSOUND`: the content is not what was written.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if length > LARGEST_HEAD:
        raise ValueError("no head is that long")
    start += file.read(length)
    layout = json.loads(start[8:])
    metadata = layout.pop("__metadata__")
    place = _place(int(metadata["format"]), stage, key)
    if _checksum(place, layout, metadata["entry"], b"") != metadata["head"]:
        raise ValueError("the head is not what was written, or it was written elsewhere")
    entry = Entry(
        **json.loads(metadata["entry"]),
        tensors={
            name: torch.empty(one["shape"], dtype=DTYPES[one["dtype"]], device="meta")
            for name, one in layout.items()
        },
    )
    if not whole:
        return entry
    size = sum(tensor.numel() * tensor.itemsize for tensor in entry.tensors.values())
    data = file.read(size + 1)  # one more tells a file that is too long
    if _checksum(place, layout, metadata["entry"], data) != metadata["sha256"]:
        raise ValueError("the content is not what was written")
    return replace(entry, tensors=safetensors.torch.load(start + data) if layout else {})


def _place(format_: int, stage: str, key: str) -> str:
    """Return what a checksum covers besides the content: where an entry belongs."""
    if format_ == PLACELESS:
        return ""
    if format_ != FORMAT:
        raise ValueError("written by another version")
    return json.dumps([format_, stage, key])


def _checksum(place: str, layout: dict[str, Any], values: str, data: bytes) -> str:
    total = hashlib.sha256(place.encode())
    total.update(json.dumps(layout, sort_keys=True).encode())
    total.update(values.encode())
    total.update(data)
    return total.hexdigest()
