"""Every pruner of Optuna through the whole bridge: it cuts, and the same however work arrives."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from orchestrator.spec.model import Prune, PrunerChoice, Study
from orchestrator.spec.sections import CURVE_PRUNERS
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study

EPOCHS = 6
ARGUMENTS: dict[str, dict[str, Any]] = {
    "median": {"n_startup_trials": 2, "n_warmup_steps": 1},
    "percentile": {"percentile": 40.0, "n_startup_trials": 2},
    "successive_halving": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "max_resource": EPOCHS, "reduction_factor": 2},
    "threshold": {"lower": 0.62, "n_warmup_steps": 2},
    "patient": {
        "wrapped": PrunerChoice(pruner="median", arguments={"n_startup_trials": 2}),
        "patience": 0,
        "min_delta": 0.0,
    },
}


def study_of(pruner: str, place: Path) -> Study:
    return small_study(
        store=f"memory://{place}/store",
        attacks=[choice(BADNETS)],
        settings={"alpha": tuple(round(0.3 + 0.1 * step, 1) for step in range(10))},
        grid={"seeds": (0, 1)},
        few={"relearn_epochs": (EPOCHS,)},
        prune=Prune(curve=PrunerChoice(pruner=pruner, arguments=ARGUMENTS[pruner])),
    )


def test_every_pruner_of_curves_is_tried() -> None:
    assert {*ARGUMENTS} == {*CURVE_PRUNERS}


@pytest.mark.parametrize("pruner", CURVE_PRUNERS)
def test_a_pruner_cuts_running_trials(pruner: str, tmp_path: Path) -> None:
    tables = []
    for count in (1, 3):
        place = tmp_path / str(count)
        place.mkdir()
        desk = Desk(study_of(pruner, place), place)
        workers = Workers(Random(count), count)
        workers.run(desk)
        tables.append(desk.rows())
        statuses = desk.statuses()
        assert 0 < statuses.count("pruned") < len(statuses), pruner
        assert set(statuses) == {"done", "pruned"}
        prunings = desk.scheduler.decisions.prunings
        assert len(prunings) == statuses.count("pruned")
        assert all(1 <= pruning.evidence.step <= EPOCHS for pruning in prunings)
        relearned = sum(stage == "relearn" for stage, _ in workers.executed)
        if count == 1:  # with several, what runs ahead of a decision is stored too
            assert relearned == statuses.count("done")
            assert any(pruning.evidence.step < EPOCHS for pruning in prunings)
    assert tables[0] == tables[1]
