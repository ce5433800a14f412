"""Findings: None until the store has all of an answer."""

from pathlib import Path

import pytest

from orchestrator.store.lookup import StageResults
from tests.orchestrator_tests.made_up import metrics
from tests.orchestrator_tests.places import Place
from tests.orchestrator_tests.simulation import SECONDS, Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from ulrl.metrics import Metrics


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Return a desk whose study is done, in memory."""
    study = small_study(
        store=f"memory://{tmp_path}",
        attacks=[choice(BADNETS)],
        settings={"unlearn_threshold": (0.2, 0.4), "reinit_ratio": (0.5, 1.0)},
        grid={"seeds": (0, 1)},
    )
    desk = Desk(study, tmp_path)
    Workers().run(desk)
    return desk


def fresh(desk: Desk) -> StageResults:
    return StageResults(desk.store, desk.keys)


def test_a_victim(desk: Desk) -> None:
    scenario = desk.plan.scenarios[1]
    found = fresh(desk).victim(scenario)
    assert found is not None
    assert found.key == desk.keys.victim(scenario)
    assert found.evaluation.selection == Metrics(**metrics(0.9, 0.95))
    assert found.evaluation.report == Metrics(**metrics(0.88, 0.94))
    assert found.training == ((0.5, 0.9),)
    assert found.seconds == SECONDS["train_victim"] + SECONDS["evaluate"]
    assert [(run.stage, run.seconds) for run in found.runs] == [
        *(("train_victim", 8.0), ("evaluate", 0.5)),
    ]
    assert {(run.scenario, run.study) for run in found.runs} == {
        (scenario.text, desk.folder.identity())
    }


def test_a_victim_without_either_part_is_none(desk: Desk) -> None:
    scenario = desk.plan.scenarios[0]
    key = desk.keys.victim(scenario)
    for stage, name in (("train_victim", key), ("evaluate", desk.keys.evaluation(key))):
        entry = desk.store.read(stage, name)
        assert entry is not None
        desk.store.delete(stage, name)
        assert fresh(desk).victim(scenario) is None
        desk.store.write(stage, name, entry)
        assert fresh(desk).victim(scenario) is not None


def test_the_relearnings_key_comes_from_what_was_flagged_and_reset(desk: Desk) -> None:
    keys = []
    for trial in desk.plan.trials:
        found = fresh(desk).scores(trial)
        assert found is not None
        keys.append(found.relearn_key)
    even, odd = keys[:4], keys[4:]  # thresholds agree in the first scenario only
    assert even[:2] == even[2:]
    assert len(set(even)) == 2
    assert len(set(odd)) == 4


def test_a_repair_needs_both_its_parts(desk: Desk) -> None:
    trial = desk.plan.trials[0]
    key = desk.scheduler.scores[0].relearn_key
    found = fresh(desk).repair(trial, key)
    assert found is not None
    assert len(found.curve) == 2
    assert found.seconds == SECONDS["relearn"] + SECONDS["evaluate"]
    assert [run.stage for run in found.runs] == ["relearn", "evaluate"]
    for stage, name in (("relearn", key), ("evaluate", desk.keys.evaluation(key))):
        entry = desk.store.read(stage, name)
        assert entry is not None
        desk.store.delete(stage, name)
        assert fresh(desk).repair(trial, key) is None
        desk.store.write(stage, name, entry)


def test_the_curves_of_an_ascent_that_is_gone_are_empty(desk: Desk) -> None:
    found = fresh(desk).scores(desk.plan.trials[0])
    assert found is not None
    assert fresh(desk).ascent(found) == {
        "curve": (),
        "accuracy": (0.5, 0.125),
        "loss": (1.0, 2.0),
    }
    desk.store.delete("unlearn", found.runs[0].key)
    assert fresh(desk).ascent(found) == {}


@pytest.mark.parametrize("stage", ["evaluate", "relearn", "score_neurons"])
def test_damaged_entries_are_not_found(made: Place, copy: Place, stage: str) -> None:
    trial = copy.plan.trials[0]
    scored = made.findings.scores(trial)
    assert scored is not None
    assert copy.findings.repair(trial, scored.relearn_key) is not None
    copy.damage(stage)
    found = copy.findings
    assert (found.scores(trial) is None) is (stage == "score_neurons")
    assert (found.repair(trial, scored.relearn_key) is None) is (stage != "score_neurons")
    assert (found.victim(trial.scenario) is None) is (stage == "evaluate")
