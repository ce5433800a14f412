"""CSV files in and out: cells as text, and a clear word where a file is no such table."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Mistakes

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
        Mistakes: It cannot be read, is no table, or lacks one of the columns `required`.
    """
    header, *records = _records(path, grows=grows)
    twice = [name for position, name in enumerate(header) if name in header[:position]]
    if twice:
        raise Mistakes([f"{path}: has the column {twice[0]!r} twice"])
    missing = [name for name in required if name not in header]
    if missing:
        word = "column" if len(missing) == 1 else "columns"
        raise Mistakes([f"{path}: lacks the {word} {', '.join(missing)}"])
    for number, record in enumerate(records, start=2):
        if len(record) != len(header):
            raise Mistakes(
                [f"{path}: row {number} has {len(record)} cells; the header has {len(header)}"]
            )
    rows = tuple(dict(zip(header, record, strict=True)) for record in records)
    return Table(path=path, columns=tuple(header), rows=rows)


def _records(path: Path, *, grows: bool) -> list[list[str]]:
    csv.field_size_limit(_LONGEST_CELL)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if grows:
            text = text[: text.rfind("\n") + 1]  # a kill may have torn the last line
        records = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError:
        raise Mistakes([f"{path}: cannot be read; it is not UTF-8 text"]) from None
    except csv.Error as error:
        raise Mistakes([f"{path}: cannot be read as CSV; {error}"]) from None
    except OSError as error:
        raise Mistakes([f"{path}: cannot be read; {error.strerror}"]) from None
    while records and not records[-1]:
        records.pop()  # blank lines at the end
    if not records:
        raise Mistakes([f"{path}: is empty; a header was expected"])
    return records
