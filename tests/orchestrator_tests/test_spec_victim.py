"""The `victim` section: recipes, and victims that are imported."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.plan.plan import make_plan
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import VictimImport
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.supervised import VictimSchedule

pytestmark = pytest.mark.usefixtures("empty_folder")

TWO = """\
name: s
grid:
  attack: [badnets, {name: blended, alpha: 0.1}, blended]
  dataset: [digits, cifar10]
  architecture: preact_resnet18
"""


def test_a_recipe_with_changes() -> None:
    study = load(SMALL + "victim: {recipe: backdoorbench, epochs: 7, lr: 0.02, min_acc: 0.9}\n")
    assert study.victim == VictimRecipe(
        recipe=Recipe.BACKDOORBENCH, changes={"epochs": 7, "lr": 0.02}
    )
    config = study.victim.config("cifar10", "badnets")
    assert (config.epochs, config.lr, config.nesterov) == (7, 0.02, False)
    assert config.schedule is VictimSchedule.COSINE
    assert study.victim_rule.min_acc == 0.9
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_one_path_for_all() -> None:
    study = load(TWO + "victim: {import: 'zoo/{dataset}_{attack}_{seed}', min_asr: 0.9}\n")
    assert study.imports == (
        VictimImport(path=str(Path("zoo/{dataset}_{attack}_{seed}").absolute())),
    )
    sources = [scenario.source for scenario in make_plan(study).scenarios]
    assert sources[0] == str(Path("zoo/digits_badnets_0").absolute())
    assert sources[-1] == str(Path("zoo/cifar10_blended_0").absolute())
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_a_path_for_each_kind_of_scenario() -> None:
    study = load(
        TWO
        + """\
victim:
  import:
    - {path: a, attack: {name: blended, alpha: 0.1}, dataset: digits}
    - {path: b, attack: [blended, badnets], seed: 0}
"""
    )
    names = [Path(str(scenario.source)).name for scenario in make_plan(study).scenarios]
    assert names == ["b", "b", "a", "b", "b", "b"]
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_the_folders_of_backdoorbenchs_zoo() -> None:
    text = """\
name: s
grid:
  attack: [badnets, input_aware, poison_ink, {name: imported, of: elsewhere}]
  dataset: [cifar10, tiny_imagenet]
  architecture: [preact_resnet18, vit_b_16]
  poison_ratio: [0.1, 0.05]
victim: {import: {backdoorbench: 'zoo/{seed}'}}
"""
    study = load(text)
    sources = {Path(str(one.source)).name for one in make_plan(study).scenarios}
    assert sources == {
        f"{dataset}_{architecture}_{attack}_{ratio}"
        for dataset in ("cifar10", "tiny")
        for architecture in ("preactresnet18", "vit_b_16")
        for attack in ("badnet", "inputaware", "poison_ink", "elsewhere")
        for ratio in ("0_1", "0_05")
    }
    parents = {Path(str(one.source)).parent for one in make_plan(study).scenarios}
    assert parents == {Path("zoo/0").absolute()}
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_the_normalisation_of_a_victim() -> None:
    text = (
        TWO
        + """\
victim:
  import:
    - {path: a, attack: badnets, mean: [0.1, 0.2, 0.3], std: 0.5}
    - {path: b}
"""
    )
    study = load(text)
    for scenario in make_plan(study).scenarios:
        own = scenario.dataset.preprocessing
        if scenario.choice.attack.name == "badnets":
            changed = replace(own, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
            assert scenario.preprocessing == changed != own
        else:
            assert scenario.preprocessing == own
    Path("again.yaml").write_text(resolved_yaml(study))
    assert load(Path("again.yaml").read_text()) == study


def test_an_imported_attack_wants_an_import() -> None:
    text = SMALL.replace("badnets", "[{name: imported, of: mine}, badnets]")
    (line,) = mistakes(text)
    assert "imported attacks come with their victims" in line
    assert load(text + "victim: {import: 'zoo/{attack}'}\n").imports
