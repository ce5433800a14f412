"""When MLflow is told which trial of a scenario is the best, and its model made."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.plan import Trial
from orchestrator.scheduler import results_table
from orchestrator.spec.model import LogModels
from tests.orchestrator_tests.drawn_studies import study_of as drawn_study
from tests.orchestrator_tests.listening import Listener, mirrored, study_of, weights_in


def tags(heard: Listener) -> dict[str, dict[str, str]]:
    """Return the tags of each run."""
    return {key: dict(record.tags) for key, record in heard.last.items()}


def test_a_scenarios_best_is_told_as_soon_as_all_its_trials_are_decided(tmp_path: Path) -> None:
    """So that models are made meanwhile, and not one after the other in the end."""
    desk, heard = mirrored(study_of(tmp_path / "one"), tmp_path / "one", finish=False)
    told = [record for record in heard.last.values() if record.tags.get("best") == "True"]
    assert sorted(record.parent or "" for record in told) == sorted(
        record.key for record in heard.of("scenario")
    )
    assert all(record.model is not None for record in told)
    # A scenario's comes with its last trial, not with the study's.
    ends = dict.fromkeys((record.key for record in heard.of("scenario")), 0)
    bests = dict(ends)
    for place, record in enumerate(heard.heard):
        if record.tags["kind"] == "trial":
            ends[record.parent or ""] = place
            if record.tags["best"] == "True":
                bests[record.parent or ""] = place
    assert bests == ends
    assert len(set(ends.values())) == 4
    _, whole = mirrored(study_of(tmp_path / "two"), tmp_path / "two")
    assert tags(whole) == tags(heard)
    assert len(whole.heard) == len(heard.heard), "and not again in the end"
    assert heard.expecting > 0
    assert len(weights_in(desk)) == 4


def test_what_is_in_the_grid_is_what_was_recorded(tmp_path: Path) -> None:
    """Whatever else MLflow has of the study has left the grid."""
    _, heard = mirrored(study_of(tmp_path), tmp_path)
    assert heard.present == set(heard.last)


def test_while_settings_are_drawn_no_best_is_final(tmp_path: Path) -> None:
    study = drawn_study(f"memory://{tmp_path}", settings=4)
    _, heard = mirrored(study, tmp_path / "one", finish=False)
    assert all(record.tags.get("best") != "True" for record in heard.heard)


def test_no_model_is_expected_where_none_will_come(tmp_path: Path) -> None:
    _, first = mirrored(study_of(tmp_path, LogModels.NONE), tmp_path)
    listener = Listener(dict.fromkeys(first.last, "run"))
    _, second = mirrored(study_of(tmp_path), tmp_path, listener)
    assert (first.expecting, second.expecting) == (0, 0)


def test_what_was_the_best_before_is_none_before_another_one_is(tmp_path: Path) -> None:
    """A kill between the two would leave two of them, with two models."""
    study = study_of(tmp_path, settings={"alpha": (0.5,), "reinit_ratio": (0.5, 1.0)})
    desk, first = mirrored(study, tmp_path / "one")
    number = next(t.number for t in desk.plan.trials if tags(first)[t.key]["best"] == "False")
    loser = desk.plan.trials[number]
    # As if only the worse one had been there when a former start was interrupted.
    same = [t for t in desk.plan.trials if t.scenario == loser.scenario]
    (best,) = (t for t in same if t is not loser)
    listener = Listener({key: "run" for key in first.last if key != best.key})
    listener.last = dict(first.last)
    _, second = mirrored(study, tmp_path / "two", listener, finish=False)
    told = [(record.key, record.tags["best"]) for record in second.heard if "best" in record.tags]
    own = [(key, flag) for key, flag in told if key in (best.key, loser.key)]
    assert own == [(best.key, "False"), (loser.key, "False"), (best.key, "True")]


def test_models_are_expected_when_a_scenario_has_few_trials_left(tmp_path: Path) -> None:
    """Not from the start: the process that makes them holds half a gigabyte."""
    _, heard = mirrored(study_of(tmp_path), tmp_path)
    assert heard.expecting == 4  # once for each scenario
    _, heard = mirrored(drawn_study(f"memory://{tmp_path}/d", settings=4), tmp_path / "drawn")
    assert heard.expecting == 1
    _, heard = mirrored(study_of(tmp_path / "all", LogModels.ALL), tmp_path / "all")
    assert heard.expecting == 0  # they are wanted from the first trial on


def test_a_wreck_is_never_the_best_and_its_weights_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However good its objective: here the usual best of each scenario is one."""
    usual, heard = mirrored(study_of(tmp_path / "one"), tmp_path / "one")
    bests = [t.number for t in usual.plan.trials if tags(heard)[t.key]["best"] == "True"]
    wrecks = {usual.conductor.scores[number].relearn_key for number in bests}
    measured = results_table._after

    def wrecking(trial: Trial, victim: Any, scored: Any, repaired: Any) -> dict[str, Any]:
        row = measured(trial, victim, scored, repaired)
        return {**row, "wrecked": scored.relearn_key in wrecks}

    monkeypatch.setattr(results_table, "_after", wrecking)
    desk, again = mirrored(study_of(tmp_path / "two"), tmp_path / "two")
    others = [t.number for t in desk.plan.trials if tags(again)[t.key]["best"] == "True"]
    kept = {desk.conductor.scores[number].relearn_key for number in others}
    assert kept == set(weights_in(desk))
    assert kept
    assert not kept & wrecks
