"""The scheduler when items fail, workers die, and the store cannot be trusted."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ResourceError
from orchestrator.plan.jobs import JobKind, JobResult
from orchestrator.spec.model import Limits
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from tests.steps import finished
from ulrl.datasets.arrays import Arrays

ATTEMPTS = Limits().attempts


def test_a_failing_victim_fails_its_trials_and_no_others(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(failing=["victim-0002"]).run(desk)
    for row, trial in zip(desk.rows(), desk.plan.trials, strict=True):
        failed = trial.scenario.number == 2
        assert row["status"] == ("failed" if failed else "done")
        error = "victim: RuntimeError: it cannot be done" if failed else None
        assert row["error"] == error
    (name,) = desk.scheduler.errors
    assert (name, desk.scheduler.errors[name].trace) == ("victim-0002", "where")
    assert desk.scheduler.decisions.complete()


def test_a_failing_ascent_fails_the_trials_that_share_it(tmp_path: Path, store: str) -> None:
    study = study_of("nobody", store)
    desk = Desk(study, tmp_path)
    name = desk.scheduler._catalog.groups[3].job.name
    Workers(failing=[name]).run(desk)
    failed = [trial.scenario.number for trial in with_status(desk, "failed")]
    assert failed == [3] * 12
    row = desk.results.row(desk.plan.by_place[0, 3])
    assert row["error"] == "ascent: RuntimeError: it cannot be done"
    assert row["acc_before_report"] == 0.88
    assert row["acc_after_report"] is None


def test_a_failing_trial_fails_those_that_need_its_result(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(Random(0), 2, failing=["trial-00000"]).run(desk)
    key = desk.scheduler.scores[0].relearn_key
    for trial, row in zip(desk.plan.trials, desk.rows(), strict=True):
        failed = desk.scheduler.scores[trial.number].relearn_key == key
        assert row["status"] == ("failed" if failed else "done")
        assert row["error"] == ("RuntimeError: it cannot be done" if failed else None)
    assert desk.statuses().count("failed") == 4
    assert sorted(desk.scheduler.errors) == [f"trial-0000{n}" for n in (0, 3, 6, 9)]


def test_a_failed_trial_is_tried_again(tmp_path: Path, store: str) -> None:
    """Where another made the same result meanwhile, nothing is left to do."""
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(Random(0), 2, stumbling=["trial-00000", "trial-00012"]).run(desk)
    assert desk.statuses().count("failed") == 2
    assert desk.rows()[0]["error"] == "RuntimeError: an accident"
    again = Desk(study_of("nobody", store), tmp_path)
    crew = Workers()
    crew.run(again)
    assert again.statuses() == ["done"] * 72
    assert sum(crew.executed.values()) == 0


@pytest.mark.parametrize("prune", PRUNES)
def test_failures_do_not_depend_on_the_order_either(prune: str, tmp_path: Path, store: str) -> None:
    failing = ["victim-0001", "ascent-00004", "trial-00005", "trial-00030", "trial-00031"]
    desks = []
    for number, workers in enumerate((1, 3, 5)):
        desk = Desk(study_of(prune, f"{store}{number}"), tmp_path / str(number))
        Workers(Random(number), workers, failing=failing).run(desk)
        desks.append(desk)
    assert desks[1].rows() == desks[0].rows()
    assert desks[2].rows() == desks[0].rows()
    assert "failed" in desks[0].statuses()


def test_a_lost_worker_costs_its_item_in_flight(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    names = ["victim-0000", "ascent-00001", "trial-00001", "trial-00001", "trial-00037"]
    desk = Desk(study_of("nobody", store), tmp_path)
    crew = Workers(Random(2), 3, dying=names)
    crew.run(desk)
    assert desk.rows() == reference["nobody"]
    assert set(crew.executed.values()) == {1}
    started = desk.recorder.started_items
    assert started.count("victim-0000") == 2
    assert started.count("trial-00001") == 3


def test_an_item_whose_workers_keep_dying_is_given_up(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(dying=["victim-0001"] * ATTEMPTS).run(desk)
    failed = [trial.scenario.number for trial in with_status(desk, "failed")]
    assert failed == [1] * 12
    row = desk.results.row(desk.plan.by_place[0, 1])
    assert row["error"] == "victim: its worker died 3 times"
    assert desk.recorder.started_items.count("victim-0001") == ATTEMPTS


def test_a_store_that_cannot_be_used_ends_the_study(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.scheduler.open()
    item = desk.scheduler.next_job()
    assert item is not None
    with pytest.raises(ResourceError, match=r"^the store is full$"):
        desk.scheduler.finished(item, JobResult(error="the store is full", fatal=True))


@pytest.mark.parametrize("kind", [JobKind.VICTIM, JobKind.STAGE, JobKind.TRIAL])
def test_a_result_that_cannot_be_read_back_ends_the_study(
    kind: JobKind, tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.scheduler.open()
    while (item := desk.scheduler.next_job()) is not None and item.kind is not kind:
        for _ in Workers().steps(desk, item):
            pass
        desk.scheduler.finished(item, JobResult())
    assert item is not None
    with pytest.raises(ResourceError) as caught:
        desk.scheduler.finished(item, JobResult())
    assert str(caught.value) == (
        f"{item.name} was stored and cannot be read back; is the store on a path that all nodes "
        f"see?"
    )


def test_a_file_that_is_replaced_fails_its_scenario_alone(tmp_path: Path, store: str) -> None:
    """The worker that starts after that keys its result by the new file; the driver has the old."""
    files = [arrays(tmp_path / f"{name}.npz", seed) for seed, name in enumerate(("one", "two"))]
    datasets = tuple(Arrays(arrays=str(file)) for file in files)
    study = small_study(store=store, attacks=[choice(BADNETS)], grid={"datasets": datasets})
    desk = Desk(study, tmp_path)
    desk.scheduler.open()
    arrays(files[0], 7)
    worker = Desk(study, tmp_path)
    while (item := desk.scheduler.next_job()) is not None:
        worker.scheduler = desk.scheduler
        _, result = finished(Workers().steps(worker, item))
        desk.scheduler.finished(item, result)
    assert desk.statuses() == ["failed", "done"]
    assert "changed while the study ran" in desk.rows()[0]["error"]


def arrays(path: Path, seed: int) -> Path:
    """Write a small set of pictures and return its path."""
    source = np.random.default_rng(seed)
    content: dict[str, Any] = {}
    for part, images in (("train", 100), ("test", 40)):
        content[f"{part}_images"] = source.integers(0, 256, (images, 8, 8, 3), np.uint8)
        content[f"{part}_labels"] = np.arange(images) % 10
    np.savez(path, **content)
    return path
