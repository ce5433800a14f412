"""Standard output that is closed, full or narrow ends no command."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from orchestrator.terminal import be_tolerant, failure_of, tolerant


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_characters_that_an_encoding_lacks_are_escaped(encoding: str, tmp_path: Path) -> None:
    text = "4 × 3 → ü \N{GREEK SMALL LETTER ALPHA} \udcff\n"
    with (tmp_path / "out").open("wb") as file:
        tolerant(file.fileno(), encoding).write(text)
    found = (tmp_path / "out").read_bytes().decode(encoding)
    assert found.encode("ascii", "backslashreplace") == text.encode("ascii", "backslashreplace")


def test_a_full_disk_is_known_and_later_writes_arrive(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, Path("/dev/full").open("wb") as full:
        place = os.dup(file.fileno())
        stream = tolerant(place, "utf-8")
        assert stream.fileno() == place
        assert not stream.isatty()
        stream.write("one\n")
        assert failure_of(stream) is None
        os.dup2(full.fileno(), place)
        stream.write("two\n")
        failure = failure_of(stream)
        assert failure is not None
        assert failure.errno == errno.ENOSPC
        os.dup2(file.fileno(), place)
        stream.write("three\n")
        assert failure_of(stream) is None
        os.close(place)
    assert (tmp_path / "out").read_text() == "one\nthree\n"


def test_a_pipe_that_nobody_reads_is_known() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = tolerant(writer, "utf-8")
    print("x" * 100_000, file=stream)
    failure = failure_of(stream)
    assert failure is not None
    assert failure.errno == errno.EPIPE
    os.close(writer)


def test_other_streams_have_no_failures() -> None:
    assert failure_of(io.StringIO()) is None
    assert failure_of(None) is None


def test_a_stream_that_is_closed_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    be_tolerant()
    assert sys.stdout is sys.stderr is None
