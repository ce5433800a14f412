"""Plans: what a grid expands to, and in which orders."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.cost_model import lengths
from orchestrator.plan.labels import scenario_text
from orchestrator.plan.plan import Plan, Scenario, make_plan, spread
from tests.orchestrator_tests.grids import plan_of, plan_with_every_axis
from tests.orchestrator_tests.pruned_studies import study_of
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice
from ulrl.attacks import LabelRule, Stamp
from ulrl.attacks.lc import LC
from ulrl.attacks.sig import SIG
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Preset
from ulrl.models.preact_resnet import PreActResNet18


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with_every_axis()


def test_trials_are_the_product_in_the_order_of_the_file(plan: Plan) -> None:
    places = [(trial.scenario.number, trial.setting.number) for trial in plan.trials]
    assert places == list(itertools.product(range(80), range(9)))
    assert all(trial.scenario is plan.scenarios[trial.scenario.number] for trial in plan.trials)
    values = [tuple(setting.values.values()) for setting in plan.settings]
    assert values == list(itertools.product((0.1,), (0.4, 0.2, 0.1), (0, 0.5, 1)))
    attacks = [scenario.columns["attack"] for scenario in plan.scenarios]
    assert [name for name, _ in itertools.groupby(attacks)] == ["badnets", "blended", "sig"]


def test_an_attacks_own_poison_ratio_counts(plan: Plan) -> None:
    ratios = {
        (scenario.columns["attack"], scenario.poison.poison_ratio) for scenario in plan.scenarios
    }
    assert ratios == {
        *itertools.product(("badnets", "blended"), (0.1, 0.2)),
        ("sig", 0.05),
    }


def test_a_trial_has_what_its_scenario_and_setting_say(plan: Plan) -> None:
    for trial in plan.trials:
        parts = trial.hyperparameters
        values = trial.setting.values
        assert parts.clean.clean_ratio == values["clean_ratio"]
        assert parts.score.unlearn_threshold == values["unlearn_threshold"]
        assert parts.reset.reinit_ratio == values["reinit_ratio"]
        assert trial.defence_seed == trial.scenario.seed
        assert trial.scenario.poison.attack is trial.scenario.choice.attack


def test_by_place(plan: Plan) -> None:
    assert len(plan.by_place) == 720
    for (setting, scenario), trial in plan.by_place.items():
        assert (trial.setting.number, trial.scenario.number) == (setting, scenario)


def test_the_same_study_gives_the_same_plan(plan: Plan) -> None:
    assert make_plan(plan.study) == plan


def test_presets_reach_the_trials() -> None:
    (trial,) = plan_of(attacks=[choice(BADNETS)], preset=Preset.OFFICIAL).trials
    assert trial.hyperparameters.relearn.batchnorm_updates == 2
    (trial,) = plan_of(attacks=[choice(BADNETS)]).trials
    assert trial.hyperparameters.relearn.batchnorm_updates == 1
    assert trial.setting.text == "the preset"


def test_defence_seeds() -> None:
    plan = plan_of({"defence_seed": (None, 7)}, attacks=[choice(BADNETS)], seeds=(3, 4))
    found = [(trial.scenario.seed, trial.defence_seed) for trial in plan.trials]
    assert found == [(3, 3), (3, 7), (4, 4), (4, 7)]
    assert [setting.text for setting in plan.settings] == ["defence_seed=seed", "defence_seed=7"]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        ({"attack": (choice(BLENDED),)}, lambda t: t.scenario.columns["attack"] != "blended"),
        ({"seed": (1,), "alpha": (0.7,)}, lambda t: (t.scenario.seed, alpha(t)) != (1, 0.7)),
        ({"dataset": ("digits",), "seed": (0,)}, lambda t: t.scenario.seed != 0),
        ({"alpha": (0.2, 0.7)}, lambda t: alpha(t) == 0.4),
    ],
)
def test_exclude(conditions: dict[str, tuple[Any, ...]], left: Any) -> None:
    axes: dict[str, Any] = {
        "settings": {"alpha": (0.2, 0.4, 0.7), "unlearn_epochs": (2, 3)},
        "datasets": (Digits(), Digits(size=32)),
        "seeds": (0, 1),
    }
    plan, whole = plan_of(exclude=[conditions], **axes), plan_of(**axes)
    wanted = [point(trial) for trial in whole.trials if left(trial)]
    assert 0 < len(wanted) < len(whole.trials)
    assert [point(trial) for trial in plan.trials] == wanted
    assert [scenario.number for scenario in plan.scenarios] == list(range(len(plan.scenarios)))
    assert [trial.number for trial in plan.trials] == list(range(len(plan.trials)))
    assert {trial.scenario.number for trial in plan.trials} == set(range(len(plan.scenarios)))
    assert sorted(plan.scenario_order) == list(range(len(plan.scenarios)))


def alpha(trial: Any) -> float:
    return float(trial.hyperparameters.relearn.alpha)


def point(trial: Any) -> tuple[str, dict[str, Any]]:
    return trial.scenario.text, trial.setting.values


# What people read.


def test_columns() -> None:
    entries = [
        choice(BLENDED),
        choice(SIG(), LabelRule.CLEAN_LABEL),
        choice(SIG(), stamp=Stamp.AFTER_AUGMENTATION),
    ]
    plan = plan_of(attacks=entries, datasets=(Cifar10(root="some/where"),), seeds=(4,))
    columns = [scenario.columns for scenario in plan.scenarios]
    assert columns[0] == {
        "attack": "blended",
        "attack_options": '{"alpha": 0.3}',
        "dataset": "cifar10",
        "architecture": "preact_resnet18",
        "poison_ratio": 0.1,
        "target_label": 0,
        "seed": 4,
    }
    assert columns[1]["attack_options"] == "{}"
    assert json.loads(columns[2]["attack_options"]) == {
        "labels": "all_to_one",
        "stamp": "after_augmentation",
    }


def test_texts() -> None:
    plan = plan_of(
        {"clean_ratio": (0.1,), "alpha": (0.2, 0.7)},
        attacks=[choice(BADNETS), choice(BLENDED)],
        seeds=(0, 1),
    )
    scenario = plan.scenarios[3]
    assert scenario.text == (
        "blended alpha=0.3, digits, preact_resnet18, poison_ratio=0.1, target_label=0, seed=1"
    )
    assert plan.name_of(scenario) == "blended alpha=0.3, seed=1"
    assert plan.family_of(scenario) == "blended alpha=0.3"
    assert plan.settings[1].text == "alpha=0.7"
    assert plan.trials[5].name == "trial-00005"
    assert scenario_text(scenario.columns, frozenset({"attack_options"})).startswith("blended, ")


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
