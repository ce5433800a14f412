"""Presets as an axis of the grid, and axes whose values may be none."""

from pathlib import Path

import pytest

from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Study
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.hyperparameters import Preset, assemble, preset_values
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


def test_presets_can_be_excluded() -> None:
    text = f"{SMALL}  preset: [default, official]\n  seed: [0, 1]\n"
    found = make_plan(load(f"{text}exclude: [{{preset: official, seed: 1}}]\n"))
    points = [(t.setting.values["preset"], t.scenario.seed) for t in found.trials]
    assert points == [(DEFAULT, 0), (OFFICIAL, 0), (DEFAULT, 1)]
