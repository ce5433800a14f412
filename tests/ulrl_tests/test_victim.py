"""The first stage against SGD written out, its schedules, and its two ways of stamping."""

from collections.abc import Iterator
from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.naive import in_double
from ulrl.augmentation import apply_views, draw_views
from ulrl.datasets import ImageSet
from ulrl.fitting import Epoch, SGDConfig
from ulrl.models import ModelSpec, initialise
from ulrl.poison import Poison
from ulrl.poisoning import poison_training_set
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.relearning import RelearnConfig, RelearnSchedule
from ulrl.supervised import VictimConfig, VictimSchedule
from ulrl.unlearning import UnlearnConfig
from ulrl.victim import train_victim

CONFIG = VictimConfig(epochs=2, batch_size=64, lr=0.05)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, nesterov=False),
        replace(CONFIG, drop_last=True),
        replace(CONFIG, schedule=VictimSchedule.COSINE, period=3, weight_decay=0.1, lr=0.01),
    ],
    ids=["one cycle, Nesterov", "heavy ball", "drop last", "cosine"],
)
@in_double()
def test_it_is_sgd(
    pictures: ImageSet,
    model_spec: ModelSpec,
    badnets: Poison,
    cpu: torch.device,
    config: VictimConfig,
) -> None:
    run = train_victim(config, model_spec, badnets, pictures, 5, cpu)
    losses = [epoch.loss for epoch in run.epochs]

    poisoned = poison_training_set(badnets, pictures, 5)
    model = initialise(model_spec, generator(5, "victim", "weights"), cpu)
    parameters = list(model.network.parameters())
    velocity = [torch.zeros_like(parameter) for parameter in parameters]
    sources = generator(5, "victim", "order"), generator(5, "victim", "views")
    expected, steps = [], 4 if config.drop_last else 5  # 300 images: 64 × 4 + 44
    for epoch in range(config.epochs):
        model.network.train()
        order = torch.randperm(300, generator=sources[0])
        views = draw_views(300, model_spec.preprocessing, sources[1], cpu)
        total, seen = 0.0, 0
        for step in range(steps):
            index = order[64 * step : 64 * (step + 1)]
            batch = apply_views(poisoned.images[index], views.of(index), model_spec.preprocessing)
            loss = cross_entropy(model.logits(batch).float(), poisoned.labels[index])
            total += loss.item() * len(index)
            seen += len(index)
            rate = config.rate(epoch + step / steps)
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, g, v in zip(parameters, gradients, velocity, strict=True):
                    slope = g + config.weight_decay * p
                    v.mul_(0.9).add_(slope)
                    p.sub_(rate * (slope + 0.9 * v if config.nesterov else v))
        expected.append(total / seen)
        assert seen == (256 if config.drop_last else 300)

    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) < 1e-4
    state = model.network.state_dict()
    for name, value in run.classifier.weights().state.items():
        assert torch.allclose(value, state[name], rtol=1e-4, atol=1e-4), name


FLAT = [2.0, *[1.0] * 30]
FALLING = [1 - 0.01 * epoch for epoch in range(31)]
# Falls by less than a ten-thousandth, which counts as no fall, and a real one at the end.
SLOWLY = [1 - 1e-6 * epoch for epoch in range(30)] + [0.5]


def by_hand(lr: float, losses: list[float]) -> list[float]:
    """Return the rate of each epoch: a tenth after more than ten epochs without a fall."""
    best, waited, rates = float("inf"), 0, []
    for loss in losses:
        rates.append(lr)
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > 10:
            lr, waited = lr / 10, 0
    return rates


@pytest.mark.parametrize(
    ("losses", "last"), [(FLAT, 0.001), (FALLING, 0.1), (SLOWLY, 0.001)], ids=["flat", "f", "slow"]
)
def test_on_plateaus_the_rate_falls_to_a_tenth(
    pictures: ImageSet,
    model_spec: ModelSpec,
    badnets: Poison,
    cpu: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    losses: list[float],
    last: float,
) -> None:
    asked: list[list[float]] = []

    def trained(*arguments: Any) -> Iterator[Epoch]:
        sgd: SGDConfig = arguments[3]
        for number, loss in enumerate(losses, start=1):
            asked.append([sgd.rate(number - 1 + step / 5) for step in range(5)])
            yield Epoch(number=number, loss=loss, accuracy=0.5)

    monkeypatch.setattr("ulrl.supervised.train", trained)
    config = VictimConfig(epochs=31, lr=0.1, schedule=VictimSchedule.PLATEAU)
    run = train_victim(config, model_spec, badnets, pictures, 0, cpu)
    assert [epoch.loss for epoch in run.epochs] == losses
    for rates, expected in zip(asked, by_hand(0.1, losses), strict=True):
        assert rates == pytest.approx([expected] * 5)
    assert asked[-1][0] == pytest.approx(last)


def test_the_seed_makes_the_victim(
    pictures: ImageSet, model_spec: ModelSpec, badnets: Poison, cpu: torch.device
) -> None:
    heads = []
    for seed in (0, 0, 1):
        run = train_victim(CONFIG, model_spec, badnets, pictures, seed, cpu)
        next(run.epochs)
        heads.append(run.classifier.weights().head)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


# Learning rates at points worked by hand.


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0.01),
        (0.75, 0.01),
        (9.99, 0.01),
        (10.0, 0.001),
        (10.25, 0.001),
        (19.99, 0.001),
        (20.0, 0.0001),
    ],
)
def test_ascent_falls_to_a_tenth_at_each_milestone(elapsed: float, rate: float) -> None:
    assert UnlearnConfig().rate(elapsed) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (RelearnSchedule.LINEAR, [0.4, 0.4, 0.3, 0.3, 0.2, 0.2, 0.1, 0.1, 0.0]),
        (RelearnSchedule.CONSTANT, [0.4] * 9),
    ],
)
def test_other_ways_of_relearning(schedule: RelearnSchedule, rates: list[float]) -> None:
    config = RelearnConfig(relearn_lr=0.4, relearn_epochs=4, relearn_schedule=schedule)
    assert [config.rate(half / 2) for half in range(9)] == pytest.approx(rates, abs=1e-12)


def test_every_epoch_of_the_official_relearning() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.005)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=20)
    for epoch in range(20):
        (expected,) = annealing.get_last_lr()
        assert RelearnConfig().rate(epoch + 0.5) == pytest.approx(expected, rel=1e-9)
        optimiser.step()
        annealing.step()


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0),
        (1.0, 0.02),  # a fifth of the way up
        (2.5, 0.05),
        (5.0, 0.1),  # the peak, after a quarter of 20 epochs
        (8.75, 0.1 * (1 + sqrt(1 / 2)) / 2),  # a quarter of the way down
        (12.5, 0.05),
        (16.25, 0.1 * (1 - sqrt(1 / 2)) / 2),
        (20.0, 0),
    ],
)
def test_victims_have_one_cycle(elapsed: float, rate: float) -> None:
    assert VictimConfig().rate(elapsed) == pytest.approx(rate, abs=1e-12)


LONG_COSINE = VictimConfig(epochs=50, lr=0.01, schedule=VictimSchedule.COSINE, period=100)


@pytest.mark.parametrize(
    ("elapsed", "rate"),
    [
        (0.0, 0.01),
        (0.99, 0.01),
        (25.5, 0.01 * (1 + sqrt(1 / 2)) / 2),  # a quarter of its period
        # The last epoch is the one from 49 on: (1 + cos(0.49 pi)) / 2, and cos(0.49 pi) is
        # sin(0.01 pi) = 0.0314107590781.
        (49.0, 0.01 * 1.0314107590781 / 2),
        (49.99, 0.01 * 1.0314107590781 / 2),
        (50.0, 0.005),
    ],
)
def test_a_cosine_of_a_longer_period_ends_half_way(elapsed: float, rate: float) -> None:
    assert LONG_COSINE.rate(elapsed) == pytest.approx(rate, rel=1e-12)


def test_steps_fall_to_a_tenth_after_each_period() -> None:
    config = VictimConfig(epochs=250, lr=0.5, schedule=VictimSchedule.STEPS, period=100)
    rates = [config.rate(elapsed) for elapsed in (0.0, 99.99, 100.0, 199.5, 200.0, 249.9)]
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])
    assert VictimConfig(epochs=9, lr=0.5, schedule=VictimSchedule.STEPS).rate(8.99) == 0.5


# BackdoorBench's way of training victims against its table, and what a study changes of it.


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
