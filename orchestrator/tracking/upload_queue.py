"""What is to be mirrored and what has arrived, in one file that outlives any kill."""

import json
import os
import platform
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.tracking.records import (
    Record,
    digest_of,
    from_plain,
    text_digest,
    text_of,
    to_plain,
)


@dataclass(frozen=True, kw_only=True)
class UploadReceipt:
    """What a place holds of one key.

    Attributes:
        run: The run's id there.
        digest: Of the record as it arrived; "" where a run was found, content unknown.
        parent_run: Id of the run it was hung under.
        tags: Names of the tags that were set, to take back those that a later record lacks.
    """

    run: str
    digest: str = ""
    parent_run: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    digest: str
    parent: str | None
    offset: int
    length: int


class UploadQueue:
    """Records with receipts per place, as lines of JSON; safe between threads.

    A place is one experiment of one store, wherever it is reached. Lines are written in one
    piece and never changed: a kill can only tear the last one, which opening cuts off.

    Attributes:
        study: Tells this study from others of its name, elsewhere or by other people.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._entries: dict[str, _Entry] = {}
        self._receipts: dict[str, dict[str, UploadReceipt]] = {}
        self._intents: set[tuple[str, str]] = set()
        self._places: dict[str, str] = {}
        self.study = ""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._load()
        if not self.study:
            origin = f"{platform.node()}:{path.absolute()}"
            self._write({"study": text_digest(origin)[:16]})

    def add(self, record: Record) -> bool:
        """Keep `record` unless it is the present one; return whether it was kept.

        Raises:
            ValueError: The parent was never recorded.
        """
        with self._lock:
            if record.parent is not None and record.parent not in self._entries:
                raise ValueError(f"{record.key}: its parent {record.parent!r} is not recorded yet")
            text = text_of(to_plain(record))
            digest, entry = text_digest(text), self._entries.get(record.key)
            if entry is not None and entry.digest == digest:
                return False
            times = json.dumps([record.began, record.ended])
            line = f'{{"record": {text}, "digest": "{digest}", "times": {times}}}\n'.encode()
            return self._put(line)

    def read(self, key: str) -> tuple[Record, str]:
        """Return the present record of `key` and its digest."""
        with self._lock:
            entry = self._entries[key]
            line = os.pread(self._file.fileno(), entry.length, entry.offset)
        content = json.loads(line)
        began, ended = content.get("times", (None, None))
        return from_plain(content["record"], began, ended), entry.digest

    def pending(self, place: str) -> list[str]:
        """Return the keys whose present record `place` has not got, in order of first record.

        A run that hangs under an earlier run of its parent is pending too.
        """
        with self._lock:
            return [key for key in self._entries if not self.arrived(place, key)]

    def arrived(self, place: str, key: str) -> bool:
        """Return whether `place` has the present record of `key`, under its parent's run."""
        with self._lock:
            entry, receipts = self._entries[key], self._receipts.get(place, {})
            receipt = receipts.get(key)
            if receipt is None or receipt.digest != entry.digest:
                return False
            parent = None if entry.parent is None else receipts.get(entry.parent)
            return receipt.parent_run == (None if parent is None else parent.run)

    def receipts(self, place: str) -> dict[str, UploadReceipt]:
        """Return what is known to be at `place`, by key."""
        with self._lock:
            return dict(self._receipts.get(place, {}))

    def receipt(self, place: str, key: str) -> UploadReceipt | None:
        """Return what `place` holds of `key`."""
        with self._lock:
            return self._receipts.get(place, {}).get(key)

    @property
    def keys(self) -> list[str]:
        """The keys of all records, in order of first record."""
        with self._lock:
            return list(self._entries)

    def forget(self, place: str, key: str) -> None:
        """Note that `place` does not hold `key` any more."""
        self._write({"receipt": key, "place": place, "held": None})

    def acknowledge(self, place: str, key: str, receipt: UploadReceipt) -> None:
        """Note that `place` holds `key` as `receipt` says."""
        self._write({"receipt": key, "place": place, "held": asdict(receipt)})

    def intend(self, place: str, key: str) -> None:
        """Note that a run for `key` is about to be made at `place`.

        Raises:
            RuntimeError: The outbox is closed; a run made now would be made again.
        """
        if not self._write({"intent": key, "place": place}):
            raise RuntimeError("the outbox is closed")

    def intended(self, place: str, key: str) -> bool:
        """Return whether a run for `key` may exist at `place` without a receipt."""
        with self._lock:
            return (place, key) in self._intents

    def settle(self, uri: str, place: str) -> None:
        """Note which place `uri` leads to."""
        if self.place(uri) != place:
            self._write({"place": place, "uri": text_digest(uri)})

    def place(self, uri: str) -> str:
        """Return the place that `uri` led to last, or ""."""
        with self._lock:
            return self._places.get(text_digest(uri), "")

    def close(self) -> None:
        """Write nothing more: what a late thread still says is dropped."""
        with self._lock, suppress(OSError):  # a full disk has been told of when it was written to
            self._file.close()

    def _load(self) -> None:
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if line.endswith(b"\n"):
                self._take(line, whole)
                whole += len(line)
        self._file.truncate(whole)
        self._file.seek(0, os.SEEK_END)

    def _write(self, content: Mapping[str, Any]) -> bool:
        return self._put(json.dumps(content, allow_nan=False).encode() + b"\n")

    def _put(self, line: bytes) -> bool:
        with self._lock:
            if self._file.closed:
                return False
            offset = self._file.tell()
            self._file.write(line)
            self._file.flush()
            self._take(line, offset)
        return True

    def _take(self, line: bytes, offset: int) -> None:
        try:
            content = json.loads(line)
        except ValueError:
            return  # a damaged line counts as absent: at worst something is sent again
        match content:
            case {"study": study}:
                self.study = study
            case {"record": plain}:
                key, digest = plain["key"], content.get("digest") or digest_of(plain)
                self._entries[key] = _Entry(digest, plain["parent"], offset, len(line))
            case {"receipt": key, "place": place, "held": dict(held)}:
                receipt = UploadReceipt(**{**held, "tags": tuple(held["tags"])})
                self._receipts.setdefault(place, {})[key] = receipt
                self._intents.discard((place, key))
            case {"receipt": key, "place": place, "held": None}:
                self._receipts.get(place, {}).pop(key, None)
            case {"intent": key, "place": place}:
                self._intents.add((place, key))
            case {"uri": uri, "place": place}:
                self._places[uri] = place
