"""A recorded grid, decided anew, is what a study with that pruner would have decided."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.recorded_grid import Grid, grid_of, replay, sub_study
from orchestrator.spec.model import Prune, PrunerChoice
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import (
    BADNETS,
    BLENDED,
    MEDIAN,
    WILCOXON,
    choice,
    small_study,
)

EPOCHS = 3


def desk_of(place: str, folder: Path, prune: Prune) -> Desk:
    study = small_study(
        store=f"memory://{place}",
        attacks=[choice(BADNETS), choice(BLENDED)],
        settings={"alpha": (0.3, 0.5, 0.7, 0.9)},
        grid={"seeds": (0, 1, 2, 3)},
        few={"relearn_epochs": (EPOCHS,)},
        prune=prune,
    )
    desk = Desk(study, folder)
    Workers(Random(1)).run(desk)
    return desk


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    folder = tmp_path_factory.mktemp("recorded")
    desk = desk_of(str(folder), folder, Prune())
    return grid_of(desk.plan, desk.findings)


@pytest.mark.parametrize("prune", [Prune(setting=WILCOXON), Prune(curve=MEDIAN)])
def test_a_replay_saves_what_a_real_study_with_the_pruner_saves(
    recorded: Grid, tmp_path: Path, prune: Prune
) -> None:
    desk = desk_of(str(tmp_path), tmp_path, prune)
    statuses = desk.statuses()
    found = replay(recorded, replace(recorded.plan, study=desk.plan.study))
    assert 0 < statuses.count("pruned") < len(statuses)
    assert found.trials == pytest.approx(statuses.count("pruned") / len(statuses))
    cut = [p.evidence.step for p in desk.conductor.decisions.prunings if p.level == "curve"]
    run = EPOCHS * statuses.count("done") + sum(cut)  # alphas share no relearning
    assert found.epochs == pytest.approx(1 - run / (EPOCHS * len(statuses)))


def test_without_a_pruner_nothing_is_saved_lost_or_regretted(recorded: Grid) -> None:
    found = replay(recorded, recorded.plan)
    assert (found.trials, found.epochs, found.lost, found.regret) == (0, 0, False, 0)
    assert found.seconds == pytest.approx(0)


def test_who_gives_up_the_best_setting_regrets_it(recorded: Grid) -> None:
    """A threshold that nothing but the worst settings passes."""
    best = max(
        recorded.plan.settings,
        key=lambda s: sum(p.value for (n, _), p in recorded.points.items() if n == s.number),
    )
    points = {
        place: replace(point, curve=(0.1,) * EPOCHS if place[0] == best.number else (0.9,) * EPOCHS)
        for place, point in recorded.points.items()
    }
    lower = Prune(curve=PrunerChoice(pruner="threshold", arguments={"lower": 0.5}))
    plan = replace(recorded.plan, study=replace(recorded.plan.study, prune=lower))
    found = replay(replace(recorded, points=points), plan)
    assert found.lost
    assert found.trials == 1 / 4
    assert found.regret > 0


def test_a_sub_study_has_its_seeds_and_lets_attacks_take_turns(recorded: Grid) -> None:
    plan = sub_study(recorded, (0, 2, 3), Prune(), Random(3))
    assert {scenario.seed for scenario in plan.scenarios} == {0, 2, 3}
    assert len(plan.trials) == 4 * 6
    attacks = [recorded.plan.scenarios[n].choice.attack.name for n in plan.scenario_order]
    assert all(set(attacks[at : at + 2]) == {"badnets", "blended"} for at in (0, 2, 4))
    assert sorted(plan.setting_order) == [0, 1, 2, 3]
