"""Mistakes in the grid, by the whole text that a user reads."""

from pathlib import Path

import numpy as np
import pytest

from tests.orchestrator_tests.spec_files import SMALL, mistakes
from ulrl.attacks import ATTACKS
from ulrl.datasets import DATASETS

ATTACK_NAMES = ", ".join(sorted(ATTACKS))
DATASET_NAMES = ", ".join(sorted(DATASETS))
RATIO_RULE = "poison_ratio is a fraction of the training set, above 0 and at most 0.5"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


AXES_CASES = {
    "sede: 1": ["6: grid.sede: no axis is called 'sede'; did you mean 'seed'?"],
    "seed: []": ["6: grid.seed: seed has no values; list at least one"],
    "seed:": ["6: grid.seed: seed has no values; list at least one"],
    "seed: [0, ~]": ["6: grid.seed.1: seed is a whole number; got nothing"],
    "seed: -1": ["6: grid.seed: seed is at least 0; got -1"],
    "seed: {low: 0, high: 3}": ["6: grid.seed: seed is a whole number; got a mapping"],
    "seed: [1, 1.0, 1e0]": [
        "6: grid.seed.1: 1 stands twice; first at grid.seed.0",
        "6: grid.seed.2: 1 stands twice; first at grid.seed.0",
    ],
    "alpha: [0.7, 0.70]": ["6: grid.alpha.1: 0.7 stands twice; first at grid.alpha.0"],
    "target_label: 10": [
        ("6: grid.target_label: on digits, target_label is one of the 10 classes, 0 to 9; got 10"),
    ],
    "poison_ratio: [0.1, 0]": [f"6: grid.poison_ratio.1: {RATIO_RULE}; got 0.0"],
    "poison_ratio: 1e-5": [
        (
            "6: grid.poison_ratio: on digits, poison_ratio 1e-05 of 1297 training images is no "
            "image; the smallest value is 0.00039"
        ),
    ],
    "clean_ratio: [0.1, 0.001]": [
        (
            "6: grid.clean_ratio.1: on digits, clean_ratio 0.001 of 1297 training images is 1 "
            "sample, and ULRL needs at least 2: from 0.0016 on"
        ),
    ],
    "clean_ratio: 0": [
        (
            "6: grid.clean_ratio: clean_ratio is a fraction of the clean training set, above 0 "
            "and at most 1; got 0.0"
        ),
    ],
    "reinit_ratio: [true]": ["6: grid.reinit_ratio.0: reinit_ratio is a number; got true"],
    "reinit_ratio: .nan": ["6: grid.reinit_ratio: reinit_ratio is a number; got nan"],
    "reinit_ratio: 1.5": [
        (
            "6: grid.reinit_ratio: reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
            "got 1.5"
        ),
    ],
    "unlearn_lr: 0": ["6: grid.unlearn_lr: unlearn_lr is above 0 and at most 100; got 0.0"],
    "max_suspects: 2.5": ["6: grid.max_suspects: max_suspects is a whole number; got 2.5"],
    "zero_mad: infinit": [
        (
            "6: grid.zero_mad: zero_mad is mean_deviation or infinite; got 'infinit'; did you "
            "mean 'infinite'?"
        ),
    ],
    "unlearn_milestones: [[5], [5]]": [
        ("6: grid.unlearn_milestones.1: [5] stands twice; first at grid.unlearn_milestones.0"),
    ],
    "unlearn_milestones: [10, x]": [
        "6: grid.unlearn_milestones.1: unlearn_milestones is a whole number; got 'x'"
    ],
    "unlearn_milestones: [[5], [0]]": [
        "6: grid.unlearn_milestones.1: unlearn_milestones are epochs from 1; got [0]"
    ],
}


@pytest.mark.parametrize(("addition", "expected"), AXES_CASES.items())
def test_axes(addition: str, expected: list[str]) -> None:
    assert mistakes(f"{SMALL}  {addition}\n") == expected


ATTACKS_CASES = {
    "[sig, sgi]": ["3: grid.attack.1: no attack is called 'sgi'; did you mean 'sig'?"],
    "[SIGG]": ["3: grid.attack.0: no attack is called 'SIGG'; did you mean 'sig'?"],
    "zzzz": [f"3: grid.attack: no attack is called 'zzzz'; there are {ATTACK_NAMES}"],
    "[]": ["3: grid.attack: attack has no values; list at least one"],
    "~": ["3: grid.attack: attack has no values; list at least one"],
    "[3]": [
        ("3: grid.attack.0: attack is a name, or a mapping with a name and options; got 3"),
    ],
    "{size: 3}": ["3: grid.attack: the attack has no name; write {name: ..., OPTION: ...}"],
    "{name: 3}": ["3: grid.attack.name: name is a text; got 3; quote it to make it one"],
    "[{name: badnets, pattern: a/x.png}, badnets, {name: badnets, pattern: b/x.png}]": [
        (
            '3: grid.attack.2: the results would call it badnets {"pattern": "x.png"}, as they '
            "do grid.attack.0"
        )
    ],
    "[sig, badnets, sig]": [
        "3: grid.attack.2: the same attack stands twice; first at grid.attack.0"
    ],
    "[sig, {name: sig, labels: clean_label}]": [
        "3: grid.attack.1: the same attack stands twice; first at grid.attack.0"
    ],
    "[{name: badnets, poison_ratio: 0.1}, badnets]": [
        "3: grid.attack.1: the same attack stands twice; first at grid.attack.0"
    ],
    "[{name: blended, alpha: [0.1, 0.2]}, blended]": [
        "3: grid.attack.1: the same attack stands twice; first at grid.attack.0"
    ],
    "{name: blended, alpha: [0.1, 1e-1]}": [
        "3: grid.attack.alpha.1: 0.1 stands twice; first at grid.attack.alpha.0"
    ],
    "{name: badnets, sise: 3}": [
        "3: grid.attack.sise: badnets has no option 'sise'; did you mean 'size'?"
    ],
    "{name: badnets, zzz: 3}": [
        (
            "3: grid.attack.zzz: badnets has no option 'zzz'; it has size, inset, level, pattern, "
            "labels, poison_ratio, stamp, source"
        ),
    ],
    "[badnets, {name: sig, delta: 20.0, frequency: 0}]": [
        ("3: grid.attack.1.delta: delta is in [0, 1] pixel units, so 0 < delta <= 1; got 20.0"),
        "3: grid.attack.1.frequency: frequency is in periods, at least 1; got 0",
    ],
    "{name: badnets, size: [3, 0]}": [
        "3: grid.attack.size.1: size is in pixels, at least 1; got 0"
    ],
    "{name: badnets, size: []}": ["3: grid.attack.size: size has no values; list at least one"],
    "{name: badnets, labels: clean_label}": [
        (
            "3: grid.attack.labels: badnets admits labels all_to_one, all_to_all, source_specific; "
            "got clean_label"
        ),
    ],
    "{name: badnets, poison_ratio: 0}": [f"3: grid.attack.poison_ratio: {RATIO_RULE}; got 0.0"],
    "{name: badnets, stamp: after}": [
        ("3: grid.attack.stamp: stamp is before_augmentation or after_augmentation; got 'after'"),
    ],
    "{name: badnets, size: 17}": [
        (
            "3: grid.attack: on digits, a square of 17 pixels at inset 0 fits images of at least "
            "17 pixels; got 16"
        ),
    ],
    "{name: sig, poison_ratio: 0.2}": [
        (
            "3: grid.attack.poison_ratio: on digits, poison_ratio counts against all 1297 "
            "training images, and clean_label takes them from class 0, which has 128: at most "
            "0.09868; got 0.2"
        ),
    ],
    "[badnets, sig]": [
        (
            "3: grid.attack.1: on digits, poison_ratio counts against all 1297 training images, "
            "and clean_label takes them from class 0, which has 128: at most 0.09868; got 0.1"
        ),
    ],
}


@pytest.mark.parametrize(("entries", "expected"), ATTACKS_CASES.items())
def test_attacks(entries: str, expected: list[str]) -> None:
    text = SMALL.replace("attack: badnets", f"attack: {entries}")
    if "sig" in entries and "counts against" not in expected[0]:
        text = text.replace("dataset: digits", "dataset: cifar10")
    assert mistakes(text) == expected


DATASETS_CASES = {
    "arrays": "4: grid.dataset: arrays cannot stand alone; write {arrays: FILE.npz}",
    "{name: arrays}": "4: grid.dataset: arrays cannot stand alone; write {arrays: FILE.npz}",
    "{arrays: a.npz, men: 3}": (
        "4: grid.dataset.men: arrays has no option 'men'; did you mean 'mean'?"
    ),
    "{arrays: a.npz, std: [0, 1, 1]}": "4: grid.dataset.std: std is a divisor, so above 0; got 0.0",
    "{arrays: a.npz, flip: 1}": "4: grid.dataset.flip: flip is true or false; got 1",
    "{arrays: 3}": "4: grid.dataset.arrays: arrays is a text; got 3; quote it to make it one",
    "{name: digits, arrays: a.npz}": (
        "4: grid.dataset.arrays: digits has no option 'arrays'; it has size"
    ),
    "[digits, {name: digits, size: 16}]": (
        "4: grid.dataset.1: digits stands twice; first at grid.dataset.0"
    ),
    "[{arrays: a/x.npz}, {arrays: b/x.npz}]": (
        "4: grid.dataset.1: the results would call it arrays(x.npz), as they do grid.dataset.0"
    ),
    "[cifar10, {name: cifar10, root: b}]": (
        "4: grid.dataset.1: the results would call it cifar10, as they do grid.dataset.0"
    ),
    "{name: digits, size: [32, 4]}": (
        "4: grid.dataset.size.1: size is a side in pixels, from 8 to 256; got 4"
    ),
}


@pytest.mark.parametrize(("entries", "expected"), DATASETS_CASES.items())
def test_datasets(entries: str, expected: str) -> None:
    assert mistakes(SMALL.replace("dataset: digits", f"dataset: {entries}")) == [expected]


def test_architectures() -> None:
    text = SMALL.replace(
        "architecture: preact_resnet18",
        "architecture:\n  - {name: preact_resnet18, width: 0}\n  - preact_resnet18\n"
        "  - name: preact_resnet18\n    width: 64\n  - preact_resnet19",
    )
    assert mistakes(text) == [
        "6: grid.architecture.0.width: width is in channels, from 1 to 1024; got 0",
        "8: grid.architecture.2: preact_resnet18 stands twice; first at grid.architecture.1",
        (
            "10: grid.architecture.3: no architecture is called 'preact_resnet19'; "
            "did you mean 'preact_resnet18'?"
        ),
    ]


def test_a_dataset_file_that_is_broken(tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", train_images=np.zeros((2, 8, 8, 3), np.uint8))
    text = SMALL.replace("dataset: digits", "dataset: [digits, {arrays: half.npz}]")
    assert mistakes(text) == [
        (
            f"4: grid.dataset.1: {tmp_path}/half.npz lacks train_labels, test_images, test_labels; "
            "it has ['train_images']"
        )
    ]


def test_each_message_comes_once() -> None:
    text = f"{SMALL}  target_label: [0, 11]\n  architecture: x\n"
    text = text.replace("attack: badnets", "attack: [badnets, blended]").replace(
        "  architecture: x\n", "  seed: [0, 1, 2]\n"
    )
    assert mistakes(text) == [
        "6: grid.target_label.1: on digits, target_label is one of the 10 classes, 0 to 9; got 11"
    ]


def test_a_grid_that_is_too_large() -> None:
    seeds = ", ".join(map(str, range(1001)))
    thresholds = ", ".join(str(n / 1000) for n in range(1000))
    text = f"{SMALL}  seed: [{seeds}]\n  unlearn_threshold: [{thresholds}]\n"
    assert mistakes(text) == ["2: grid: a grid has at most 1,000,000 trials; got 1,001,000"]
    options = f"{{name: badnets, size: [{seeds[3:]}], inset: [{seeds}]}}"
    assert mistakes(SMALL.replace("attack: badnets", f"attack: {options}")) == [
        "3: grid.attack: one entry stands for at most 10,000; got 1,001,000"
    ]
