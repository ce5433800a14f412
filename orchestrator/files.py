"""Files written whole or not at all, and CSV."""

import csv
import hashlib
import io
import os
import re
import secrets
import time
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EACCES, EROFS
from functools import lru_cache
from pathlib import Path

import psutil

from orchestrator.errors import SpecError
from orchestrator.processes import place

ASIDE = ".*.tmp"  # matches the names of files aside
_OWN = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp$")
LEFT = 3600.0  # seconds untouched, after which a file aside was left by a kill, on any machine


def write_text(path: Path, text: str) -> Path:
    """Write a file whole, aside and then renamed, and return its path."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, *, durable: bool = False) -> Path:
    """Write a file whole, aside and then renamed, and return its path.

    A `durable` one is on disk when it gets its name, whatever happens to the machine.
    """
    aside = aside_of(path)
    try:
        with aside.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        return aside.replace(path)
    except OSError:  # no room
        aside.unlink(missing_ok=True)
        raise


def aside_of(path: Path) -> Path:
    """Return the name under which this process writes a file before it is renamed."""
    end = f"{_mark()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    return path.with_name(f".{path.name[-80:]}.{end}")  # a name may be at its longest


def remove_left(files: Iterable[Path]) -> None:
    """Remove those files that killed processes left, and among files aside only our own.

    One of this machine is left if its process is no more, one of another after `LEFT` seconds
    untouched.
    """
    for file in files:
        written = _OWN.search(file.name)
        if written is None and file.name.endswith(".tmp"):
            continue
        with suppress(OSError):
            dead = written and written[1] == _mark() and not _runs(int(written[2]))
            if dead or time.time() - file.stat().st_mtime > LEFT:
                file.unlink()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.Error:
        return False


def whole_lines(path: Path, *, cut: bool = True) -> list[str]:
    """Return a file's complete lines; a last one torn by a kill is cut off the file if `cut`."""
    if not path.exists():
        return []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if cut and end < len(content):
        os.truncate(path, end)
    return content[:end].decode(errors="replace").splitlines()


@lru_cache(maxsize=1)
def _mark() -> str:
    """Return what tells this machine's processes from others' in a name."""
    return hashlib.sha256(place().encode() or os.urandom(8)).hexdigest()[:8]


def obstacle(path: Path) -> str:
    """Return why there can be no folder to write to at `path`, or ""; nothing is written."""
    try:
        there = next(place for place in (path, *path.parents) if os.path.lexists(place))
        if not there.exists():
            return f"{there} is a link to nothing"
        if not there.is_dir():
            return f"{there} is a file"
    except OSError as error:
        return str(error)
    if os.access(there, os.W_OK | os.X_OK):
        return ""
    read_only = os.statvfs(there).f_flag & os.ST_RDONLY  # as root, nothing else forbids it
    return str(OSError(reason := EROFS if read_only else EACCES, os.strerror(reason), str(there)))


def given_path(text: str) -> Path:
    """Return the path that a word of a command line names; few shells expand ~ in ``--out=~/x``."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ArgumentTypeError(f"{text}: there is no such home folder") from None


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Return the text of a CSV file; numbers keep every digit, None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


_LONGEST_CELL = 2**31 - 1  # csv's own limit of 128 KiB is shorter than some tracebacks


@dataclass(frozen=True, kw_only=True)
class Table:
    """The cells of a CSV file by column, in the file's order."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, str], ...]


def read_table(path: Path, required: Sequence[str], *, grows: bool = False) -> Table:
    """Return the table in `path`; of one that grows line by line, the whole lines.

    Raises:
        SpecError: It cannot be read, is no table, or lacks one of the columns `required`.
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if grows:
            text = text[: text.rfind("\n") + 1]  # a kill may have torn the last line
        header, *records = csv.reader(io.StringIO(text.rstrip("\r\n"), newline=""), strict=True)
    except UnicodeDecodeError:
        raise SpecError([f"{path}: cannot be read; it is not UTF-8 text"]) from None
    except csv.Error as error:
        raise SpecError([f"{path}: cannot be read as CSV; {error}"]) from None
    except OSError as error:
        raise SpecError([f"{path}: cannot be read; {error.strerror}"]) from None
    except ValueError:
        raise SpecError([f"{path}: is empty; a header was expected"]) from None
    twice = [name for name, number in Counter(header).items() if number > 1]
    if twice:
        raise SpecError([f"{path}: has the column {twice[0]!r} twice"])
    missing = [name for name in required if name not in header]
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        raise SpecError([f"{path}: lacks the {word} {', '.join(missing)}"])
    for number, record in enumerate(records, start=2):
        if len(record) != len(header):
            cells = "1 cell" if len(record) == 1 else f"{len(record)} cells"
            raise SpecError([f"{path}: row {number} has {cells}; the header has {len(header)}"])
    rows = tuple(dict(zip(header, record, strict=True)) for record in records)
    return Table(path=path, columns=tuple(header), rows=rows)
