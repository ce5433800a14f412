"""The first stage against SGD written out, its schedules, and its two ways of stamping."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.naive import in_double
from ulrl.attacks import Stamp
from ulrl.augmentation import apply_views, draw_views
from ulrl.datasets import ImageSet
from ulrl.fitting import Epoch, SGDConfig
from ulrl.metrics import measure
from ulrl.models import ModelSpec, initialise
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets, poison_training_set
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, VictimSchedule
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


def test_a_trigger_after_augmentation_is_learned_too(
    pictures: ImageSet, model_spec: ModelSpec, badnets: Poison, cpu: torch.device
) -> None:
    late = replace(badnets, stamp=Stamp.AFTER_AUGMENTATION)
    config = VictimConfig(epochs=8, batch_size=32)
    run = train_victim(config, model_spec, late, pictures, 0, cpu)
    for _ in run.epochs:
        pass
    metrics = measure(run.classifier.predict, make_test_sets(late, pictures, 0).report)
    assert metrics.acc > 0.9
    assert metrics.asr > 0.9


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
