"""Preparation begins with what takes longest, and that changes no result."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.cost_model import lengths
from orchestrator.plan.plan import Scenario
from tests.orchestrator_tests.grids import plan_of
from tests.orchestrator_tests.pruned_studies import study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, choice
from ulrl.attacks import LabelRule
from ulrl.attacks.lc import LC
from ulrl.datasets.digits import Digits
from ulrl.models.preact_resnet import PreActResNet18


def test_wider_networks_larger_images_and_helpers_take_longer() -> None:
    plan = plan_of(
        {"alpha": (0.7,)},
        attacks=[choice(BADNETS), choice(LC(), LabelRule.CLEAN_LABEL, poison_ratio=0.05)],
        datasets=(Digits(), Digits(size=32)),
        architectures=(PreActResNet18(width=4), PreActResNet18(width=8)),
    )
    length = lengths(plan)
    found = {
        (s.choice.attack.name, s.dataset.info().side, s.architecture.label): length(s)  # type: ignore[union-attr]
        for s in plan.scenarios
    }
    narrow, wide = "preact_resnet18(width=4)", "preact_resnet18(width=8)"
    assert 3 < found["badnets", 16, wide] / found["badnets", 16, narrow] < 4.5
    assert 3 < found["badnets", 32, narrow] / found["badnets", 16, narrow] < 4.5
    assert found["lc", 16, narrow] > 2 * found["badnets", 16, narrow]


def test_networks_are_not_looked_at_where_they_are_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.plan.cost_model.size_of", None)
    plan = plan_of({"alpha": (0.7,)}, attacks=[choice(BADNETS)], seeds=(0, 1))
    first, second = map(lengths(plan), plan.scenarios)
    assert first == second > 0


def test_the_longest_victims_go_first_and_results_stay(
    tmp_path: Path, store: str, reference: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(study_of("both", store), tmp_path)

    def length(scenario: Scenario) -> float:
        return [3.0, 1.0, 5.0, 1.0, 4.0, 9.0][scenario.number]

    plan, recorder, begin = desk.plan, desk.recorder, desk.scheduler.open
    monkeypatch.setattr(desk.scheduler, "open", lambda: begin(length))
    Workers(count=6).run(desk)
    names = [name for name in recorder.started_items if name.startswith("victim")]
    ties = [n for n in plan.scenario_order if n in (1, 3)]
    assert names == [f"victim-{n:04d}" for n in (5, 2, 4, 0, *ties)]
    assert desk.rows() == reference["both"]
