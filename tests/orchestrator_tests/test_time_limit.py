"""A job's time: what is interrupted, what is ended, and what becomes of it."""

import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from orchestrator.address import Address
from orchestrator.errors import TimeLimitExceeded
from orchestrator.pipeline.run_job import steps_of
from orchestrator.pipeline.time_limit import TimeLimit, grace
from orchestrator.plan.jobs import Job, JobResult, Progress, Site, StageRun
from orchestrator.spec.model import Limits

RUN = StageRun(stage="relearn", key="k", scenario="s", seconds=1.0, study="x")


def test_time_counts_only_while_it_runs() -> None:
    limit = TimeLimit(0.3, expendable=False)
    for _ in range(3):
        with limit.running():
            time.sleep(0.01)
        time.sleep(0.2)
    started = time.monotonic()
    with pytest.raises(TimeLimitExceeded), limit.running():
        time.sleep(60)
    assert 0.05 < time.monotonic() - started < 5
    with pytest.raises(TimeLimitExceeded), limit.running():
        pytest.fail("the time was over")


def test_a_package_that_was_interrupted_in_its_import_is_whole_when_it_is_imported_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "slow_to_import"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import time\nfrom pathlib import Path\nfrom slow_to_import.part import answer\n"
        "time.sleep(float(Path(__file__).with_name('wait').read_text()))\n"
    )
    (package / "part.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    code = "import slow_to_import; answer = slow_to_import.part.answer"
    (package / "wait").write_text("60")
    with pytest.raises(TimeLimitExceeded), TimeLimit(0.3, expendable=False).running():
        exec(code)
    (package / "wait").write_text("0")
    found: dict[str, int] = {}
    exec(code, found)
    assert found["answer"] == 42


def test_no_limit_interrupts_nothing_and_another_alarm_goes_on() -> None:
    with TimeLimit(None, expendable=True).running():
        time.sleep(0.01)
    outer = TimeLimit(0.5, expendable=False)
    with pytest.raises(TimeLimitExceeded), outer.running():
        _sleep_past(TimeLimit(0.1, expendable=False))


def _sleep_past(inner: TimeLimit) -> None:
    with pytest.raises(TimeLimitExceeded), inner.running():
        time.sleep(60)
    time.sleep(60)


def test_another_thread_is_not_interrupted_but_hears_of_it() -> None:
    heard: list[bool] = []

    def work() -> None:
        limit = TimeLimit(0.05, expendable=False)
        with limit.running():
            time.sleep(0.1)
        try:
            with limit.running():
                heard.append(False)
        except TimeLimitExceeded:
            heard.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert heard == [True]


STUCK = """
import time, orchestrator.pipeline.time_limit as t
t.grace = lambda seconds: 0.2
with t.TimeLimit(0.3, expendable={expendable}).running():
    {work}
print("lived")
"""
HOLDS_PYTHON = "sum(range(10**12))"  # C code that never lets Python look
SWALLOWS = """
    while True:
        try: time.sleep(60)
        except Exception: pass
"""


@pytest.mark.parametrize("work", [HOLDS_PYTHON, SWALLOWS])
def test_an_expendable_process_is_ended_whatever_it_does(work: str) -> None:
    text = STUCK.format(expendable=True, work=work)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "lived" not in done.stdout
    assert "Timeout" in done.stderr
    assert time.monotonic() - started < 4.5


def test_the_grace_is_a_tenth_within_bounds() -> None:
    assert [grace(seconds) for seconds in (1, 120, 10**6)] == [3.0, 12.0, 60.0]


class Bench:
    """A stage runner that does what a test says."""

    def __init__(self, site: Site, act: str) -> None:
        self.site, self.act = site, act
        self.forgotten = 0
        self.closed = False

    executed: ClassVar[tuple[StageRun, ...]] = (RUN,)

    def work(self, job: Job) -> Generator[Progress, None, tuple[StageRun, ...]]:
        del job
        try:
            yield Progress(stage="relearn", epoch=1, epochs=2)
            if self.act == "hang":
                time.sleep(60)
            if self.act == "memory":
                raise MemoryError
            if self.act == "cpu":
                torch.empty(2**60, dtype=torch.uint8)
            if self.act == "cuda":
                raise torch.OutOfMemoryError("Process 4711 has 3.2 GiB")
            if self.act == "bug":
                raise ValueError("too\nbad")
        finally:
            self.closed = True
        return self.executed

    def forget(self) -> None:
        assert self.closed
        self.forgotten += 1


class Trial:
    stage = "relearn"


@pytest.mark.parametrize(
    ("act", "error", "forgets"),
    [
        ("well", "", 0),
        ("bug", "ValueError: too bad", 0),
        ("hang", "worked longer than limits.minutes, which is 0.005", 1),
        (
            "memory",
            "out of memory; smaller batches, a smaller network or fewer workers may help",
            1,
        ),
        ("cpu", "out of memory; smaller batches, a smaller network or fewer workers may help", 1),
        (
            "cuda",
            (
                "out of GPU memory; smaller batches, or a larger share of a GPU for its worker "
                "(resources.stages.relearn.gpu), may help"
            ),
            1,
        ),
    ],
)
def test_what_an_item_lacked_is_its_error(
    tmp_path: Path, act: str, error: str, forgets: int
) -> None:
    bench = Bench(
        Site(store=Address(str(tmp_path)), study="x", limits=Limits(minutes={"relearn": 0.005})),
        act,
    )
    steps = steps_of(bench, Trial())  # type: ignore[arg-type]
    assert next(steps).epoch == 1
    with pytest.raises(StopIteration) as end:
        next(steps)
    result: JobResult = end.value.value
    assert (result.error, result.runs, result.fatal) == (error, (RUN,), False)
    assert bool(result.trace) == bool(error)
    assert bench.forgotten == forgets


def test_a_closed_item_is_closed_and_keeps_what_is_loaded(tmp_path: Path) -> None:
    bench = Bench(Site(store=Address(str(tmp_path)), study="x"), "hang")
    steps = steps_of(bench, Trial())  # type: ignore[arg-type]
    next(steps)
    steps.close()
    assert (bench.closed, bench.forgotten) == (True, 0)
