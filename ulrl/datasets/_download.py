"""Published archives: fetched over HTTP in pieces, resumed, and verified before they count."""

import hashlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from ulrl.datasets._base import DatasetError, Fetched

PIECE = 256 * 1024  # bytes read at once
STEP = 4 * 1024 * 1024  # bytes between two reports, on a fast line
PULSE = 1.0  # seconds between two reports, on a slow one
TIMEOUT = 60.0  # seconds without a byte
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A file that its authors published.

    Attributes:
        file: Its name.
        url: Where it lies officially.
        md5: Its published checksum: no defence against its authors, but against everyone
            else, since no other file of a given MD5 can be made.
        size: In bytes.
    """

    file: str
    url: str
    md5: str
    size: int


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def md5_of_bytes(content: bytes) -> str:
    """Return the MD5 of `content`, in hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def unlike(what: str, expected: str, got: str) -> str:
    """Return the sentence on a file of another checksum."""
    return f"{what} has MD5 {got}, not {expected}: it is damaged, or another file"


def download(archive: Archive, url: str, folder: Path) -> Iterator[Fetched]:
    """Bring an archive from `url` into `folder`, complete and verified, or not at all.

    What has arrived lies in a file called ``.part``, where the next attempt goes on. The
    caller makes sure that no other process does the same.

    Raises:
        DatasetError: It cannot be had, or is not the archive.
    """
    part = folder / f"{archive.file}.part"
    size = _size(part)
    resumed = 0 < size <= archive.size
    yield from _bring(archive, url, part)
    got = md5_of(part)
    if got != archive.md5 and resumed:  # perhaps two files in one: the server's has changed
        part.unlink()
        yield from _bring(archive, url, part)
        got = md5_of(part)
    if got != archive.md5:
        part.unlink()
        raise DatasetError(unlike(f"{archive.file} from {url}", archive.md5, got))
    part.replace(folder / archive.file)


def _bring(archive: Archive, url: str, part: Path) -> Iterator[Fetched]:
    """Fill `part`, again and again as long as each connection brings something more."""
    most = _size(part)
    while _size(part) != archive.size:
        failure = ""
        try:
            yield from _go_on(archive, url, part)
        except HTTPError as error:
            error.close()
            if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not part.exists():
                raise DatasetError(f"{url}: {error.code} {error.reason}") from error
            part.unlink()  # a server with a shorter file: the next answer will say so
            continue
        except URLError as error:
            failure = f"{url}: {error.reason}"
        except (OSError, HTTPException) as error:
            failure = f"{url}: {str(error) or type(error).__name__}"
        size = _size(part)
        if size < archive.size and size <= most:
            broken = f"{url}: the connection ended after {size} of {archive.size} bytes"
            raise DatasetError(failure or broken)
        most = size


def _go_on(archive: Archive, url: str, part: Path) -> Iterator[Fetched]:
    """Append what one connection brings; a server that cannot go on starts over."""
    held = _size(part)
    if held > archive.size:
        part.unlink()
        held = 0
    headers = {"User-Agent": "ulrl"} | ({"Range": f"bytes={held}-"} if held else {})
    request = Request(url, headers=headers)  # noqa: S310 - mirrors are http or https, as checked
    with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
        start = _start_of(answer, held, archive, url)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            yield from _pour(answer, file, archive, start)


def _start_of(answer: HTTPResponse, held: int, archive: Archive, url: str) -> int:
    """Return from which byte on a server sends, after a look at the length it announces."""
    start, total = 0, answer.headers.get("Content-Length") or "*"
    if answer.status == HTTPStatus.PARTIAL_CONTENT:
        said = answer.headers.get("Content-Range") or ""
        span = RANGE.fullmatch(said)
        if span is None or int(span[1]) != held:
            raise DatasetError(f"{url}: asked for bytes from {held} on, it sends {said!r}")
        start, total = held, span[2]
    if total not in ("*", str(archive.size)):
        raise DatasetError(f"{url}: it has {total} bytes, not {archive.size}: it is another file")
    return start


def _pour(answer: HTTPResponse, file: IO[bytes], archive: Archive, done: int) -> Iterator[Fetched]:
    what = f"downloading {archive.file}"
    reported, then = done, time.monotonic()
    yield Fetched(what=what, done=done, total=archive.size)
    # No byte more than the file has, whatever a server sends.
    while piece := answer.read1(min(PIECE, archive.size - done)):
        file.write(piece)
        done += len(piece)
        if done - reported >= STEP or time.monotonic() - then >= PULSE or done == archive.size:
            reported, then = done, time.monotonic()
            yield Fetched(what=what, done=done, total=archive.size)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
