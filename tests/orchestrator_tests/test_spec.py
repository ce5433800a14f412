"""What a right study file means: defaults, axes, entries, overrides, and back again."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.address import Address
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.load import missing_data
from orchestrator.spec.model import (
    STAGES,
    ArchitectureRequest,
    AttackChoice,
    Budget,
    Grid,
    Limits,
    LogModels,
    Objective,
    Prune,
    PrunerChoice,
    ResourceRequest,
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
from ulrl.datasets.gtsrb import Gtsrb
from ulrl.hyperparameters import Preset
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.timm_model import TimmModel
from ulrl.models.vit import ViTB16
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
        f"grid.yaml:4: grid.dataset.1: {tmp_path}/mine.npz is not there; arrays: names an .npz file"
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
        ("~/store", "{home}/store"),
        ("file://rel/store", "{cwd}/rel/store"),
        ("file:///abs/store", "/abs/store"),
        ("s3://bucket/key", "s3://bucket/key"),
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
        ("sqlite:///a.db?timeout=30", "sqlite:///{cwd}/a.db?timeout=30"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("mysql+pymysql://u@h/d", "mysql+pymysql://u@h/d"),
    ],
)
def test_the_tracking_uri(uri: str, expected: str, tmp_path: Path) -> None:
    study = load(f"{SMALL}mlflow: {{uri: '{uri}'}}\n")
    assert study.mlflow.uri is not None
    assert study.mlflow.uri.reveal() == expected.format(cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "overrides", "log_models"),
    [
        ("mlflow: none\n", [], LogModels.BEST),
        ("mlflow: {uri: none, log_models: all}\n", [], LogModels.ALL),
        (
            "mlflow: {uri: 'http://localhost:5000', register: true}\n",
            ["mlflow=none"],
            LogModels.BEST,
        ),
        ("", ["mlflow.uri=none", "mlflow.log_models=all"], LogModels.ALL),
    ],
)
def test_a_study_without_mlflow(text: str, overrides: list[str], log_models: LogModels) -> None:
    study = load(SMALL + text, *overrides)
    assert study.mlflow == Tracking(uri=None, log_models=log_models)
    assert load(resolved_yaml(study)) == study


def with_architectures(entries: str) -> str:
    return SMALL.replace("preact_resnet18", entries)


RESNET18, RESNET10T = TimmModel(model="resnet18"), TimmModel(model="resnet10t")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("timm:resnet18", [RESNET18]),
        ("{name: timm, model: [resnet18, resnet10t]}", [RESNET18, RESNET10T]),
        (
            "{name: 'timm:resnet18', size: [32, ~]}",
            [TimmModel(model="resnet18", size=32), RESNET18],
        ),
        ("['timm:resnet18', preact_resnet18]", [RESNET18, PreActResNet18()]),
    ],
)
def test_entries(entry: str, expected: list[object]) -> None:
    study = load(with_architectures(entry))
    assert list(study.grid.architectures) == expected
    assert load(resolved_yaml(study)).grid == study.grid


def test_paths_of_weights_become_absolute_and_words_stay() -> None:
    study = load(with_architectures("{name: vit_b_16, weights: [imagenet, w/a.pth, ~]}"))
    architectures = study.grid.architectures
    expected = ["imagenet", str(Path.cwd() / "w" / "a.pth"), None]
    assert [getattr(each, "weights", "") for each in architectures] == expected
    labels = ["vit_b_16(weights=imagenet)", "vit_b_16(weights=a.pth)", "vit_b_16"]
    assert [each.label for each in architectures] == labels
    assert architectures[2] == ViTB16()
    (line,) = missing_data(study)
    assert line.startswith("grid.yaml:5: grid.architecture: ")
    assert "a.pth" in line


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("https://mirror.example/gtsrb", "https://mirror.example/gtsrb"),
        ("archives", "{here}/archives"),
        ("~", None),
    ],
)
def test_a_mirror_is_an_address_or_a_folder(
    tmp_path: Path, mirror: str, expected: str | None
) -> None:
    entry = f"{{name: gtsrb, root: pictures, mirror: {mirror}}}"
    study = load(SMALL.replace("digits", entry))
    place = None if expected is None else expected.format(here=tmp_path)
    assert study.grid.datasets == (Gtsrb(root=str(tmp_path / "pictures"), mirror=place),)
    assert load(resolved_yaml(study)) == study


def test_overrides() -> None:
    study = load(
        SMALL.replace("attack: badnets", "attack: [badnets, {name: blended, alpha: 0.3}]"),
        "grid.attack.0={name: sig, delta: 1e-1}",
        "grid.attack.1.alpha=0.4",
        "grid.seed=[3, 4]",
        "grid.poison_ratio=0.05",
        "victim.epochs=7",
        "prune.setting.p_threshold=0.05",
        "mlflow.uri=postgresql+psycopg2://u:p=q@host/db?sslmode=require",
        "name=first",
        " name =second",
        "preset=official",
    )
    clean = LabelRule.CLEAN_LABEL
    assert study.grid.attacks == (
        AttackChoice(attack=SIG(delta=0.1), labels=clean),
        AttackChoice(attack=Blended(alpha=0.4), labels=LabelRule.ALL_TO_ONE),
    )
    assert (study.grid.seeds, study.grid.poison_ratios) == ((3, 4), (0.05,))
    assert study.victim.config("digits", "badnets").epochs == 7
    assert study.prune.setting == PrunerChoice(
        pruner="wilcoxon", arguments={"p_threshold": 0.05, "n_startup_steps": 7}
    )
    assert study.mlflow.uri is not None
    assert study.mlflow.uri.reveal() == "postgresql+psycopg2://u:p=q@host/db?sslmode=require"
    assert (study.name, study.preset) == ("second", Preset.OFFICIAL)
    assert study.source == "grid.yaml"


WRONG = {
    "seed": "an override is KEY=VALUE, its key a dotted path such as grid.seed",
    "grid..seed=3": "an override is KEY=VALUE, its key a dotted path such as grid.seed",
    "grid.seed=[1": (
        "grid.seed: this is not YAML: while parsing a flow sequence, expected ',' or ']', "
        "but got '<stream end>'"
    ),
    "grid.seed=!!int 3": "grid.seed: YAML tags are not read here; got !!int",
    "grid.seed=[1, 1]": "grid.seed.1: 1 stands twice; first at grid.seed.0",
    "grid.seed=": "grid.seed: seed has no values; list at least one",
    "gird.seed=1": "gird: unknown key; did you mean 'grid'?",
    "grid.dataset.0.size=3": (
        "grid.dataset.0.size: grid.dataset has no keys, so there is no grid.dataset.0 to set"
    ),
    "exclude.1.seed=3": "exclude.1.seed: exclude has 1 item, so there is no exclude.1 to set",
}


@pytest.mark.parametrize(("override", "expected"), WRONG.items())
def test_overrides_that_are_wrong(override: str, expected: str) -> None:
    text = f"{SMALL}  target_label: [0, 1]\nexclude: [{{target_label: 1}}]\n"
    assert mistakes(text, override) == [f"--set {override}: {expected}"]


RESOURCES = """\
resources:
  workers: 3
  gpu: 0.25
  stages: {train_victim: {gpu: 1, cpu: 2}, relearn: {gpu: 0.5}}
  architectures: {preact_resnet18: {gpu: 2, stages: {relearn: {gpu: 0.125}}}}
limits: {minutes: {train_victim: 90, relearn: 1.5}, attempts: 5}
budget: {hours: 8, trials: 500}
"""


def test_everything_said() -> None:
    study = load(SMALL + RESOURCES)
    assert study.resources == Resources(
        workers=3,
        cpu=1,
        gpu=0.25,
        device=None,
        stages={"train_victim": ResourceRequest(gpu=1, cpu=2), "relearn": ResourceRequest(gpu=0.5)},
        architectures={
            "preact_resnet18": ArchitectureRequest(
                gpu=2, stages={"relearn": ResourceRequest(gpu=0.125)}
            )
        },
    )
    assert study.limits == Limits(minutes={"train_victim": 90, "relearn": 1.5}, attempts=5)
    assert study.budget == Budget(hours=8, trials=500)
    again = load(resolved_yaml(study))
    assert again.resources == study.resources
    assert again.limits == study.limits
    assert again.budget == study.budget


def test_the_most_particular_line_counts() -> None:
    asked = load(SMALL + RESOURCES).resources.asked
    assert asked("relearn", "preact_resnet18") == (1, 0.125)
    assert asked("train_victim", "preact_resnet18") == (2, 2)
    assert asked("unlearn", "preact_resnet18") == (1, 2)
    assert asked("relearn", "vgg19_bn") == (1, 0.5)
    assert asked("train_victim", "vgg19_bn") == (2, 1)
    assert asked("train_helper", "vgg19_bn") == (1, 0.25)


def test_one_number_of_minutes_is_every_stage() -> None:
    assert load(SMALL + "limits: {minutes: 30}\n").limits.minutes == dict.fromkeys(STAGES, 30)


@pytest.mark.parametrize("value", ["null", "none", "~", ""])
@pytest.mark.parametrize(
    "section", ["audit", "metrics", "plugins", "exclude", "search", "labels", "optuna"]
)
def test_a_section_that_may_be_left_out_may_say_so(section: str, value: str) -> None:
    assert load(f"{SMALL}{section}: {value}\n") == load(SMALL)


def test_a_preset_is_refused_only_where_nothing_has_it() -> None:
    methods = f"{SMALL}  repair: [clp, fine_tuning]\n"
    assert load(f"{methods}preset: default\n") == load(methods)  # as the resolved study says
    assert load(f"{SMALL}  repair: [clp, ulrl]\npreset: official\n").preset is Preset.OFFICIAL
