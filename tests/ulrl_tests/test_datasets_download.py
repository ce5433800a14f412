"""Downloads over a line that breaks, from servers that misbehave."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ulrl_tests.dataset_files import SAMPLES, Sample
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
    "longer": ({"files": {"set.zip": CONTENT + b"x"}}, None, f"it has {LENGTH + 1} bytes", False),
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


# Several processes at once, and processes that are killed.


ROOT = Path(__file__).resolve().parents[2]

# Installs a sample, then runs what follows with `dataset` at hand.
START = """
import os, sys, time
from pathlib import Path
from tests.ulrl_tests.dataset_files import SAMPLES
sample = SAMPLES[{name!r}]()
sample.install()
dataset = sample.dataset(Path({root!r}), mirror={mirror!r})
"""
LOAD = """
print("ready", flush=True)
sys.stdin.readline()
print(sum(step.unit == "images" for step in dataset.fetch()))
sample.check(dataset.load())
"""
STALL = """
for step in dataset.fetch():
    if step.unit == {unit!r} and step.done:
        print("stalled", flush=True)
        time.sleep(60)
"""
# Stops the decoding after the first image, when files are half written.
STALL_DECODING = """
from ulrl.datasets import _decoded
whole = type(dataset)._rows
def rows(self, places):
    for number, row in enumerate(whole(self, places)):
        if number:
            print("stalled", flush=True)
            time.sleep(60)
        yield row
type(dataset)._rows = rows
dataset.load()
"""


def start(sample: Sample, root: Path, mirror: str | None, code: str) -> subprocess.Popen[str]:
    head = START.format(name=sample.name, root=str(root), mirror=mirror)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(root / "cache")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root.parent,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def sample(published: Callable[[Sample], Sample]) -> Sample:
    return published(SAMPLES["gtsrb"]())


def test_workers_that_start_together_fetch_once(sample: Sample, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with serving(sample.archives) as site:
        workers = [start(sample, root, site.url, LOAD) for _ in range(2)]
        assert [line_of(worker) for worker in workers] == ["ready"] * 2
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        decoding = []
        for worker in workers:
            output, error = worker.communicate(timeout=60)
            assert worker.returncode == 0, error
            decoding.append(int(output))
    assert min(decoding) == 0
    assert max(decoding) > 0
    assert sorted(site.asked) == sorted((name, None) for name in sample.archives)


@pytest.mark.parametrize(
    "code", [STALL.format(unit="bytes"), STALL_DECODING], ids=["downloading", "decoding"]
)
def test_a_killed_process_leaves_nothing_half_done(
    sample: Sample, tmp_path: Path, code: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with serving(sample.archives) as site:
        worker = start(sample, root, site.url, code)
        assert line_of(worker) == "stalled"
        # Another one waits, and says so.
        waiting = sample.dataset(root, mirror=site.url).fetch()
        step = next(waiting)
        assert step.what == "waiting for another process to fetch gtsrb"
        assert (step.done, step.total) == (0, 0)
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        left = {path.name for path in (root / "decoded").iterdir()}
        assert (".gtsrb-1.part" in left) == (code is STALL_DECODING)
        began = time.monotonic()
        for _ in waiting:
            assert time.monotonic() - began < 30
        sample.check(sample.dataset(root, download=False).load())
    left = {path.name for path in (root / "decoded").iterdir()}
    assert left == {"gtsrb-1", ".gtsrb.lock"}
