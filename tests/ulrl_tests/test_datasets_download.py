"""Downloads over a line that breaks, from servers that misbehave."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.ulrl_tests.dataset_formats import md5
from tests.ulrl_tests.dataset_server import Site, serving
from ulrl.datasets import DatasetError, Fetched
from ulrl.datasets._download import Archive, download

CONTENT = bytes(range(256)) * 4000  # a megabyte, of which no two places are alike by chance
OTHER = CONTENT[::-1]
WHOLE = {"set.zip": CONTENT}
LENGTH = len(CONTENT)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving(WHOLE) as running:
        yield running


def archive(content: bytes = CONTENT) -> Archive:
    return Archive(file="set.zip", url="", md5=md5(content), size=len(content))


def bring(site: Site, folder: Path, wanted: Archive | None = None) -> list[Fetched]:
    return list(download(wanted or archive(), f"{site.url}/set.zip", folder))


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# How the server behaves, what is there of the file, and from which bytes the server is asked.
WAYS: dict[str, tuple[dict[str, Any], bytes | None, list[int | None]]] = {
    "at once": ({}, None, [None]),
    "a connection that breaks twice": (
        {"cuts": [300_000, 500_000]},
        None,
        [None, 300_000, 800_000],
    ),
    "a part of an earlier call": ({}, CONTENT[:123_457], [123_457]),
    "a part that is whole": ({}, CONTENT, []),
    "a part that is too long": ({}, CONTENT + b"more", [None]),
    "a part of another file of the same length": ({}, OTHER[:400_000], [400_000, None]),
    "a server that cannot start in the middle": ({"ranges": False}, CONTENT[:200_000], [200_000]),
    "a server without lengths": ({"silent": True}, None, [None]),
    "one that breaks, too": ({"silent": True, "cuts": [700_000]}, None, [None, 700_000]),
    "one that sends too much": ({"silent": True, "files": {"set.zip": CONTENT * 3}}, None, [None]),
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_to_the_whole_file(site: Site, tmp_path: Path, way: str) -> None:
    behaviour, part, asked = WAYS[way]
    for name, value in behaviour.items():
        setattr(site, name, value)
    if part is not None:
        (tmp_path / "set.zip.part").write_bytes(part)
    steps = bring(site, tmp_path)
    assert held(tmp_path) == WHOLE
    assert site.asked == [("set.zip", first) for first in asked]
    if asked:
        first = (asked[0] or 0) if site.ranges else 0
        assert steps[0] == Fetched(what="downloading set.zip", done=first, total=LENGTH)
        assert steps[-1].done == LENGTH


# The same with the error, and whether the part stays.
FAILURES: dict[str, tuple[dict[str, Any], bytes | None, str, bool]] = {
    "it breaks at one place": (
        {"ranges": False, "cuts": [300_000] * 9},
        None,
        f"{{url}}: the connection ended after 300000 of {LENGTH} bytes",
        True,
    ),
    "another file": (
        {"files": {"set.zip": OTHER}},
        None,
        f"set.zip from {{url}} has MD5 {md5(OTHER)}, not {md5(CONTENT)}: it is damaged",
        False,
    ),
    "shorter": ({"files": {"set.zip": CONTENT[:-1]}}, None, f"it has {LENGTH - 1} bytes", False),
    "longer": ({"files": {"set.zip": CONTENT + b"x"}}, None, f"it has {LENGTH + 1} bytes", False),
    "longer than before": ({"files": {"set.zip": CONTENT + b"x"}}, CONTENT[:1000], "it has", True),
    "shorter than the part": ({"files": {"set.zip": b"x" * 500}}, CONTENT[:1000], "it has", False),
    "a page": ({"files": {"set.zip": b"<html>Log in</html>"}}, None, "it is another file", False),
    "none": ({"files": {}}, None, "{url}: 404 Not Found", False),
    "it starts elsewhere": (
        {"shift": -500},
        CONTENT[:1000],
        "asked for bytes from 1000 on, it sends 'bytes 500-",
        True,
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_a_server_must_not_send(site: Site, tmp_path: Path, case: str) -> None:
    behaviour, part, message, stays = FAILURES[case]
    for name, value in behaviour.items():
        setattr(site, name, value)
    if part is not None:
        (tmp_path / "set.zip.part").write_bytes(part)
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    assert message.format(url=f"{site.url}/set.zip") in str(error.value)
    assert set(held(tmp_path)) <= ({"set.zip.part"} if stays else set())
    assert len(site.asked) <= 2


def test_what_is_left_in_the_middle_is_used(site: Site, tmp_path: Path) -> None:
    steps = download(archive(), f"{site.url}/set.zip", tmp_path)
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    ((name, content),) = held(tmp_path).items()
    assert name == "set.zip.part"
    assert CONTENT.startswith(content)
    bring(site, tmp_path)
    assert held(tmp_path) == WHOLE


@pytest.mark.parametrize("listening", [True, False])
def test_a_server_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, listening: bool
) -> None:
    monkeypatch.setattr("ulrl.datasets._download.TIMEOUT", 0.2)
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listening:
            server.listen()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(DatasetError, match="timed out" if listening else "Connection refused"):
            bring(Site(files={}, url=url), tmp_path)
    assert held(tmp_path) == {"set.zip.part": CONTENT[:1000]}


def test_slow_lines_report_by_time_and_fast_ones_by_size(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulrl.datasets._download.STEP", 500_000)
    assert 2 <= len(bring(site, tmp_path)) <= 4
    (tmp_path / "set.zip").unlink()
    monkeypatch.setattr("ulrl.datasets._download.PULSE", 0.0)
    assert len(bring(site, tmp_path)) > 4


def test_a_small_file(tmp_path: Path) -> None:
    with serving({"set.zip": b"z"}) as site:
        bring(site, tmp_path, replace(archive(b"z"), url="unused"))
    assert held(tmp_path) == {"set.zip": b"z"}
