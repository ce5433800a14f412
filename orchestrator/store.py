"""Results of stages by key: complete or absent, never wrong."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import safetensors.torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from torch import Tensor

from orchestrator.claimfiles import FOLDER, LocalClaims, RemoteClaims
from orchestrator.claims import Turn, is_held
from orchestrator.errors import Unusable
from orchestrator.files import ASIDE, aside_of, remove_left

FORMAT = 1
# What reading a file can raise whose content is not what this module wrote.
UNSOUND = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    SafetensorError,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """One stored result.

    Attributes:
        values: Plain values, as JSON holds them.
        tensors: Arrays by name, on the CPU.
        seconds: What computing it took, the first time.
        study: Identifier of the study that computed it.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    study: str = ""


class Store:
    """A folder of results, local or on any file system that fsspec knows.

    Each is one safetensors file with its plain values and a checksum in the header. It
    is written aside and renamed, so a reader sees all of it or nothing; an entry that
    cannot be read counts as absent.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError, OSError) as error:
            raise Unusable(f"the store {url} cannot be used: {error}") from error
        self._files.dircache.use_listings_cache = False  # others write here meanwhile
        self._local = isinstance(self._files, LocalFileSystem)
        self._claims = (
            LocalClaims(self._root) if self._local else RemoteClaims(self._files, self._root)
        )

    def check(self) -> None:
        """Raise ``Unusable`` unless the store can be written to."""
        probe = f"{self._root}/.probe-{secrets.token_hex(4)}"
        try:
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(probe, b"")
            self._files.rm_file(probe)
        except Exception as error:  # any back end, any error: one meaning for the user
            raise Unusable(
                f"the store {self.url} cannot be written to ({error}); name another with store:"
            ) from error
        if self._local:
            for place in (f"*/??/{ASIDE}", ".probe-*", ".beacon-*", f"{FOLDER}/.*"):
                remove_left(Path(self._root).glob(place))

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

    def read(self, stage: str, key: str) -> Entry | None:
        """Return a result with its tensors, or None if there is no sound one."""
        try:
            path = self._path(stage, key)
            if self._local:  # fsspec's way there is three times as long
                return _decode(Path(path).read_bytes())
            return _decode(self._files.cat_file(path))
        except UNSOUND:
            return None

    def peek(self, stage: str, key: str) -> Entry | None:
        """Return a result without its tensors, from the head of the file alone."""
        try:
            with self._files.open(self._path(stage, key), "rb") as file:
                return _decode_header(_read_header(file))[2]
        except UNSOUND:
            return None

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
            Unusable: The store is full, read-only or gone.
        """
        path = self._path(stage, key)
        try:
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            content = _encode(entry)
            if self._local:
                _write_atomically(Path(path), content)
            else:
                self._files.pipe_file(path, content)  # object stores put whole objects
        except OSError as error:
            raise Unusable(
                f"the store {self.url} cannot be written to ({error}); nothing stored is lost: "
                f"make room or mend it, and run the same command again"
            ) from error

    def delete(self, stage: str, key: str) -> None:
        """Remove a result if it is there."""
        with contextlib.suppress(OSError):
            self._files.rm_file(self._path(stage, key))

    def turn(self, stage: str, key: str) -> Turn:
        """Return a place in the queue of those who would compute a result now."""
        return Turn(self._claims, f"{stage}-{key}")

    def being_made(self, stage: str, key: str) -> bool:
        """Whether somebody computes a result now."""
        return is_held(self._claims, f"{stage}-{key}")

    def names(self, stage: str, prefix: str) -> list[str]:
        """Return the keys of a stage that begin with `prefix` (of two characters or more)."""
        folder = self._path(stage, prefix).rpartition("/")[0]
        try:
            paths = self._files.ls(folder, detail=False)
        except OSError:
            return []
        names = (str(path).rpartition("/")[2] for path in paths)
        suffix = ".safetensors"
        return sorted(
            name.removesuffix(suffix)
            for name in names
            if name.startswith(prefix) and name.endswith(suffix)
        )

    def _path(self, stage: str, key: str) -> str:
        return f"{self._root}/{stage}/{key[:2]}/{key}.safetensors"


def _write_atomically(path: Path, content: bytes) -> None:
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise


def _encode(entry: Entry) -> bytes:
    """Return a safetensors file whose header carries the plain values and a checksum."""
    body = safetensors.torch.save({name: t.contiguous() for name, t in entry.tensors.items()})
    length = int.from_bytes(body[:8], "little")
    layout = json.loads(body[8 : 8 + length])
    data = body[8 + length :]
    values = json.dumps(
        {"values": entry.values, "seconds": entry.seconds, "study": entry.study}, sort_keys=True
    )
    metadata = {
        "format": str(FORMAT),
        "entry": values,
        "head": _checksum(layout, values, b""),
        "sha256": _checksum(layout, values, data),
    }
    header = json.dumps({"__metadata__": metadata, **layout}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data


def _decode(content: bytes) -> Entry:
    length = int.from_bytes(content[:8], "little")
    layout, metadata, entry = _decode_header(content[8 : 8 + length])
    if _checksum(layout, metadata["entry"], content[8 + length :]) != metadata["sha256"]:
        raise ValueError("the content is not what was written")
    tensors = safetensors.torch.load(content) if layout else {}
    return Entry(values=entry.values, tensors=tensors, seconds=entry.seconds, study=entry.study)


def _read_header(file: BinaryIO) -> bytes:
    length = int.from_bytes(file.read(8), "little")
    if length > 100_000_000:
        raise ValueError("no header is that long")
    return file.read(length)


def _decode_header(header: bytes) -> tuple[dict[str, Any], dict[str, str], Entry]:
    layout = json.loads(header)
    metadata = layout.pop("__metadata__")
    if metadata["format"] != str(FORMAT):
        raise ValueError("written by another version")
    if _checksum(layout, metadata["entry"], b"") != metadata["head"]:
        raise ValueError("the head is not what was written")
    content = json.loads(metadata["entry"])
    entry = Entry(values=content["values"], seconds=content["seconds"], study=content["study"])
    return layout, metadata, entry


def _checksum(layout: dict[str, Any], values: str, data: bytes) -> str:
    total = hashlib.sha256(json.dumps(layout, sort_keys=True).encode())
    total.update(values.encode())
    total.update(data)
    return total.hexdigest()
