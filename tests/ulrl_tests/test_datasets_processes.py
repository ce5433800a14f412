"""Several processes at once, and processes that are killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ulrl_tests.dataset_files import SAMPLES, Sample
from tests.ulrl_tests.dataset_server import serving

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
        # Meanwhile another one waits, and says so.
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
