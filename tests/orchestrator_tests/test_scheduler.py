"""The scheduler with simulated workers: who comes first, fails or dies changes nothing else."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ResourceError
from orchestrator.plan.jobs import JobKind, JobResult, Progress
from orchestrator.spec.model import Limits
from tests.orchestrator_tests.pruned_studies import PRUNES, study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from tests.steps import finished
from ulrl.datasets.arrays import Arrays


def test_the_studies_of_these_tests_prune_something(
    reference: dict[str, list[dict[str, Any]]],
) -> None:
    pruned = {
        prune: [r["status"] for r in rows].count("pruned") for prune, rows in reference.items()
    }
    assert pruned["nobody"] == 0
    assert all(10 < pruned[prune] < 60 for prune in ("settings", "curves", "both")), pruned


@pytest.mark.parametrize("prune", PRUNES)
@pytest.mark.parametrize("workers", [2, 5])
def test_any_number_of_workers_in_any_order_gives_the_same_rows(
    workers: int, prune: str, tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    desk = Desk(study_of(prune, store), tmp_path)
    crew = Workers(Random(workers), workers)
    crew.run(desk)
    assert desk.rows() == reference[prune]
    assert set(crew.executed.values()) == {1}
    assert desk.listed() == {(stage, key, "True"): 1 for stage, key in crew.executed}


def test_results_are_shared_where_phase_one_agrees(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    crew = Workers(Random(1), 3)
    crew.run(desk)
    counts = {
        stage: sum(1 for name, _ in crew.executed if name == stage)
        for stage in ("train_victim", "unlearn", "score_neurons", "relearn", "evaluate")
    }
    # Reinit ratios agree everywhere, thresholds in three of the six scenarios.
    assert counts == {
        "train_victim": 6,
        "unlearn": 6,
        "score_neurons": 12,
        "relearn": 3 * 3 + 3 * 3 * 2,
        "evaluate": 6 + 27,
    }
    assert desk.statuses() == ["done"] * 72


@pytest.mark.parametrize("prune", PRUNES)
@pytest.mark.parametrize("halt", [1, 40, 150])
def test_a_study_killed_anywhere_goes_on_with_the_rest(
    halt: int, prune: str, tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    crew = Workers(Random(halt), 3)
    finished: set[str] = set()
    for _ in range(3):
        desk = Desk(study_of(prune, store), tmp_path)
        crew.run(desk, steps=halt)
        assert not finished & set(desk.recorder.started_items)
        finished |= {name for name, result in desk.recorder.ended_items if result.runs}
    desk = Desk(study_of(prune, store), tmp_path)
    crew.run(desk)
    assert desk.rows() == reference[prune]
    assert set(crew.executed.values()) == {1}
    listed = desk.listed()
    assert set(listed.values()) == {1}
    assert {(stage, key) for stage, key, _ in listed} <= set(crew.executed)
    assert {computed for _, _, computed in listed} == {"True"}


@pytest.mark.parametrize("prune", PRUNES)
def test_a_finished_study_hands_out_nothing(
    prune: str, tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    Workers(Random(3), 2).run(Desk(study_of(prune, store), tmp_path))
    before = (tmp_path / "stages.csv").read_bytes()
    desk = Desk(study_of(prune, store), tmp_path)
    desk.scheduler.open()
    assert desk.scheduler.next_job() is None
    assert desk.scheduler.complete
    assert desk.rows() == reference[prune]
    assert (tmp_path / "stages.csv").read_bytes() == before


def test_another_study_finds_what_the_store_has(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    crew = Workers(Random(3), 2)
    crew.run(Desk(study_of("nobody", store), tmp_path / "one"))
    desk = Desk(study_of("settings", store, name="another"), tmp_path / "two")
    desk.scheduler.open()
    assert desk.scheduler.complete
    assert desk.rows() == reference["settings"]
    assert desk.listed() == {(stage, key, "False"): 1 for stage, key in crew.executed}


def test_an_abandoned_setting_costs_no_further_work(tmp_path: Path, store: str) -> None:
    """Neither its trials nor the ascents that nobody else needs."""
    study = small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings={"clean_ratio": (0.01, 0.1)},
        grid={"seeds": tuple(range(8))},
        few={},
        prune=PRUNES["settings"],
    )
    desk = Desk(study, tmp_path)
    crew = Workers()
    crew.run(desk)
    assert desk.statuses()[::2] == ["done"] * 8
    assert sorted(desk.statuses()[1::2]) == ["done"] * 4 + ["pruned"] * 4
    for stage in ("unlearn", "relearn"):
        assert sum(1 for name, _ in crew.executed if name == stage) == 8 + 4, stage


# Executors may say everything twice.


def test_what_is_told_twice_counts_once(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    desk = Desk(study_of("curves", store), tmp_path)
    scheduler, crew = desk.scheduler, Workers()
    scheduler.open()
    while (item := scheduler.next_job()) is not None:
        steps = crew.steps(desk, item)
        last = Progress(stage="relearn", epoch=0, epochs=4)
        while True:
            try:
                last = next(steps)
            except StopIteration as end:
                for _ in range(2):
                    scheduler.finished(item, end.value)
                break
            if scheduler.progress(item, last):
                for _ in range(2):
                    scheduler.stopped(item, last)
                break
        scheduler.lost(item, "late")
        scheduler.stopped(item, last)
        scheduler.finished(item, JobResult(error="late"))
        scheduler.progress(item, last)
    assert scheduler.complete
    assert desk.rows() == reference["curves"]
    assert desk.listed() == {(stage, key, "True"): 1 for stage, key in crew.executed}
    assert scheduler.errors == {}


def test_the_observer_hears_of_every_item_that_it_ends(tmp_path: Path, store: str) -> None:
    """Stopped ones too, though their verdict may have to wait for others."""
    desk = Desk(study_of("both", store), tmp_path)
    Workers(Random(4), 3).run(desk)
    started, ended = desk.recorder.started_items, [name for name, _ in desk.recorder.ended_items]
    assert sorted(started) == sorted(ended)
    assert sorted(number for number, _ in desk.recorder.victims) == list(range(6))
    assert sorted(v.trial.number for v in desk.recorder.verdicts) == list(range(72))


def test_a_cut_is_kept_with_its_curve(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("curves", store), tmp_path)
    Workers().run(desk)
    pruned = with_status(desk, "pruned")
    keys = {desk.scheduler.scores[trial.number].relearn_key for trial in pruned}
    cuts = desk.folder.cuts()
    assert set(cuts) <= keys
    assert all(1 <= len(curve) <= 4 for curve in cuts.values())
    assert all(desk.store.peek("relearn", key) is None for key in cuts)


def test_a_cut_serves_all_trials_that_need_the_same_result(tmp_path: Path, store: str) -> None:
    """Here settings of another ascent, which finds the same suspects later."""
    study = small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings={"unlearn_lr": (0.01, 0.02), "alpha": (0.3, 0.4, 0.8)},
        few={"relearn_epochs": (4,)},
        prune=PRUNES["curves"],
    )
    desk = Desk(study, tmp_path)
    crew = Workers()
    crew.run(desk)
    assert desk.statuses()[2::3] == ["pruned"] * 2
    trials = [name for name in desk.recorder.started_items if name.startswith("trial")]
    assert trials == [f"trial-0000{number}" for number in (0, 1, 2)]
    assert sum(1 for stage, _ in crew.executed if stage == "unlearn") == 2


def test_cuts_are_no_evidence_once_nobody_cuts(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    Workers().run(Desk(study_of("curves", store), tmp_path))
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers().run(desk)
    assert desk.rows() == reference["nobody"]


def test_a_cut_that_no_longer_holds_is_worked_on(tmp_path: Path, store: str) -> None:
    """The settings that spoke against it have left the grid."""
    Workers().run(Desk(study_of("curves", store), tmp_path))
    smaller = {"unlearn_threshold": (0.4,), "reinit_ratio": (0.5,), "relearn_epochs": (4,)}
    study = small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings={**smaller, "alpha": (0.5, 0.7)},
        grid={"seeds": tuple(range(6))},
        few={},
        prune=PRUNES["curves"],
    )
    desk = Desk(study, tmp_path)
    Workers().run(desk)
    assert desk.statuses() == ["done"] * 12


def test_the_reference_goes_first_and_decides_first(tmp_path: Path, store: str) -> None:
    """The first trials are the first setting's, through all scenarios."""
    desk = Desk(study_of("settings", store), tmp_path)
    Workers().run(desk)
    trials = [name for name in desk.recorder.started_items if name.startswith("trial")]
    first = desk.plan.setting_order[0]
    wanted = [desk.plan.by_place[first, s].name for s in desk.plan.scenario_order]
    assert trials[:6] == wanted
    kinds = [name.partition("-")[0] for name in desk.recorder.started_items[:18]]
    assert kinds == ["victim", "ascent", "trial"] * 6  # no scenario waits for another


# Items fail, workers die, and the store cannot be trusted.


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
    """Where another has made the same result, nothing is left to do."""
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
    for number, workers in enumerate((1, 4)):
        desk = Desk(study_of(prune, f"{store}{number}"), tmp_path / str(number))
        Workers(Random(number), workers, failing=failing).run(desk)
        desks.append(desk)
    assert desks[1].rows() == desks[0].rows()
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
