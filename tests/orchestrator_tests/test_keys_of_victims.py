"""Keys of victims: each part of a scenario changes them, the place of its images does not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.plan.plan import Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.spec.model import Normalisation
from tests.orchestrator_tests.key_cases import (
    ALL,
    all_keys,
    cases,
    changed,
    first_trial,
    ring,
    with_scenario,
)
from tests.orchestrator_tests.small_studies import BADNETS
from ulrl.attacks import Attack, LabelRule, Stamp
from ulrl.attacks._benign import BenignModel
from ulrl.attacks.badnets import BadNets
from ulrl.attacks.blended import Blended
from ulrl.attacks.input_aware import InputAware
from ulrl.attacks.tact import TaCT
from ulrl.datasets import Dataset, Preprocessing
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.cifar10 import Cifar10
from ulrl.datasets.digits import Digits
from ulrl.datasets.tiny_imagenet import TinyImageNet
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison


@pytest.fixture(scope="module")
def trial() -> Trial:
    return first_trial()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {"seed": s.seed + 1},
        lambda _: {"architecture": PreActResNet18(width=2)},
        lambda _: {"dataset": Digits(size=9)},
        lambda s: {"poison": replace(s.poison, poison_ratio=0.2)},
        lambda s: {"poison": replace(s.poison, target_label=1)},
        lambda s: {"poison": replace(s.poison, labels=LabelRule.ALL_TO_ALL)},
        lambda s: {"poison": replace(s.poison, stamp=Stamp.AFTER_AUGMENTATION)},
        lambda s: {"poison": replace(s.poison, attack=BADNETS)},
    ],
)
def test_every_part_of_a_scenario_changes_all_keys(
    trial: Trial, change: Callable[[Scenario], dict[str, Any]]
) -> None:
    other = with_scenario(trial, **change(trial.scenario))
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == ALL


@pytest.mark.parametrize(
    "change",
    [
        lambda _: {"source": "theirs"},
        lambda _: {"architecture": PreActResNet18(width=2)},
        lambda _: {"dataset": Digits(size=9)},
        lambda _: {"normalisation": Normalisation(mean=(0.5,), std=(0.5,))},
        lambda s: {"poison": replace(s.poison, target_label=1)},
        lambda s: {"poison": replace(s.poison, attack=BADNETS)},
    ],
)
def test_every_part_of_an_imported_victim_changes_all_keys_but_its_seed(
    trial: Trial, change: Callable[[Scenario], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.store.keys.fingerprint", lambda source: f"of {source}")
    imported = with_scenario(trial, source="ours")
    before = all_keys(ring(), imported)
    other = with_scenario(imported, **change(imported.scenario))
    assert changed(before, all_keys(ring(), other)) == ALL
    assert changed(before, all_keys(ring(compute=Compute(threads=2)), imported)) == ALL
    seeded = with_scenario(imported, seed=imported.scenario.seed + 1)
    assert all_keys(ring(), seeded)["victim"] == before["victim"]


@pytest.mark.parametrize("attack", cases(Blended(alpha=0.3)))
def test_every_option_of_an_attack_changes_all_keys(trial: Trial, attack: Blended) -> None:
    poison = replace(trial.scenario.poison, attack=attack)
    other = with_scenario(trial, poison=poison)
    assert changed(all_keys(ring(), trial), all_keys(ring(), other)) == ALL


def test_a_new_version_of_an_attack_changes_its_own_keys_only(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = with_scenario(trial, poison=replace(trial.scenario.poison, attack=BADNETS))
    before = [all_keys(ring(), one) for one in (trial, other)]
    monkeypatch.setattr(type(trial.scenario.poison.attack), "version", 2)
    after = [all_keys(ring(), one) for one in (trial, other)]
    assert changed(before[0], after[0]) == ALL
    assert after[1] == before[1]


def test_a_new_version_of_a_helper_changes_its_own_key_only(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = InputAware().helper(trial.scenario.poison)
    benign = BenignModel()
    before = [ring().helper(trial.scenario, one) for one in (mask, benign)]
    monkeypatch.setattr(type(mask), "version", mask.version + 1)
    after = [ring().helper(trial.scenario, one) for one in (mask, benign)]
    assert after[0] != before[0]
    assert after[1] == before[1]


KNOWN = {  # victims that were stored before their attacks had further options
    "badnets": "a1dcd1242f57901f6b55e7f729a685e69a69ac567c35c766beec7f25ec0ced5a",
    "tact": "b0d7a5c12cf183b9092c9eb392d739c76a2b68dcfd6057e749a6c898a9ae1d79",
}


def victim_of(trial: Trial, attack: Attack, dataset: Dataset) -> str:
    labels, source = attack.label_rules[0], attack.default_source
    poison = Poison(attack=attack, labels=labels, source=source)
    return ring().victim(replace(trial.scenario, poison=poison, dataset=dataset))


@pytest.mark.parametrize("attack", [BadNets(), BadNets(size=3), TaCT(size=3)])
def test_stored_victims_of_the_same_trigger_are_found(trial: Trial, attack: Attack) -> None:
    assert victim_of(trial, attack, Cifar10()) == KNOWN[attack.name]


def test_badnets_of_larger_images_is_another_victim_than_the_square_of_three(
    trial: Trial,
) -> None:
    small, large = Digits(), TinyImageNet()
    default, square = BadNets(), BadNets(size=3)
    assert victim_of(trial, default, small) == victim_of(trial, square, small)
    assert victim_of(trial, default, large) != victim_of(trial, square, large)


def test_tact_in_colours_is_another_victim_than_in_white(trial: Trial) -> None:
    for dataset in (Digits(), Cifar10(), TinyImageNet()):
        assert victim_of(trial, TaCT(), dataset) != victim_of(trial, TaCT(size=3), dataset)


def test_the_place_of_a_dataset_changes_nothing(trial: Trial) -> None:
    one, other = (
        with_scenario(trial, dataset=dataset)
        for dataset in (Cifar10(), Cifar10(root="elsewhere", download=False))
    )
    assert all_keys(ring(), one) == all_keys(ring(), other)


def write_arrays(path: Path, level: int = 0, **other: Any) -> Arrays:
    images = np.full((20, 8, 8, 3), level, dtype=np.uint8)
    labels = np.arange(20) % 2
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return Arrays(arrays=str(path), **other)


def test_the_content_of_a_users_file_changes_the_key_and_its_place_does_not(
    tmp_path: Path, trial: Trial
) -> None:
    def key(dataset: Arrays) -> str:
        return ring().victim(replace(trial.scenario, dataset=dataset))

    first = key(write_arrays(tmp_path / "a.npz"))
    assert key(write_arrays(tmp_path / "b.npz")) == first
    assert key(write_arrays(tmp_path / "c.npz", level=1)) != first
    options: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "flip": True, "padding": 3}
    for name, value in options.items():
        assert key(Arrays(arrays=str(tmp_path / "a.npz"), **{name: value})) != first, name


PREPROCESSING = Preprocessing(mean=(0.1,), std=(0.5,), padding=1, flip=False)


@pytest.mark.parametrize("preprocessing", cases(PREPROCESSING))
def test_how_images_are_treated_changes_all_keys(
    trial: Trial, monkeypatch: pytest.MonkeyPatch, preprocessing: Preprocessing
) -> None:
    monkeypatch.setattr(Digits, "preprocessing", PREPROCESSING)
    one = all_keys(ring(), trial)
    monkeypatch.setattr(Digits, "preprocessing", preprocessing)
    assert changed(one, all_keys(ring(), trial)) == ALL
