"""What a right study file means: defaults, axes, entries, and back again."""

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from orchestrator.address import Address
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import load_study, missing_data
from orchestrator.spec.model import (
    AttackChoice,
    Grid,
    LogModels,
    Objective,
    Prune,
    PrunerChoice,
    Resources,
    Study,
    Tracking,
    VictimRule,
)
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes
from ulrl.attacks import LabelRule, Stamp
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended, Pattern
from ulrl.attacks.sig import SIG
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.hyperparameters import Preset
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.recipes import VictimRecipe
from ulrl.scoring import SuspectOrder

pytestmark = pytest.mark.usefixtures("empty_folder")

FULL = """\
name: Sensitivity_2.0-b
preset: official
grid:
  unlearn_milestones: [[10, 20], []]
  attack:
    - badnets
    - {name: blended, alpha: [0.1, 2e-1], pattern: noise, stamp: after_augmentation}
    - {name: sig, labels: [clean_label, all_to_one], poison_ratio: 0.05}
  dataset:
    - cifar10
    - {name: digits, size: [16, 32]}
    - {arrays: data/mine.npz, mean: 0.5, std: [0.2, 0.3, 0.4], flip: yes}
  architecture: [preact_resnet18, {name: preact_resnet18, width: 16}]
  reinit_ratio: [0.25, 0.5, 1]
  suspect_order: [score, index]
  clean_ratio: 1e-2
  defence_seed: [0, 7]
  poison_ratio: [0.1, 0.05]
  target_label: 1
  seed: [0, 1, 2]
exclude:
  - {attack: sig, dataset: {name: digits}}
  - {dataset: cifar10, seed: [1, 2], reinit_ratio: 0.25}
victim: {epochs: 1e1, lr: 5e-2, min_acc: 0.9}
prune:
  curve: {pruner: patient, patience: 2, wrapped: {pruner: median, n_warmup_steps: 3}}
objective: asr
resources: {workers: 2, cpu: 4, gpu: 0.25}
mlflow: {uri: https://mlflow.example.org/base, log_models: none}
store: s3://bucket/store
"""


def test_the_smallest_study_has_every_default(tmp_path: Path) -> None:
    wilcoxon = {"p_threshold": 0.01, "n_startup_steps": 7}
    assert load(SMALL) == Study(
        name="s",
        source="grid.yaml",
        grid=Grid(
            attacks=(AttackChoice(attack=BadNets(), labels=LabelRule.ALL_TO_ONE),),
            datasets=(Digits(),),
            architectures=(PreActResNet18(),),
            poison_ratios=(0.1,),
            target_labels=(0,),
            seeds=(0,),
            settings={},
        ),
        preset=Preset.DEFAULT,
        exclude=(),
        victim=VictimRecipe(),
        victim_rule=VictimRule(),
        prune=Prune(setting=PrunerChoice(pruner="wilcoxon", arguments=wilcoxon), curve=None),
        objective=Objective.DER,
        resources=Resources(workers=None, cpu=1, gpu=None),
        mlflow=Tracking(
            uri=Address(f"sqlite:///{tmp_path}/runs/mlflow.db"), log_models=LogModels.BEST
        ),
        store=Address(f"{tmp_path}/runs/store"),
    )


def test_the_grid_of_a_full_study(tmp_path: Path) -> None:
    study = load(FULL)
    late, grey = Stamp.AFTER_AUGMENTATION, Pattern.NOISE
    assert study.grid.attacks == (
        AttackChoice(attack=BadNets(), labels=LabelRule.ALL_TO_ONE),
        *(
            AttackChoice(
                attack=Blended(alpha=alpha, pattern=grey), labels=LabelRule.ALL_TO_ONE, stamp=late
            )
            for alpha in (0.1, 0.2)
        ),
        *(
            AttackChoice(attack=SIG(), labels=labels, poison_ratio=0.05)
            for labels in (LabelRule.CLEAN_LABEL, LabelRule.ALL_TO_ONE)
        ),
    )
    assert study.grid.datasets == (
        Cifar10(root=f"{tmp_path}/data"),
        Digits(size=16),
        Digits(size=32),
        Arrays(arrays=f"{tmp_path}/data/mine.npz", mean=(0.5,), std=(0.2, 0.3, 0.4), flip=True),
    )
    assert study.grid.architectures == (PreActResNet18(), PreActResNet18(width=16))
    assert study.grid.poison_ratios == (0.1, 0.05)
    assert (study.grid.target_labels, study.grid.seeds) == ((1,), (0, 1, 2))
    # The four columns of every table come first, whatever the file's order.
    assert list(study.grid.settings.items()) == [
        ("defence_seed", (0, 7)),
        ("clean_ratio", (0.01,)),
        ("reinit_ratio", (0.25, 0.5, 1.0)),
        ("unlearn_milestones", ((10, 20), ())),
        ("suspect_order", (SuspectOrder.SCORE, SuspectOrder.INDEX)),
    ]


def test_the_sections_of_a_full_study() -> None:
    study = load(FULL)
    assert (study.name, study.preset) == ("Sensitivity_2.0-b", Preset.OFFICIAL)
    assert study.victim == VictimRecipe.of(epochs=10, lr=0.05)
    assert study.victim_rule == VictimRule(min_acc=0.9)
    assert study.objective is Objective.ASR
    assert study.resources == Resources(workers=2, cpu=4, gpu=0.25)
    uri = "https://mlflow.example.org/base"
    assert study.mlflow == Tracking(uri=Address(uri), log_models=LogModels.NONE)
    assert study.store.reveal() == "s3://bucket/store"


def test_numbers_of_one_type_whatever_way_they_are_written() -> None:
    study = load(f"{SMALL}  reinit_ratio: [1, -0.0, 5e-1]\n  max_suspects: [2.0, 1e0]\n")
    axes = study.grid.settings.values()
    ratios, suspects = (axis for axis in axes if isinstance(axis, tuple))
    assert [str(ratio) for ratio in ratios] == ["1.0", "0.0", "0.5"]
    assert [str(count) for count in suspects] == ["2", "1"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("[10, 20]", ((10, 20),)),
        ("5", ((5,),)),
        ("[[10, 20], 5]", ((10, 20), (5,))),
        ("[[]]", ((),)),
    ],
)
def test_an_axis_of_lists(written: str, meant: tuple[tuple[int, ...], ...]) -> None:
    study = load(f"{SMALL}  unlearn_milestones: {written}\n")
    assert study.grid.settings == {"unlearn_milestones": meant}


@pytest.mark.parametrize("text", [SMALL, FULL])
def test_the_resolved_file_says_all_and_reads_back_the_same(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load(text)
    resolved = resolved_yaml(study)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = load(resolved)
    assert again == study
    assert list(again.grid.settings) == list(study.grid.settings)
    assert resolved_yaml(again) == resolved
    assert pickle.loads(pickle.dumps(study)) == study


def test_the_resolved_file_is_readable(tmp_path: Path) -> None:
    expected = f"""\
# The study as it was resolved: every default is written out, paths are absolute. A preset
# and a recipe stand for their values, which may differ by dataset. *** is a secret.
name: s
preset: default
grid:
  attack:
  - {{name: badnets, size: null, inset: 0, level: 1.0, pattern: null,
    labels: all_to_one, stamp: before_augmentation}}
  dataset:
  - {{name: digits, size: 16}}
  architecture:
  - {{name: preact_resnet18, width: 64, weights: null}}
  reinit_ratio: [0.5, 1.0]
  poison_ratio: [0.1]
  target_label: [0]
  seed: [0]
exclude: []
victim: {{recipe: fast, min_acc: 0.5, min_asr: 0.8}}
prune:
  setting: {{pruner: wilcoxon, p_threshold: 0.01, n_startup_steps: 7}}
  curve: none
objective: der
resources: {{cpu: 1}}
limits: {{attempts: 3}}
budget: {{}}
mlflow: {{uri: 'sqlite:///{tmp_path}/runs/mlflow.db', log_models: best, register: false}}
store: {tmp_path}/runs/store
"""

    def flat(text: str) -> list[str]:
        return text.replace(",\n", ", ").split()

    resolved = resolved_yaml(load(f"{SMALL}  reinit_ratio: [0.5, 1.0]\n"))
    assert flat(resolved) == flat(expected)


@pytest.mark.parametrize(
    "name", ["1e-3", "010", "yes", "null", "3", "0x1f", "2026-01-15", "-", "1_0"]
)
def test_names_that_look_like_something_else_survive(name: str) -> None:
    study = load(SMALL.replace("name: s", f"name: '{name}'"))
    assert study.name == name
    assert load(resolved_yaml(study)).name == name


def test_empty_sections_are_defaults() -> None:
    text = f"{SMALL}victim:\nresources: {{}}\nmlflow:\nexclude:\nprune: {{}}\n"
    assert load(text) == load(SMALL)


def test_a_dataset_file_that_is_not_there_is_no_mistake_yet(tmp_path: Path) -> None:
    text = SMALL.replace("dataset: digits", "dataset: [digits, {arrays: mine.npz}]")
    study = load(text.replace("badnets", "{name: badnets, size: 12}"))
    assert missing_data(study) == [
        f"grid.dataset.1: {tmp_path}/mine.npz is not there; arrays: names an .npz file"
    ]
    labels = np.array([0, 1, 2])
    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "mine.npz",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )
    assert missing_data(study) == []
    assert mistakes(text.replace("badnets", "{name: badnets, size: 12}")) == [
        (
            "3: grid.attack: on arrays(mine.npz), a square of 12 pixels at inset 0 fits "
            "images of at least 12 pixels; got 8"
        ),
        (
            "4: grid.dataset.1: on arrays(mine.npz), clean_ratio 0.01 of 3 training images "
            "is 0 samples, and ULRL needs at least 2: from 0.67 on"
        ),
    ]


def test_the_source_is_the_path_as_given(tmp_path: Path) -> None:
    study = load(SMALL)
    absolute = load_study(str(tmp_path / "grid.yaml"))
    assert absolute == replace(study, source=str(tmp_path / "grid.yaml"))


def test_a_file_is_refused_without_the_heavy_libraries_and_in_time() -> None:
    program = """
import sys, time
from orchestrator.errors import SpecError
from orchestrator.spec.load import load_study
try:
    load_study("grid.yaml")
except SpecError as mistakes:
    print(mistakes)
heavy = ("ray", "optuna", "mlflow", "timm", "pandas", "sklearn", "torchvision")
print([name for name in heavy if name in sys.modules], time.process_time() < 4)
"""
    Path("grid.yaml").write_text(SMALL.replace("badnets", "sgi"), encoding="utf-8")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.splitlines() == [
        "grid.yaml:3: grid.attack: no attack is called 'sgi'; did you mean 'sig'?",
        "[] True",
    ]


@pytest.mark.parametrize(
    ("store", "expected"),
    [
        ("here/store", "{cwd}/here/store"),
        ("/abs/store", "/abs/store"),
        ("~/store", "{home}/store"),
        ("file://rel/store", "{cwd}/rel/store"),
        ("file:///abs/store", "/abs/store"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("gs://bucket", "gs://bucket"),
    ],
)
def test_the_store(
    store: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    found = load(f"{SMALL}store: {store}\n").store
    assert found.reveal() == expected.format(cwd=tmp_path, home="/home/someone")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sqlite:///a/b.db", "sqlite:///{cwd}/a/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:///a.db?timeout=30", "sqlite:///{cwd}/a.db?timeout=30"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
    ],
)
def test_the_tracking_uri(uri: str, expected: str, tmp_path: Path) -> None:
    study = load(f"{SMALL}mlflow: {{uri: '{uri}'}}\n")
    assert study.mlflow.uri.reveal() == expected.format(cwd=tmp_path)
