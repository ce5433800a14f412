"""The orders in which decisions are made."""

from typing import Any

import pytest

from orchestrator.plan.plan import Plan, spread
from tests.orchestrator_tests.grids import plan_of, plan_with_every_axis
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice
from ulrl.attacks import Stamp
from ulrl.hyperparameters import Preset


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with_every_axis()


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"unlearn_threshold": (0.1, 0.2, 0.4)}, 1),
        ({"unlearn_threshold": (0.1, 0.2), "reinit_ratio": (0.5, 1.0)}, 3),
        ({"unlearn_threshold": (0.1, 0.4)}, 0),  # the preset's own is not in the grid
        ({"clean_ratio": (0.1,), "unlearn_threshold": (0.1, 0.2)}, 1),  # no choice, no matter
        ({"defence_seed": (5, 6), "unlearn_threshold": (0.1, 0.2)}, 1),
        ({"unlearn_threshold": (0.1, 0.4), "reinit_ratio": (0.5, 1.0)}, 0),  # nor is it here
        ({"defence_seed": (5, None)}, 1),
        ({}, 0),
    ],
)
def test_the_presets_own_setting_goes_first(
    settings: dict[str, tuple[Any, ...]], first: int
) -> None:
    plan = plan_of(settings)
    others = [number for number in range(len(plan.settings)) if number != first]
    assert plan.setting_order == [first, *others]


def test_the_official_presets_own_setting_is_another() -> None:
    settings = {"batchnorm_updates": (1, 2)}
    assert plan_of(settings).setting_order == [0, 1]
    assert plan_of(settings, preset=Preset.OFFICIAL).setting_order == [1, 0]


def test_scenarios_are_shuffled_and_the_attacks_take_turns(plan: Plan) -> None:
    order = plan.scenario_order
    assert sorted(order) == list(range(80))
    attacks = [plan.scenarios[number].columns["attack"] for number in order]
    for turn in range(0, 48, 3):  # sig has 16 scenarios, the others 32
        assert set(attacks[turn : turn + 3]) == {"badnets", "blended", "sig"}
    for turn in range(48, 80, 2):
        assert set(attacks[turn : turn + 2]) == {"badnets", "blended"}
    badnets = [number for number in order if number < 32]
    assert badnets != sorted(badnets)
    assert order == spread(list(plan.scenarios))


def test_variants_of_an_attack_count_as_attacks() -> None:
    late = choice(BADNETS, stamp=Stamp.AFTER_AUGMENTATION)
    plan = plan_of(attacks=[choice(BADNETS), late, choice(BLENDED)], seeds=tuple(range(4)))
    kinds = [number // 4 for number in plan.scenario_order]
    assert all(set(kinds[turn : turn + 3]) == {0, 1, 2} for turn in range(0, 12, 3))
