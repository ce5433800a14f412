"""BackdoorBench's way of training victims against its table, and what a study changes of it."""

from typing import Any

import pytest

from ulrl.attacks import ATTACKS
from ulrl.precision import Precision
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.supervised import VictimConfig, VictimSchedule

# From the benchmark's own configuration files: what every dataset has.
EVERYWHERE = {
    "batch_size": 128,
    "lr": 0.01,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "drop_last": True,
    "precision": Precision.FP32,
}
COSINE, PLATEAU = VictimSchedule.COSINE, VictimSchedule.PLATEAU
TABLE = {
    "cifar10": {"epochs": 100, "schedule": COSINE, "period": 100},
    "cifar100": {"epochs": 100, "schedule": COSINE, "period": 100},
    "gtsrb": {"epochs": 50, "schedule": COSINE, "period": 100},
    "tiny_imagenet": {"epochs": 200, "schedule": PLATEAU, "period": None},
    "digits": {"epochs": 100, "schedule": COSINE, "period": 100},  # as CIFAR-10
}
BENCH = VictimRecipe(recipe=Recipe.BACKDOORBENCH)


@pytest.mark.parametrize("dataset", TABLE)
def test_backdoorbench(dataset: str) -> None:
    config = BENCH.config(dataset, "badnets")
    for name, value in (EVERYWHERE | TABLE[dataset]).items():
        assert getattr(config, name) == value, name


@pytest.mark.parametrize(
    ("dataset", "first", "last"),
    [
        ("cifar10", 0.01, 0.01 * (1 - 0.9995065603657) / 2),  # cos(0.01 pi), one step from 0
        ("gtsrb", 0.01, 0.01 * (1 + 0.0314107590781) / 2),  # half-way, not at the end
        ("tiny_imagenet", 0.01, 0.01),  # until the losses say otherwise
    ],
)
def test_its_first_and_last_rates(dataset: str, first: float, last: float) -> None:
    config = BENCH.config(dataset, "badnets")
    assert config.rate(0.5) == pytest.approx(first)
    assert config.rate(config.epochs - 0.5) == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize(
    ("attack", "dataset", "epochs", "last"),
    [
        ("wanet", "cifar10", 100, 0.01),  # the first fall is at the end
        ("bpp", "gtsrb", 50, 0.01),
        ("wanet", "tiny_imagenet", 200, 0.001),
        ("input_aware", "cifar10", 75, 0.01),  # 25 of its 100 are the mask's
        ("input_aware", "gtsrb", 25, 0.01),
        ("input_aware", "tiny_imagenet", 175, 0.001),
        ("lira", "cifar10", 50, 0.01),  # and 50 before, with the generator
    ],
)
def test_attacks_with_loops_of_their_own(
    attack: str, dataset: str, epochs: int, last: float
) -> None:
    config = BENCH.config(dataset, attack)
    assert config.epochs == epochs
    assert config.rate(0.5) == 0.01
    assert config.rate(epochs - 0.5) == pytest.approx(last)
    assert not config.drop_last
    assert (config.batch_size, config.momentum, config.weight_decay) == (128, 0.9, 5e-4)


def test_other_attacks_are_trained_alike_and_the_fast_recipe_knows_no_attack() -> None:
    for attack in sorted(set(ATTACKS) - {"wanet", "bpp", "input_aware", "lira"}):
        assert BENCH.config("cifar10", attack) == BENCH.config("cifar10", "badnets")
    assert all(VictimRecipe().config("cifar10", attack) == VictimConfig() for attack in ATTACKS)


@pytest.mark.parametrize(
    ("changes", "period"),
    [
        ({"epochs": 10}, None),  # a shorter training shall still end at 0
        ({"epochs": 10, "period": 40}, 40),
        ({"lr": 0.05}, 100),
    ],
)
def test_what_a_study_says_goes_before_the_recipe(
    changes: dict[str, Any], period: int | None
) -> None:
    config = VictimRecipe(recipe=Recipe.BACKDOORBENCH, changes=changes).config("gtsrb", "badnets")
    assert (config.period, config.schedule) == (period, VictimSchedule.COSINE)
    for name, value in changes.items():
        assert getattr(config, name) == value
    assert (config.batch_size, config.drop_last) == (128, True)
    if changes == {"epochs": 10}:
        assert config.rate(10.0) == 0


def test_changes_are_checked_with_the_recipe() -> None:
    """Without momentum BackdoorBench's is fine, and the fast one's Nesterov form is not."""
    bench = VictimRecipe(recipe=Recipe.BACKDOORBENCH, changes={"momentum": 0.0})
    assert bench.config("cifar10", "badnets").momentum == 0
    with pytest.raises(ValueError, match="nesterov wants a momentum above 0; got 0"):
        VictimRecipe.of(momentum=0.0).config("cifar10", "badnets")
