"""Plans: what a grid expands to, and in which orders."""

import itertools
import json
import time
from collections import Counter
from typing import Any

import pytest

from orchestrator.plan.labels import scenario_text
from orchestrator.plan.plan import Plan, make_plan
from tests.orchestrator_tests.grids import plan_of, plan_with_every_axis
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice
from ulrl.attacks import LabelRule, Stamp
from ulrl.attacks.sig import SIG
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Preset


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_with_every_axis()


def test_counts(plan: Plan) -> None:
    # An entry of the attack axis with its own poison ratio does not multiply by that axis.
    assert len(plan.scenarios) == (2 * 2 + 1) * 2 * 2 * 2 * 2
    assert len(plan.settings) == 9
    assert len(plan.trials) == 80 * 9


def test_numbers_are_places(plan: Plan) -> None:
    assert [scenario.number for scenario in plan.scenarios] == list(range(80))
    assert [setting.number for setting in plan.settings] == list(range(9))
    assert [trial.number for trial in plan.trials] == list(range(720))


def test_trials_are_the_product_in_the_order_of_the_file(plan: Plan) -> None:
    places = [(trial.scenario.number, trial.setting.number) for trial in plan.trials]
    assert places == list(itertools.product(range(80), range(9)))
    assert all(trial.scenario is plan.scenarios[trial.scenario.number] for trial in plan.trials)
    values = [tuple(setting.values.values()) for setting in plan.settings]
    assert values == list(itertools.product((0.1,), (0.4, 0.2, 0.1), (0, 0.5, 1)))
    attacks = [scenario.columns["attack"] for scenario in plan.scenarios]
    assert [name for name, _ in itertools.groupby(attacks)] == ["badnets", "blended", "sig"]


def test_no_scenario_stands_twice(plan: Plan) -> None:
    columns = [json.dumps(scenario.columns) for scenario in plan.scenarios]
    assert len(set(columns)) == len(columns)


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
        ({"attack": ("sig",)}, lambda t: t.scenario.columns["attack"] != "sig"),
        ({"attack": (choice(BLENDED),)}, lambda t: t.scenario.columns["attack"] != "blended"),
        ({"seed": (1,), "alpha": (0.7,)}, lambda t: (t.scenario.seed, alpha(t)) != (1, 0.7)),
        ({"dataset": ("digits",), "seed": (0,)}, lambda t: t.scenario.seed != 0),
        (
            {"dataset": (Digits(size=32),)},
            lambda t: t.scenario.dataset != Digits(size=32),
        ),
        ({"alpha": (0.2, 0.7)}, lambda t: alpha(t) == 0.4),
        (
            {"poison_ratio": (0.05,), "unlearn_epochs": (3,)},
            lambda t: (
                (t.scenario.poison.poison_ratio, t.hyperparameters.unlearn.unlearn_epochs)
                != (0.05, 3)
            ),
        ),
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


def test_two_exclusions_leave_what_neither_matches() -> None:
    plan = plan_of(
        {"alpha": (0.2, 0.7)},
        exclude=[{"attack": ("sig",)}, {"seed": (1,), "alpha": (0.2,)}],
        seeds=(0, 1),
    )
    found = Counter(
        (trial.scenario.columns["attack"], trial.scenario.seed, alpha(trial))
        for trial in plan.trials
    )
    wanted = [(a, s, x) for a in ("badnets", "blended") for s, x in ((0, 0.2), (0, 0.7), (1, 0.7))]
    assert found == Counter(wanted)


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


def test_names_tell_scenarios_apart(plan: Plan) -> None:
    assert len({plan.name_of(scenario) for scenario in plan.scenarios}) == len(plan.scenarios)
    assert len({plan.family_of(scenario) for scenario in plan.scenarios}) == 40
    assert len({setting.text for setting in plan.settings}) == len(plan.settings)


def test_further_axes_are_those_without_a_column_of_their_own() -> None:
    settings = {
        "defence_seed": (None,),
        "reinit_ratio": (1.0,),
        "alpha": (0.7,),
        "z_threshold": (3.5,),
    }
    assert plan_of(settings).further_axes == ("alpha", "z_threshold")


def test_a_hundred_thousand_trials_are_planned_in_seconds() -> None:
    started = time.process_time()
    plan = plan_of(
        {
            "unlearn_threshold": tuple(step / 20 for step in range(20)),
            "reinit_ratio": tuple(step / 10 for step in range(10)),
            "alpha": (0.1, 0.7),
        },
        attacks=[choice(BADNETS), choice(BLENDED)],
        exclude=[{"attack": ("sig",)}, {"seed": (1000,)}],
        seeds=tuple(range(125)),
    )
    seconds = time.process_time() - started
    print(f"{len(plan.trials):,} trials planned in {seconds:.1f} s")  # noqa: T201
    assert len(plan.trials) == 100_000
    assert seconds < 30
