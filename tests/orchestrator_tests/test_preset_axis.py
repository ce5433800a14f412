"""Presets as an axis of the grid, and axes whose values may be none."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Study
from tests.orchestrator_tests.grids import plan_of
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.scoring import SuspectOrder

pytestmark = pytest.mark.usefixtures("empty_folder")

DEFAULT, OFFICIAL, FINE_TUNING = Preset


def plan(addition: str) -> Plan:
    return make_plan(load(f"{SMALL}  {addition}\n"))


def test_each_setting_has_the_values_of_its_preset() -> None:
    found = plan("preset: [official, fine_tuning, default]")
    assert [setting.text for setting in found.settings] == [
        *("preset=official", "preset=fine_tuning", "preset=default")
    ]
    for trial, preset in zip(found.trials, (OFFICIAL, FINE_TUNING, DEFAULT), strict=True):
        assert trial.setting.values["preset"] is preset
        assert trial.hyperparameters == assemble(preset_values(preset, "digits"))


def test_a_presets_values_are_those_of_the_dataset() -> None:
    found = plan_of({"preset": (OFFICIAL, FINE_TUNING)}, datasets=(Cifar10(), Digits()))
    for trial in found.trials:
        name = trial.scenario.dataset.name
        values = preset_values(trial.setting.values["preset"], name)
        assert trial.hyperparameters == assemble(values)


def test_an_axis_goes_before_the_preset() -> None:
    """Fine-tuning's cap of 0 too: then it is ULRL with another relearning."""
    found = plan("preset: [default, official, fine_tuning]\n  max_suspects: [2, 5]")
    parts = [trial.hyperparameters for trial in found.trials]
    assert [part.score.max_suspects for part in parts] == [2, 5] * 3
    assert [part.score.suspect_order for part in parts] == [
        *[SuspectOrder.SCORE] * 2,
        *[SuspectOrder.INDEX] * 2,
        *[SuspectOrder.SCORE] * 2,
    ]
    assert [part.relearn.relearn_epochs for part in parts] == [20] * 4 + [100] * 2


def test_presets_share_what_they_agree_in() -> None:
    """Ascent and clean samples are the same in all three."""
    parts = [t.hyperparameters for t in plan("preset: [default, official, fine_tuning]").trials]
    assert len({(part.clean, part.unlearn) for part in parts}) == 1
    assert len({part.relearn for part in parts}) == 3


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({"preset": (OFFICIAL, DEFAULT)}, 1),
        ({"preset": (OFFICIAL, FINE_TUNING)}, 0),  # the default is not in the grid
        ({"preset": (FINE_TUNING, DEFAULT), "unlearn_threshold": (0.1, 0.2)}, 3),
        ({"preset": (OFFICIAL,), "unlearn_threshold": (0.1, 0.2)}, 1),
    ],
)
def test_the_default_goes_first_if_it_is_there(
    settings: dict[str, tuple[Any, ...]], first: int
) -> None:
    assert plan_of(settings).setting_order[0] == first


EVERY_SWITCH = """\
  preset: [official, default]
  max_suspects: [2, ~]
  unlearn_clip_norm: ~
  relearn_clip_norm: [~, 5]
  layers: [head, all]
  score: [l1, l2, relative]
  score_bias: [true, false]
  unlearn_precision: [fp32, bf16]
"""


def test_values_that_may_be_none() -> None:
    study = load(SMALL + EVERY_SWITCH)
    settings = study.grid.settings
    assert settings["max_suspects"] == (2, None)
    assert settings["unlearn_clip_norm"] == (None,)
    assert settings["relearn_clip_norm"] == (None, 5.0)
    assert settings["score_bias"] == (True, False)
    made = make_plan(study)
    assert len(made.settings) == 2 * 2 * 2 * 2 * 3 * 2 * 2
    assert {t.hyperparameters.score.max_suspects for t in made.trials} == {2, None}
    assert {t.hyperparameters.unlearn.unlearn_clip_norm for t in made.trials} == {None}
    assert {t.hyperparameters.relearn.relearn_clip_norm for t in made.trials} == {None, 5.0}
    assert made.settings[-1].text == (
        "preset=default, max_suspects=none, relearn_clip_norm=5.0, layers=all, score=relative, "
        "score_bias=False, unlearn_precision=bf16"
    )


def there_and_back(text: str) -> Study:
    study = load(text)
    Path("resolved.yaml").write_text(resolved_yaml(study), encoding="utf-8")
    return load(Path("resolved.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        SMALL + EVERY_SWITCH,
        f"{SMALL}  preset: fine_tuning\n",
        f"{SMALL}preset: fine_tuning\n",
        f"{SMALL}  preset: [default, official]\nexclude: [{{preset: official, seed: 0}}]\n".replace(
            ", seed: 0", ""
        ),
        f"{SMALL}victim: {{recipe: backdoorbench, epochs: 5, period: ~, precision: amp}}\n",
    ],
)
def test_the_resolved_file_gives_the_study_back(text: str) -> None:
    assert there_and_back(text) == load(text)


def test_the_resolved_file_says_the_preset_once() -> None:
    said = resolved_yaml(load(f"{SMALL}  preset: [official, default]\n"))
    assert said.count("preset:") == 1
    assert "\n  preset: [official, default]\n" in said
    assert "\npreset: official\n" in resolved_yaml(load(f"{SMALL}preset: official\n"))


def test_presets_can_be_excluded() -> None:
    text = f"{SMALL}  preset: [default, official]\n  seed: [0, 1]\n"
    found = make_plan(load(f"{text}exclude: [{{preset: official, seed: 1}}]\n"))
    points = [(t.setting.values["preset"], t.scenario.seed) for t in found.trials]
    assert points == [(DEFAULT, 0), (OFFICIAL, 0), (DEFAULT, 1)]


def test_a_recipe_and_its_changes() -> None:
    study = load(f"{SMALL}victim: {{recipe: backdoorbench, epochs: 5, lr: 2e-2}}\n")
    changes = {"epochs": 5, "lr": 0.02}
    assert study.victim == VictimRecipe(recipe=Recipe.BACKDOORBENCH, changes=changes)
    assert study.victim.config("gtsrb", "badnets").period is None
