"""Several jobs handed out together: nothing of the results changes, and nothing is lost."""

from collections.abc import Generator
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from orchestrator.address import Address
from orchestrator.plan.jobs import Job, JobResult, Progress, Site, StageRun
from orchestrator.scheduler.batches import AssignedBatch, BatchProgress, JobBatch, TuneSession
from orchestrator.scheduler.queue import BATCH_SECONDS, batch_size
from orchestrator.spec.model import Limits, Share
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers

ATTEMPTS = Limits().attempts


class Bench:
    """A stage runner's place: simulated work, after which a clock has moved on."""

    def __init__(self, desk: Desk, crew: Workers, clock: "Clock", seconds: float) -> None:
        self._desk, self._crew, self._clock, self._seconds = desk, crew, clock, seconds

    def work(self, job: Job) -> Generator[Progress, None, tuple[StageRun, ...]]:
        finished = yield from self._crew.steps(self._desk, job)
        self._clock.now += self._seconds
        if finished.error:
            raise RuntimeError(finished.error.removeprefix("RuntimeError: "))
        return finished.runs

    executed: tuple[StageRun, ...] = ()
    site = Site(store=Address(""), study="")


class Clock:
    """Time that passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for name in ("monotonic", "perf_counter"):
        monkeypatch.setattr(f"orchestrator.scheduler.batches.time.{name}", clock)
    return clock


class Gang:
    """Workers that take shifts, tell news in any order, and die."""

    def __init__(self, desk: Desk, clock: Clock, seconds: float, source: Random) -> None:
        self._desk, self._source = desk, source
        self.crew = Workers()
        self._bench: Any = Bench(desk, self.crew, clock, seconds)
        self._out: list[tuple[JobBatch, AssignedBatch]] = []
        self.sizes: list[int] = []

    def run(self, workers: int, deaths: int = 0) -> None:
        scheduler = self._desk.scheduler
        scheduler.open()
        near = None
        while not scheduler.complete:
            while len(self._out) < workers and (jobs := scheduler.next_batch(workers, near)):
                self.sizes.append(len(jobs))
                assert len({type(job) for job in jobs}) == 1
                near = jobs[-1].scenario
                self._out.append((JobBatch(self._bench, jobs), AssignedBatch(scheduler, jobs)))
            if not self._out:
                break
            place = self._source.randrange(len(self._out))
            shift, assignment = self._out[place]
            news = shift.work()
            if deaths and self._source.random() < 0.2:
                deaths -= 1
                shift.close()
                assignment.lost("the machine is gone")
                del self._out[place]
            elif assignment.take(news):
                shift.close()
                del self._out[place]


@pytest.mark.parametrize("prune", PRUNES)
@pytest.mark.parametrize("seconds", [0.01, 0.3])
def test_shifts_give_the_same_rows(
    seconds: float, prune: str, tmp_path: Path, store: str, reference: dict[str, Any], clock: Clock
) -> None:
    desk = Desk(study_of(prune, store), tmp_path)
    gang = Gang(desk, clock, seconds, Random(prune))
    gang.run(workers=2)
    assert max(gang.sizes) > 3
    assert desk.rows() == reference[prune]
    assert set(gang.crew.executed.values()) == {1}
    assert sorted(desk.recorder.started_items) == sorted(
        name for name, _ in desk.recorder.ended_items
    )


@pytest.mark.parametrize("prune", PRUNES)
def test_workers_that_die_with_a_shift_lose_nothing(
    prune: str, tmp_path: Path, store: str, reference: dict[str, Any], clock: Clock
) -> None:
    desk = Desk(study_of(prune, store), tmp_path)
    gang = Gang(desk, clock, 0.05, Random(5))
    gang.run(workers=3, deaths=6)
    assert desk.rows() == reference[prune]
    assert set(gang.crew.executed.values()) == {1}
    assert set(desk.listed().values()) == {1}


def test_only_the_item_in_work_pays_for_an_accident(
    tmp_path: Path, store: str, clock: Clock
) -> None:
    """It finished two and told of neither; the third kills, alone the next times."""
    desk = Desk(study_of("nobody", store), tmp_path)
    jobs = _shift_of(desk, clock, 4)
    bench: Any = Bench(desk, Workers(), clock, 0.01)
    JobBatch(bench, jobs[:2]).work()
    AssignedBatch(desk.scheduler, jobs).lost("out of memory")
    ended = [name for name, _ in desk.recorder.ended_items]
    assert ended[-2:] == [jobs[0].name, jobs[1].name]
    for _ in range(ATTEMPTS - 1):
        again = desk.scheduler.next_batch(1)
        assert [job.name for job in again] == [jobs[2].name]
        AssignedBatch(desk.scheduler, again).lost("out of memory")
    assert desk.scheduler.errors[jobs[2].name].error == (
        f"its worker died {ATTEMPTS} times, out of memory"
    )
    assert jobs[3].name in _ready(desk)


def test_what_a_slow_worker_keeps_from_others_is_taken_out(
    tmp_path: Path, store: str, clock: Clock
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    jobs = _shift_of(desk, clock, 4)
    assignment = AssignedBatch(desk.scheduler, jobs)
    slow = Progress(stage="relearn", epoch=1, epochs=9)
    assert not assignment.take(BatchProgress(current=jobs[0].name, progress=slow, closing=True))
    ready = _ready(desk)
    assert ready >= {job.name for job in jobs[1:]}
    assert jobs[0].name not in ready
    failed = JobResult(error="RuntimeError: it cannot be done", trace="where")
    assert assignment.take(BatchProgress(finished=((jobs[0].name, failed),), over=True))


def test_a_shift_tells_at_once_of_an_error_and_in_bundles_else(
    tmp_path: Path, store: str, clock: Clock
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    jobs = _shift_of(desk, clock, 6)
    stumbling: Any = Bench(desk, Workers(stumbling=[jobs[1].name]), clock, 0.2)
    shift = JobBatch(stumbling, jobs[:6])
    news = shift.work()
    assert [name for name, _ in news.finished] == [jobs[0].name, jobs[1].name]
    assert news.finished[1][1].error == "RuntimeError: an accident"
    assert not news.over
    news = shift.work()
    assert [name for name, _ in news.finished] == [job.name for job in jobs[2:5]]
    assert [result.spent for _, result in news.finished] == pytest.approx([0.2] * 3)
    assert shift.work().over
    shift.close()


def test_a_late_shift_ends_with_the_item_in_work(tmp_path: Path, store: str, clock: Clock) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    jobs = _shift_of(desk, clock, 4)
    slow: Any = Bench(desk, Workers(), clock, 3 * BATCH_SECONDS)
    news = JobBatch(slow, jobs).work()
    assert len(news.finished) == 1
    assert news.over
    assert AssignedBatch(desk.scheduler, jobs).take(news)
    assert desk.recorder.ended_items[-1][0] == jobs[0].name
    assert _ready(desk) >= {job.name for job in jobs[1:]}


def test_long_items_go_out_alone_and_short_ones_by_seconds() -> None:
    assert batch_size([], ready=10**6, workers=1) == 1  # nobody knows
    assert batch_size([0.5], ready=10**6, workers=1) == BATCH_SECONDS / 0.5
    assert batch_size([0.5], ready=4, workers=2) == 2  # as much again for everyone else
    assert batch_size([0.5, 60.0, 60.0], ready=10**6, workers=1) == 1


def test_a_setting_that_may_be_abandoned_is_not_run_ahead_through_settings(
    tmp_path: Path, store: str, clock: Clock
) -> None:
    """Where a decision can spare trials, short ones go out as they are decided."""
    desk = Desk(study_of("settings", store), tmp_path)
    Gang(desk, clock, 0.001, Random(1)).run(workers=1)
    undisturbed = Desk(study_of("settings", store + "-inline"), tmp_path / "inline")
    crew = Workers()
    crew.run(undisturbed)
    pruned = {trial.number for trial in with_status(desk, "pruned")}
    ahead = {n for n in desk.recorder.started_items if n.startswith("trial")} - {
        n for n in undisturbed.recorder.started_items if n.startswith("trial")
    }
    assert len(ahead) < len(pruned) / 2


def _prepared(desk: Desk) -> list[Job]:
    """Do all that comes before trials, and return those that are ready."""
    scheduler, trials = desk.scheduler, []
    scheduler.open()
    while (job := scheduler.next_job()) is not None:
        if job.is_trial:
            trials.append(job)
        else:
            for _ in Workers().steps(desk, job):
                pass
            scheduler.finished(job, JobResult())
    for trial in trials:
        scheduler.returned(trial)
    return trials


def _shift_of(desk: Desk, clock: Clock, size: int) -> tuple[Job, ...]:
    """Return a shift of at least so many trials."""
    _prepared(desk)
    (first,) = desk.scheduler.next_batch(1)
    bench: Any = Bench(desk, Workers(), clock, 0.1)
    AssignedBatch(desk.scheduler, [first]).take(JobBatch(bench, [first]).work())
    jobs = desk.scheduler.next_batch(1, first.scenario)
    assert len(jobs) >= size
    assert jobs[0].scenario == jobs[1].scenario == first.scenario
    return jobs


def _ready(desk: Desk) -> set[str]:
    """Hand out all there is, and return the names."""
    names = set()
    while (job := desk.scheduler.next_job()) is not None:
        names.add(job.name)
    return names


class Equal:
    """Shares of which all jobs take the same."""

    def of(self, job: Job) -> Share:
        del job
        return Share()


def test_a_session_hands_out_to_as_many_workers_as_there_are_now(
    tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.scheduler.open()
    there = [1]
    session = TuneSession(desk.scheduler, Interrupts(), cast("Any", Equal()), lambda: there[0])

    def at_work(*names: str) -> list[str]:
        return [name for name in names if session.hand_out(name)[0]]

    assert at_work("a", "b") == ["a"]
    there[0] = 3  # two machines join
    assert at_work("b", "c", "d") == ["b", "c"]
    there[0] = 2  # one is lost
    session.lost("c", "the machine is gone")
    assert at_work("d") == []
    session.lost("b", "the machine is gone")
    assert at_work("d", "e") == ["d"]
    session.check()
