"""Which repaired models stay in the store, and which of them MLflow is sent."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.plan.plan import Trial
from orchestrator.scheduler import results_table
from orchestrator.spec.model import LogModels, Objective, VictimRule
from tests.orchestrator_tests.drawn_studies import study_of as drawn_study
from tests.orchestrator_tests.listening import (
    Listener,
    mirrored,
    study_of,
    trial_record,
    weights_in,
)
from tests.orchestrator_tests.simulation import Workers


@pytest.mark.parametrize("objective", [Objective.DER, Objective.ASR])
def test_the_best_model_of_each_scenario_is_kept(tmp_path: Path, objective: Objective) -> None:
    desk, heard = mirrored(study_of(tmp_path, objective=objective), tmp_path)
    name = {"der": "der_selection", "asr": "asr_after_selection"}[objective.value]
    sign = 1 if objective.maximise else -1
    rows = desk.rows()
    best = {
        max(trials, key=lambda number: (sign * rows[number][name], -number))
        for trials in (range(first, first + 6) for first in (0, 6, 12, 18))
    }
    for trial in desk.plan.trials:
        record = trial_record(heard, desk, trial.number)
        assert record.tags["best"] == str(trial.number in best)
        assert (record.model is not None) is (trial.number in best)
    assert weights_in(desk) == {desk.scheduler.scores[number].relearn_key for number in best}


def test_with_several_defence_seeds_the_model_kept_is_of_the_best_setting(tmp_path: Path) -> None:
    """The first half of the seeds, 3 and 4, chooses; the best of the setting's models is stored."""
    settings = {"defence_seed": (3, 4, 5), "alpha": (0.5, 0.6, 0.7)}
    desk, heard = mirrored(study_of(tmp_path, settings=settings), tmp_path)
    best = set()
    for first in (0, 9, 18, 27):
        rows = {number: desk.rows()[number] for number in range(first, first + 9)}
        by_alpha: dict[float, list[int]] = {}
        for number, row in rows.items():
            by_alpha.setdefault(row["alpha"], []).append(number)
        means = {
            alpha: sum(rows[n]["der_selection"] for n in own if rows[n]["defence_seed"] != 5)
            for alpha, own in by_alpha.items()
        }
        own = by_alpha[max(means, key=lambda alpha: means[alpha])]
        best.add(max(own, key=lambda number: (rows[number]["der_selection"], -number)))
    for trial in desk.plan.trials:
        record = trial_record(heard, desk, trial.number)
        assert record.tags["best"] == str(trial.number in best)
        assert (record.model is not None) is (trial.number in best)
    assert weights_in(desk) == {desk.scheduler.scores[number].relearn_key for number in best}


def test_a_weak_victim_has_no_best_repair(tmp_path: Path) -> None:
    rule = VictimRule(min_acc=0.91, min_asr=0.95)  # the victims reach 0.9
    _, heard = mirrored(study_of(tmp_path, victim_rule=rule), tmp_path)
    assert {record.tags["best"] for record in heard.of("trial")} == {"False"}


def test_all_models_are_kept_if_wanted(tmp_path: Path) -> None:
    desk, heard = mirrored(study_of(tmp_path, LogModels.ALL), tmp_path)
    for trial in desk.plan.trials:
        model = trial_record(heard, desk, trial.number).model
        assert model is not None
        assert model["key"] == desk.scheduler.scores[trial.number].relearn_key
    assert len(weights_in(desk)) == 16
    assert all(record.model is not None for record in heard.of("scenario"))


def test_no_model_is_told_of_if_none_is_wanted(tmp_path: Path) -> None:
    _, heard = mirrored(study_of(tmp_path, LogModels.NONE), tmp_path)
    assert all(record.model is None for record in heard.last.values())


def test_another_order_of_arrival_keeps_the_same_models(tmp_path: Path) -> None:
    desks = []
    for number in range(3):
        place = tmp_path / str(number)
        workers = Workers(Random(number), 1 + 2 * number)
        desks.append(mirrored(study_of(place), place, workers=workers)[0])
    assert weights_in(desks[0]) == weights_in(desks[1]) == weights_in(desks[2])


def best_flags(heard: Listener) -> dict[str, str]:
    """Return the tag `best` of each trial's run."""
    return {record.key: record.tags["best"] for record in heard.of("trial")}


def test_weights_that_lost_go_while_the_study_runs(tmp_path: Path) -> None:
    """Not at its end: thousands of models would fill a disk until then."""
    desk, heard = mirrored(study_of(tmp_path), tmp_path, finish=False)
    assert len(weights_in(desk)) == 4
    assert set(best_flags(heard).values()) == {"False"}  # MLflow is told at the end, once


@pytest.mark.parametrize("steps", [20, 60, 100])
def test_an_interrupted_study_keeps_what_may_still_be_the_best(tmp_path: Path, steps: int) -> None:
    """With several defence seeds the choice needs all of them; a resume then makes it."""
    study = study_of(tmp_path, settings={"defence_seed": (3, 4, 5), "alpha": (0.5, 0.6, 0.7)})
    workers = Workers(Random(1), 2)
    desk, _ = mirrored(study, tmp_path, workers=workers, steps=steps)
    for scenario in desk.plan.scenarios:
        own = [t for t in desk.plan.trials if t.scenario.number == scenario.number]
        done = [t for t in own if desk.scheduler.decisions.verdict(t) is not None]
        if len(done) < len(own):
            keys = {desk.scheduler.scores[trial.number].relearn_key for trial in done}
            assert keys <= weights_in(desk)
    resumed, _ = mirrored(study, tmp_path, workers=workers)
    alone, _ = mirrored(
        study_of(tmp_path / "alone", settings=study.grid.settings), tmp_path / "alone"
    )
    assert weights_in(resumed) == weights_in(alone)


def test_while_settings_are_drawn_the_best_is_found_at_the_end(tmp_path: Path) -> None:
    study = drawn_study(f"memory://{tmp_path}", settings=4)
    _, heard = mirrored(study, tmp_path)
    assert sorted(best_flags(heard).values()).count("True") == len(heard.of("scenario"))


def test_what_was_the_best_before_is_none_before_another_one_is(tmp_path: Path) -> None:
    """A kill between the two would leave two of them, with two models."""
    study = study_of(tmp_path, settings={"alpha": (0.5,), "reinit_ratio": (0.5, 1.0)})
    desk, first = mirrored(study, tmp_path / "one")
    _, second = mirrored(study, tmp_path / "two", Listener(dict.fromkeys(first.last, "run")))
    flags = [record.tags["best"] for record in second.heard if "best" in record.tags]
    assert flags == ["False"] * 4 + ["True"] * 4
    assert len(desk.plan.trials) == 8


def test_a_wreck_is_never_the_best_and_its_weights_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However good its objective: here the usual best of each scenario is one."""
    usual, heard = mirrored(study_of(tmp_path / "one"), tmp_path / "one")
    bests = [t.number for t in usual.plan.trials if best_flags(heard)[t.key] == "True"]
    wrecks = {usual.scheduler.scores[number].relearn_key for number in bests}
    measured = results_table._after

    def wrecking(trial: Trial, victim: Any, scored: Any, repaired: Any) -> dict[str, Any]:
        row = measured(trial, victim, scored, repaired)
        return {**row, "wrecked": scored.relearn_key in wrecks}

    monkeypatch.setattr(results_table, "_after", wrecking)
    desk, again = mirrored(study_of(tmp_path / "two"), tmp_path / "two")
    others = [t.number for t in desk.plan.trials if best_flags(again)[t.key] == "True"]
    kept = {desk.scheduler.scores[number].relearn_key for number in others}
    assert kept == set(weights_in(desk))
    assert kept
    assert not kept & wrecks
