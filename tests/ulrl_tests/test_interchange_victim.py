"""A victim from outside in one step: what is accepted, compared and keyed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.ulrl_tests.backdoorbench import (
    as_numpy_1,
    dataset_dict,
    result,
    rewrite_pickle,
    write_pngs,
    write_run,
)
from tests.ulrl_tests.states import refusal
from tests.ulrl_tests.tiny_networks import Victims
from ulrl.attacks import LabelRule, stamp_bytes
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet
from ulrl.interchange import (
    ImportedVictim,
    check_scenario,
    export_model,
    fingerprint,
    imported_test_sets,
    load_victim,
    zoo_name,
)
from ulrl.metrics import measure
from ulrl.models import Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets
from ulrl.randomness import generator

COUNT = 150  # test images


@pytest.fixture
def victim(victim_of: Victims) -> Weights:
    return victim_of(0)


@pytest.fixture
def pngs(badnets: Poison, pictures: ImageSet) -> dict[tuple[int, int], torch.Tensor]:
    stamps = stamp_bytes(BadNets(size=4), pictures.test_images, generator(0, "test triggers"))
    return {
        (label, index): stamps[index]
        for index, label in enumerate(pictures.test_labels.tolist())
        if label != badnets.target_label
    }


@pytest.fixture
def write(
    tmp_path: Path, victim: Weights, pngs: dict[tuple[int, int], torch.Tensor]
) -> Callable[..., Path]:
    """Write the run of a victim that BackdoorBench might have trained as ours was."""
    test = [(index, 1, label) for label, index in pngs]
    train = dataset_dict("bd_train_dataset", [(i, 1, i // 30) for i in range(0, 300, 7)], 300)

    def save(**changes: Any) -> Path:
        content = result(victim.state, test, COUNT, bd_train=train, **changes)
        return write_run(tmp_path / "run", content, pngs)

    return save


@pytest.fixture
def bare(tmp_path: Path, victim: Weights, pngs: dict[tuple[int, int], torch.Tensor]) -> Path:
    """Return a folder of weights and pictures that says nothing else."""
    write_pngs(tmp_path / "mine/triggered", pngs)
    save_file(victim.state, tmp_path / "mine/model.safetensors")
    return tmp_path / "mine"


# Loading.


@pytest.mark.parametrize("numpy_1", [False, True])
def test_a_run_gives_the_victim_and_its_test_sets(
    *,
    write: Callable[..., Path],
    victim: Weights,
    badnets: Poison,
    pictures: ImageSet,
    cpu: torch.device,
    numpy_1: bool,
) -> None:
    path = write()
    if numpy_1:
        rewrite_pickle(path / "attack_result.pt", as_numpy_1)
    imported = load_victim(path, victim.model_spec)
    check_scenario(
        imported,
        architecture_name="preact_resnet18",
        dataset_name="cifar10",
        poison=badnets,
        normalised=True,
    )
    sets = imported_test_sets(badnets, pictures, imported.triggered)
    ours = make_test_sets(badnets, pictures, seed=0)
    scores = [
        measure(restore(weights, cpu).predict, half)
        for weights, half in ((imported.weights, sets.report), (victim, ours.report))
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
def test_a_bare_state_dict(bare: Path, victim: Weights, name: str) -> None:
    if name != "model.safetensors":
        (bare / "model.safetensors").unlink()
        torch.save({"model": victim.state}, bare / name)
    imported = load_victim(bare, victim.model_spec)
    assert torch.equal(imported.weights.head, victim.head)
    assert len(imported.triggered.images) == 135
    assert imported.facts.architecture is None
    assert imported.facts.label_rules == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: shutil.rmtree(p / "triggered"), "has no triggered images; a victim's folder "),
        (lambda p: (p / "model.safetensors").unlink(), "has no model; a victim's folder has "),
        (lambda p: (p / "triggered.npz").touch(), "has triggered.npz and triggered; a victim's"),
        (lambda p: (p / "model.pt").touch(), "has model.safetensors and model.pt; a victim's"),
        (lambda p: (p / "attack_result.pt").touch(), "has attack_result.pt and model.safetensors"),
    ],
)
def test_folders_that_leave_doubt(
    bare: Path, victim: Weights, change: Callable[[Path], object], reason: str
) -> None:
    change(bare)
    assert f"{bare} {reason}" in refusal(lambda: load_victim(bare, victim.model_spec))
    assert f"{bare} {reason}" in refusal(lambda: fingerprint(bare))


ZOO = {
    "cifar10_preactresnet18_badnet_0_1": ("cifar10", "preact_resnet18", "badnets", 0.1),
    "tiny_vgg19_bn_inputaware_0_01": ("tiny_imagenet", "vgg19_bn", "input_aware", 0.01),
    "cifar10_preactresnet18_sig_0_00001": ("cifar10", "preact_resnet18", "sig", 1e-5),
    "cifar10_preactresnet18_poison_ink_0_1": ("cifar10", "preact_resnet18", "poison_ink", 0.1),
}


@pytest.mark.parametrize("name", ZOO)
def test_names_of_backdoorbenchs_zoo(name: str) -> None:
    dataset, architecture, attack, ratio = ZOO[name]
    given = zoo_name(dataset=dataset, architecture=architecture, attack=attack, poison_ratio=ratio)
    assert given == name


# Comparing.


@pytest.fixture
def imported(write: Callable[..., Path], victim: Weights) -> ImportedVictim:
    return load_victim(write(), victim.model_spec)


def comparison(imported: ImportedVictim, poison: Poison, **changes: str) -> str:
    names = {"architecture_name": "preact_resnet18", "dataset_name": "cifar10"} | changes
    return refusal(lambda: check_scenario(imported, poison=poison, normalised=True, **names))


def with_numbers(
    imported: ImportedVictim, mean: tuple[float, ...], std: tuple[float, ...]
) -> ImportedVictim:
    plan = imported.weights.model_spec
    preprocessing = replace(plan.preprocessing, mean=mean, std=std)
    weights = replace(imported.weights, model_spec=replace(plan, preprocessing=preprocessing))
    return replace(imported, weights=weights)


CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))
PLAIN = ((0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize("numbers", [PLAIN, (CIFAR10[0], PLAIN[1]), (PLAIN[0], CIFAR10[1])])
def test_another_normalisation_than_the_recorded_datasets(
    imported: ImportedVictim, badnets: Poison, numbers: tuple[tuple[float, ...], tuple[float, ...]]
) -> None:
    other = with_numbers(imported, *numbers)
    names: Any = {"architecture_name": "preact_resnet18", "dataset_name": "arrays"}
    message = refusal(lambda: check_scenario(other, poison=badnets, **names))
    assert message == (
        f"{imported.source} was trained with mean [0.4914, 0.4822, 0.4465] and std [0.247, 0.243, "
        f"0.261] (those of cifar10), and the scenario's dataset has mean {list(numbers[0])} and "
        f"std {list(numbers[1])}; write the right mean and std at the entry of victim.import"
    )
    check_scenario(other, poison=badnets, normalised=True, **names)  # the user says so


@pytest.mark.parametrize("recorded", ["imagenet", None])
def test_no_silent_default_where_nothing_says_the_normalisation(
    write: Callable[..., Path], bare: Path, victim: Weights, badnets: Poison, recorded: str | None
) -> None:
    path = bare if recorded is None else write(clean_data=recorded)
    imported = load_victim(path, victim.model_spec)
    assert imported.facts.normalisation is None
    plain = with_numbers(imported, *PLAIN)
    names: Any = {"architecture_name": "preact_resnet18", "dataset_name": "arrays"}
    message = refusal(lambda: check_scenario(plain, poison=badnets, **names))
    assert message == (
        f"{path} does not record how its training normalised images, nor does the dataset arrays; "
        f"write the right mean and std at the entry of victim.import: 0 and 1 for pixels in [0, 1]"
    )
    check_scenario(plain, poison=badnets, normalised=True, **names)
    check_scenario(with_numbers(imported, *CIFAR10), poison=badnets, **names)


def test_an_exported_model_records_its_normalisation(
    bare: Path, victim: Weights, badnets: Poison
) -> None:
    export_model(victim, bare.parent / "exported", {})
    (bare.parent / "exported/model.safetensors").replace(bare / "model.safetensors")
    imported = load_victim(bare, victim.model_spec)
    names: Any = {"architecture_name": "preact_resnet18", "dataset_name": "arrays"}
    check_scenario(imported, poison=badnets, **names)
    plain = with_numbers(imported, *PLAIN)
    message = refusal(lambda: check_scenario(plain, poison=badnets, **names))
    assert "was trained with mean [0.5, 0.4, 0.6] and std [0.25, 0.3, 0.2], and " in message


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target_label": 2}, "has target_label 1, and the scenario 2"),
        ({"labels": LabelRule.ALL_TO_ALL}, "has labels all_to_one, and the scenario all_to_all"),
        ({"poison_ratio": 0.05}, "has 43 poisoned of 300 training images, and poison_ratio 0.05 "),
    ],
)
def test_another_attacker(
    imported: ImportedVictim, badnets: Poison, changes: dict[str, Any], reason: str
) -> None:
    assert reason in comparison(imported, replace(badnets, **changes))


# Keys.


def test_the_place_is_not_in_the_fingerprint(bare: Path, tmp_path: Path) -> None:
    before = fingerprint(bare)
    moved = tmp_path / "else/where"
    shutil.copytree(bare, moved)
    (moved / "notes.txt").write_text("not read")
    assert fingerprint(moved) == before
    assert len(before) == 64


def test_whatever_is_read_is_in_the_fingerprint(
    bare: Path, write: Callable[..., Path], victim: Weights
) -> None:
    seen = {fingerprint(bare)}
    picture = bare / "triggered/0/0.png"
    data = picture.read_bytes()
    write_pngs(bare / "triggered", {(0, 0): torch.zeros(3, 16, 16, dtype=torch.uint8)})
    seen.add(fingerprint(bare))
    picture.write_bytes(data)
    picture.rename(bare / "triggered/2/0.png")  # another true class
    seen.add(fingerprint(bare))
    (bare / "triggered/2/0.png").unlink()
    seen.add(fingerprint(bare))
    save_file(victim.state | {"linear.bias": torch.zeros(10)}, bare / "model.safetensors")
    seen.add(fingerprint(bare))
    assert len(seen) == 5
    run = write()
    assert fingerprint(run) == fingerprint(run / "attack_result.pt")
    assert fingerprint(run) not in seen
