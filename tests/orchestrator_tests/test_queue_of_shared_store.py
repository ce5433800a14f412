"""What another study is at is passed over as long as there is anything else to do."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from orchestrator.plan.jobs import Job, victim_job
from orchestrator.scheduler.queue import LOOKS
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return desk_of(tmp_path / "one", LOOKS + 4)


def desk_of(folder: Path, seeds: int) -> Desk:
    study = small_study(
        store=str(folder / "store"),
        attacks=[choice(BADNETS)],
        grid={"seeds": tuple(range(seeds))},
        settings={"reinit_ratio": (0.5, 1.0)},
    )
    folder.mkdir()
    return Desk(study, folder / "out")


class Other:
    """Another study's workers, as far as the store knows of them."""

    def __init__(self, desk: Desk, stack: ExitStack) -> None:
        self._desk, self._stack = desk, stack

    def begin(self, job: Job) -> None:
        lock = self._desk.store.lock("train_victim", self._desk.keys.victim(job.scenario))
        assert self._stack.enter_context(lock).acquire()


def victims_of(desk: Desk) -> list[Job]:
    """Return the victims in the order in which a study alone would make them."""
    return [victim_job(desk.plan.scenarios[n]) for n in desk.plan.scenario_order]


def test_a_victim_that_another_study_makes_comes_last(desk: Desk) -> None:
    wanted = [job.name for job in victims_of(desk)]
    with ExitStack() as stack:
        other = Other(desk, stack)
        desk.scheduler.open()
        for victim in victims_of(desk)[:2]:
            other.begin(victim)
        handed = [job.name for _ in wanted if (job := desk.scheduler.next_job())]
    assert handed == wanted[2:] + wanted[:2]


def test_what_is_free_again_is_handed_out_in_its_turn(desk: Desk) -> None:
    first, second, *_ = victims_of(desk)
    desk.scheduler.open()
    with ExitStack() as stack:
        Other(desk, stack).begin(first)
        job = desk.scheduler.next_job()
        assert job is not None
        assert job.name == second.name
    job = desk.scheduler.next_job()
    assert job is not None
    assert job.name == first.name


def test_where_all_is_another_studys_a_worker_waits_for_the_first(desk: Desk) -> None:
    with ExitStack() as stack:
        for victim in victims_of(desk):
            Other(desk, stack).begin(victim)
        desk.scheduler.open()
        handed = [job.name for _ in range(2) if (job := desk.scheduler.next_job())]
        assert not desk.scheduler.complete
    assert len(set(handed)) == 2


def test_a_shift_holds_nothing_that_would_make_it_wait(desk: Desk) -> None:
    with ExitStack() as stack:
        for job in victims_of(desk)[:2]:
            Other(desk, stack).begin(job)
        desk.scheduler.open()
        (first,) = desk.scheduler.next_batch(1)
        assert first.name == victims_of(desk)[2].name


def test_results_are_those_of_a_study_alone(desk: Desk, tmp_path: Path) -> None:
    alone = desk_of(tmp_path / "alone", len(desk.plan.scenarios))
    Workers().run(alone)
    with ExitStack() as stack:
        for job in victims_of(desk)[::2]:
            Other(desk, stack).begin(job)
        Workers(count=2).run(desk)
    assert set(desk.statuses()) == {"done"}
    assert desk.rows() == alone.rows()
