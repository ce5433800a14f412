"""The conductor with simulated workers: who comes first changes nothing."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.conductor import ATTEMPTS
from orchestrator.definition import Prune, PrunerChoice, Study
from orchestrator.errors import Unusable
from orchestrator.plan import Trial
from orchestrator.work import AscentItem, Finished, Progress, TrialItem, VictimItem
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, MEDIAN, choice, small_study

EAGER = PrunerChoice(pruner="wilcoxon", arguments={"p_threshold": 0.1, "n_startup_steps": 4})
HALVING = PrunerChoice(pruner="successive_halving", arguments={"reduction_factor": 2})
PRUNES = {
    "nobody": Prune(),
    "settings": Prune(setting=EAGER),
    "curves": Prune(curve=MEDIAN),
    "both": Prune(setting=EAGER, curve=HALVING),
}
SETTINGS = {
    "unlearn_threshold": (0.2, 0.4),
    "reinit_ratio": (0.5, 0.55),  # of eight weights, both are four
    "alpha": (0.3, 0.5, 0.7),
}


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Return the place of a store of this test's own, in memory."""
    return f"memory://{tmp_path}"


def study_of(prune: str, store: str, **other: Any) -> Study:
    """Return a study of six scenarios and twelve settings, of which some agree in phase 1."""
    return small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings={**SETTINGS, "relearn_epochs": (4,)},
        grid={"seeds": tuple(range(6))},
        few={},
        prune=PRUNES[prune],
        **other,
    )


def with_status(desk: Desk, status: str) -> list[Trial]:
    return [t for t, s in zip(desk.plan.trials, desk.statuses(), strict=True) if s == status]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each study when one worker does all of it, in order."""
    rows = {}
    for prune in PRUNES:
        path = tmp_path_factory.mktemp(prune)
        desk = Desk(study_of(prune, f"memory://{path}"), path)
        Workers().run(desk)
        assert desk.conductor.decisions.complete()
        rows[prune] = desk.rows()
    return rows


def test_the_studies_of_these_tests_prune_something(
    reference: dict[str, list[dict[str, Any]]],
) -> None:
    pruned = {
        prune: [r["status"] for r in rows].count("pruned") for prune, rows in reference.items()
    }
    assert pruned["nobody"] == 0
    assert all(10 < pruned[prune] < 60 for prune in ("settings", "curves", "both")), pruned


@pytest.mark.parametrize("prune", PRUNES)
@pytest.mark.parametrize("workers", [2, 3, 5])
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
@pytest.mark.parametrize("halt", [1, 10, 40, 150])
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
    desk.conductor.open()
    assert desk.conductor.next_item() is None
    assert desk.conductor.complete
    assert desk.rows() == reference[prune]
    assert (tmp_path / "stages.csv").read_bytes() == before


def test_another_study_finds_what_the_store_has(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    Workers(Random(3), 2).run(Desk(study_of("nobody", store), tmp_path / "one"))
    desk = Desk(study_of("settings", store, name="another"), tmp_path / "two")
    desk.conductor.open()
    assert desk.conductor.complete
    assert desk.rows() == reference["settings"]
    assert {computed for _, _, computed in desk.listed()} == {"False"}


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


# Failures.


def test_a_failing_victim_fails_its_trials_and_no_others(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(failing=["victim-0002"]).run(desk)
    for row, trial in zip(desk.rows(), desk.plan.trials, strict=True):
        failed = trial.scenario.number == 2
        assert row["status"] == ("failed" if failed else "done")
        error = "victim: RuntimeError: it cannot be done" if failed else None
        assert row["error"] == error
    (name,) = desk.conductor.errors
    assert (name, desk.conductor.errors[name].trace) == ("victim-0002", "where")
    assert desk.conductor.decisions.complete()


def test_a_failing_ascent_fails_the_trials_that_share_it(tmp_path: Path, store: str) -> None:
    study = study_of("nobody", store)
    desk = Desk(study, tmp_path)
    name = desk.conductor._catalogue.groups[3].item.name
    Workers(failing=[name]).run(desk)
    failed = [
        t.scenario.number
        for t, s in zip(desk.plan.trials, desk.statuses(), strict=True)
        if s == "failed"
    ]
    assert failed == [3] * 12
    row = desk.results.row(desk.plan.by_place[0, 3])
    assert row["error"] == "ascent: RuntimeError: it cannot be done"
    assert row["acc_before_report"] == 0.88
    assert row["acc_after_report"] is None


def test_a_failing_trial_fails_those_that_need_its_result(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(Random(0), 2, failing=["trial-00000"]).run(desk)
    key = desk.conductor.scores[0].relearn_key
    for trial, row in zip(desk.plan.trials, desk.rows(), strict=True):
        failed = desk.conductor.scores[trial.number].relearn_key == key
        assert row["status"] == ("failed" if failed else "done")
        assert row["error"] == ("RuntimeError: it cannot be done" if failed else None)
    assert desk.statuses().count("failed") == 4
    assert sorted(desk.conductor.errors) == [f"trial-0000{n}" for n in (0, 3, 6, 9)]


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
    names = ["victim-0000", "ascent-00001", "trial-00003", "trial-00003", "trial-00040"]
    desk = Desk(study_of("nobody", store), tmp_path)
    crew = Workers(Random(2), 3, dying=names)
    crew.run(desk)
    assert desk.rows() == reference["nobody"]
    assert set(crew.executed.values()) == {1}
    started = desk.recorder.started_items
    assert started.count("victim-0000") == 2
    assert started.count("trial-00003") == 3


def test_an_item_whose_workers_keep_dying_is_given_up(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(dying=["victim-0001"] * ATTEMPTS).run(desk)
    failed = [
        t.scenario.number
        for t, s in zip(desk.plan.trials, desk.statuses(), strict=True)
        if s == "failed"
    ]
    assert failed == [1] * 12
    row = desk.results.row(desk.plan.by_place[0, 1])
    assert row["error"] == "victim: its worker died 3 times: the machine is gone"
    assert desk.recorder.started_items.count("victim-0001") == ATTEMPTS


def test_a_store_that_cannot_be_used_ends_the_study(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.conductor.open()
    item = desk.conductor.next_item()
    assert item is not None
    with pytest.raises(Unusable, match=r"^the store is full$"):
        desk.conductor.finished(item, Finished(error="the store is full", fatal=True))


@pytest.mark.parametrize("kind", [VictimItem, AscentItem, TrialItem])
def test_a_result_that_cannot_be_read_back_ends_the_study(
    kind: type, tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of("nobody", store), tmp_path)
    desk.conductor.open()
    while not isinstance(item := desk.conductor.next_item(), kind):
        assert item is not None
        for _ in Workers().steps(desk, item):
            pass
        desk.conductor.finished(item, Finished())
    assert item is not None
    with pytest.raises(Unusable) as caught:
        desk.conductor.finished(item, Finished())
    assert str(caught.value) == (
        f"{item.name} was stored and cannot be read back; is the store on a path that all "
        f"nodes see?"
    )


# Executors may say everything twice.


def test_what_is_told_twice_counts_once(
    tmp_path: Path, store: str, reference: dict[str, Any]
) -> None:
    desk = Desk(study_of("curves", store), tmp_path)
    conductor, crew = desk.conductor, Workers()
    conductor.open()
    while (item := conductor.next_item()) is not None:
        steps = crew.steps(desk, item)
        last = Progress(stage="relearn", epoch=0, epochs=4)
        while True:
            try:
                last = next(steps)
            except StopIteration as end:
                for _ in range(2):
                    conductor.finished(item, end.value)
                break
            if conductor.progress(item, last):
                for _ in range(2):
                    conductor.stopped(item, last)
                break
        conductor.lost(item, "late")
        conductor.stopped(item, last)
        conductor.finished(item, Finished(error="late"))
        conductor.progress(item, last)
    assert conductor.complete
    assert desk.rows() == reference["curves"]
    assert desk.listed() == {(stage, key, "True"): 1 for stage, key in crew.executed}
    assert conductor.errors == {}


def test_the_observer_hears_of_every_item_that_it_ends(tmp_path: Path, store: str) -> None:
    """Stopped ones too, though their verdict may have to wait for others."""
    desk = Desk(study_of("both", store), tmp_path)
    Workers(Random(4), 3).run(desk)
    started, ended = desk.recorder.started_items, [name for name, _ in desk.recorder.ended_items]
    assert sorted(started) == sorted(ended)
    assert sorted(desk.recorder.victims) == list(range(6))
    assert sorted(v.trial.number for v in desk.recorder.verdicts) == list(range(72))


def test_a_cut_is_kept_with_its_curve(tmp_path: Path, store: str) -> None:
    desk = Desk(study_of("curves", store), tmp_path)
    Workers().run(desk)
    pruned = with_status(desk, "pruned")
    keys = {desk.conductor.scores[trial.number].relearn_key for trial in pruned}
    cuts = desk.folder.cuts()
    assert set(cuts) <= keys
    assert all(1 <= len(curve) <= 4 for curve in cuts.values())
    assert all(desk.store.peek("relearn", key) is None for key in cuts)


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
    assert desk.recorder.started_items[0].startswith("victim")
