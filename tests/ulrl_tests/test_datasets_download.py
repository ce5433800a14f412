"""Downloads over a line that breaks, from servers that misbehave."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ulrl_tests.dataset_formats import md5
from tests.ulrl_tests.dataset_server import Site, serving
from ulrl.datasets import DatasetError, Fetched
from ulrl.datasets._download import Archive, download

CONTENT = bytes(range(256)) * 4000  # a megabyte, of which no two places are alike by chance
OTHER = CONTENT[::-1]


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"set.zip": CONTENT}) as running:
        yield running


def archive(content: bytes = CONTENT) -> Archive:
    return Archive(file="set.zip", url="", md5=md5(content), size=len(content))


def bring(site: Site, folder: Path, wanted: Archive | None = None) -> list[Fetched]:
    return list(download(wanted or archive(), f"{site.url}/set.zip", folder))


def held(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_whole(site: Site, tmp_path: Path) -> None:
    steps = bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert steps[0] == Fetched(what="downloading set.zip", done=0, total=len(CONTENT))
    assert steps[-1].done == len(CONTENT)


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, tmp_path: Path) -> None:
    site.cuts = [300_000, 500_000]
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert site.asked == [("set.zip", None), ("set.zip", 300_000), ("set.zip", 800_000)]


def test_an_earlier_call_is_taken_up(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:123_457])
    steps = bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert site.asked == [("set.zip", 123_457)]
    assert steps[0].done == 123_457


def test_a_part_that_is_whole_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT)
    assert bring(Site(files={}, url="http://127.0.0.1:9"), tmp_path) == []
    assert held(tmp_path) == {"set.zip": CONTENT}


def test_a_part_that_is_too_long_is_not_used(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT + b"more")
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert site.asked == [("set.zip", None)]


def test_what_is_left_in_the_middle_is_kept(site: Site, tmp_path: Path) -> None:
    steps = download(archive(), f"{site.url}/set.zip", tmp_path)
    next(steps)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    (name, content), *others = held(tmp_path).items()
    assert others == []
    assert name == "set.zip.part"
    assert CONTENT.startswith(content)
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}


def test_a_server_that_cannot_go_on_starts_over(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:200_000])
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert site.asked == [("set.zip", 200_000)]


def test_a_server_that_always_breaks_at_one_place(site: Site, tmp_path: Path) -> None:
    site.ranges = False
    site.cuts = [300_000] * 9
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    assert str(error.value) == (
        f"{site.url}/set.zip: the connection ended after 300000 of {len(CONTENT)} bytes"
    )
    assert len(site.asked) == 2


def test_a_part_of_another_file_is_not_spliced(site: Site, tmp_path: Path) -> None:
    """The server's file has changed since, to one of the same length."""
    (tmp_path / "set.zip.part").write_bytes(OTHER[:400_000])
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}
    assert site.asked == [("set.zip", 400_000), ("set.zip", None)]


def test_another_file_is_refused_and_leaves_nothing(site: Site, tmp_path: Path) -> None:
    site.files["set.zip"] = OTHER
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    assert str(error.value) == (
        f"set.zip from {site.url}/set.zip has MD5 {md5(OTHER)}, not {md5(CONTENT)}: it is "
        f"damaged, or another file"
    )
    assert held(tmp_path) == {}
    assert len(site.asked) == 1


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"x", b"<html>Please log in</html>"])
def test_a_file_of_another_length_is_not_even_read(
    site: Site, tmp_path: Path, wrong: bytes
) -> None:
    site.files["set.zip"] = wrong
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    assert str(error.value) == (
        f"{site.url}/set.zip: it has {len(wrong)} bytes, not {len(CONTENT)}: it is another file"
    )
    assert held(tmp_path) == {}


def test_a_length_that_changed_meanwhile(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    site.files["set.zip"] = CONTENT + b"x"
    with pytest.raises(DatasetError, match=f"it has {len(CONTENT) + 1} bytes"):
        bring(site, tmp_path)


def test_a_file_that_became_shorter_than_what_is_there(site: Site, tmp_path: Path) -> None:
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    site.files["set.zip"] = CONTENT[:500]
    with pytest.raises(DatasetError, match="it has 500 bytes"):
        bring(site, tmp_path)
    assert site.asked == [("set.zip", 1000), ("set.zip", None)]


@pytest.mark.parametrize("ends", [[], [700_000]])
def test_a_server_that_keeps_the_length_to_itself(
    site: Site, tmp_path: Path, ends: list[int]
) -> None:
    site.silent = True
    site.cuts = ends
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}


def test_no_more_is_read_than_the_file_has(site: Site, tmp_path: Path) -> None:
    site.silent = True
    site.files["set.zip"] = CONTENT * 3
    bring(site, tmp_path)
    assert held(tmp_path) == {"set.zip": CONTENT}


def test_a_server_that_does_not_have_it(site: Site, tmp_path: Path) -> None:
    site.files.clear()
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    assert str(error.value) == f"{site.url}/set.zip: 404 Not Found"
    assert held(tmp_path) == {}


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DatasetError) as error:
        bring(Site(files={}, url=f"http://127.0.0.1:{port}"), tmp_path)
    assert str(error.value) == (f"http://127.0.0.1:{port}/set.zip: [Errno 111] Connection refused")
    assert held(tmp_path) == {"set.zip.part": CONTENT[:1000]}


def test_a_server_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ulrl.datasets._download.TIMEOUT", 0.2)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(DatasetError, match="timed out"):
            bring(Site(files={}, url=url), tmp_path)


def test_slow_lines_report_by_time_and_fast_ones_by_size(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ulrl.datasets._download.STEP", 500_000)
    assert 2 <= len(bring(site, tmp_path)) <= 4
    (tmp_path / "set.zip").unlink()
    monkeypatch.setattr("ulrl.datasets._download.PULSE", 0.0)
    assert len(bring(site, tmp_path)) > 4


def test_a_server_that_starts_elsewhere(site: Site, tmp_path: Path) -> None:
    site.shift = -500
    (tmp_path / "set.zip.part").write_bytes(CONTENT[:1000])
    with pytest.raises(DatasetError) as error:
        bring(site, tmp_path)
    last = len(CONTENT) - 1
    assert str(error.value) == (
        f"{site.url}/set.zip: asked for bytes from 1000 on, it sends "
        f"'bytes 500-{last}/{len(CONTENT)}'"
    )
    assert held(tmp_path) == {"set.zip.part": CONTENT[:1000]}


def test_a_small_file(tmp_path: Path) -> None:
    with serving({"set.zip": b"z"}) as site:
        bring(site, tmp_path, replace(archive(b"z"), url="unused"))
    assert held(tmp_path) == {"set.zip": b"z"}
