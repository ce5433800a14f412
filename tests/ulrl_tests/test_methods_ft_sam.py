"""FT-SAM: steps by gradients at perturbed weights."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.methods import RepairContext
from ulrl.methods._loop import seen
from ulrl.methods._sam import SAMTuner, Schedule
from ulrl.methods.ft_sam import FTSAM
from ulrl.models import Classifier, Weights, restore
from ulrl.poison import Poison

Array = npt.NDArray[np.float64]


def gradient(weight: Array, bias: Array, inputs: Array, targets: Array) -> tuple[Array, Array]:
    """Of cross-entropy of a linear layer, by the formula: softmax less target, times input."""
    scores = inputs @ weight.T + bias
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = (chances / chances.sum(axis=1, keepdims=True) - targets) / len(inputs)
    return error.T @ inputs, error.sum(axis=0)


@pytest.mark.parametrize("adaptive", [True, False])
def test_three_steps_on_a_linear_layer_are_those_of_the_formula(*, adaptive: bool) -> None:
    """By numpy in double precision, from the paper's formulas alone."""
    classifier = classifier_of(lambda: HeadAlone(2 * 3 * 3, 3), side=3)
    spec = replace(
        classifier.model_spec, preprocessing=replace(classifier.model_spec.preprocessing, padding=0)
    )
    classifier = Classifier(spec, classifier.network, CPU)
    images = torch.randint(256, (7, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 1])
    weight, bias = (p.detach().double().numpy() for p in classifier.network.parameters())
    inputs = ((images / 255 - 0.5) / 0.25).flatten(1).double().numpy()
    targets = np.where(np.eye(3)[labels.numpy()] == 1, 0.8, 0.1)
    velocity = [np.zeros_like(weight), np.zeros_like(bias)]
    for step in range(3):
        first = gradient(weight, bias, inputs, targets)
        scale = [np.abs(weight), np.abs(bias)] if adaptive else [np.ones(1), np.ones(1)]
        norm = np.sqrt(sum(((s * g) ** 2).sum() for s, g in zip(scale, first, strict=True)))
        moved = [
            w + 0.5 * s**2 * g / norm for w, s, g in zip((weight, bias), scale, first, strict=True)
        ]
        second = gradient(moved[0], moved[1], inputs, targets)
        lr = 0.1 * (1 + np.cos(np.pi * step / 3)) / 2
        decayed = [g + 0.01 * w for g, w in zip(second, (weight, bias), strict=True)]
        velocity = [0.9 * v + g for v, g in zip(velocity, decayed, strict=True)]
        weight, bias = weight - lr * velocity[0], bias - lr * velocity[1]

    tuner = SAMTuner(
        rho=0.5, adaptive=adaptive, label_smoothing=0.2, lr=0.1, epochs=3, weight_decay=0.01
    )
    samples = Samples(images=images.to(torch.uint8), labels=labels)
    list(tuner.train(classifier, context_of(classifier.weights(), samples)))
    found = [p.detach().double().numpy() for p in classifier.network.parameters()]
    np.testing.assert_allclose(found[0], weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], bias, rtol=1e-4, atol=1e-6)


def context_of(victim: Weights, samples: Samples) -> RepairContext:
    clean = CleanSamples(samples=samples, index=torch.arange(len(samples.labels)), seed=0)
    return RepairContext(victim=victim, clean=clean, device=CPU, observe=print)


def test_it_is_the_published_loop_written_out(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """Torch's own SGD, BatchNorm's momentum of 0 and parameter by parameter."""
    clean, victim = clean_samples(pictures), victim_of(0)
    found = repaired(FTSAM(epochs=2, batch_size=24, schedule=Schedule.PER_BATCH), victim, clean)

    theirs = restore(victim, CPU)
    network, sources = theirs.network, Sources.of(clean.seed, "relearn")
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    sgd = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=100)
    for _ in range(2):
        order = torch.randperm(60, generator=sources.order)
        images = seen(theirs, clean.samples, sources, augment=True)
        network.train()
        for batch in torch.split(order, 24):
            x, y = images[batch], clean.samples.labels[batch]
            targets = torch.full((len(y), 10), 0.1 / 9)
            targets[torch.arange(len(y)), y] = 0.9
            sgd.zero_grad()
            cross_entropy(theirs.logits(x), targets).backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                total = torch.zeros(())
                for p in network.parameters():
                    assert p.grad is not None
                    total += ((p.abs() * p.grad) ** 2).sum()
                moves: list[Tensor] = []
                for p in network.parameters():
                    assert p.grad is not None
                    moves.append(2.0 * p * p * p.grad / total.sqrt())
                    p.add_(moves[-1])
            for norm in norms:
                norm.momentum = 0.0
            sgd.zero_grad()
            cross_entropy(theirs.logits(x), targets).backward()  # type: ignore[no-untyped-call]
            for norm in norms:
                norm.momentum = 0.1
            with torch.no_grad():
                for p, move in zip(network.parameters(), moves, strict=True):
                    p.sub_(move)
            sgd.step()
            schedule.step()
    for name, value in theirs.weights().state.items():
        if not name.endswith("num_batches_tracked"):  # there the second pass counts, too
            torch.testing.assert_close(found.weights.state[name], value, rtol=1e-3, atol=1e-4)


def test_without_a_distance_it_is_fine_tuning_with_smoothed_labels(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    found = repaired(FTSAM(epochs=3, rho=0.0, batch_size=24), victim_of(0), clean)

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        chances = logits.log_softmax(dim=1)
        right = chances.gather(1, labels[:, None])[:, 0]
        return -(0.9 * right + 0.1 / 9 * (chances.sum(dim=1) - right)).mean()

    tuned = restore(victim_of(0), CPU)
    config = SGDConfig(
        epochs=3,
        batch_size=24,
        rate=lambda e: 0.01 * (1 + float(np.cos(np.pi * int(e) / 3))) / 2,
        weight_decay=5e-4,
    )
    list(train(tuned, clean.samples, smoothed, config, Sources.of(clean.seed, "relearn")))
    for name, value in tuned.weights().state.items():
        torch.testing.assert_close(found.weights.state[name], value, rtol=1e-4, atol=1e-5)
    assert len(found.shown) == 3


def test_the_published_schedule_goes_down_and_up_in_a_hundred_steps_each() -> None:
    tuner = SAMTuner(lr=0.02, epochs=7, schedule=Schedule.PER_BATCH)
    found = [tuner.rate(6.5, step) for step in (0, 50, 100, 150, 200)]
    assert found == pytest.approx([0.02, 0.01, 0, 0.01, 0.02])
    assert SAMTuner(lr=0.02, epochs=8).rate(4.9, 100) == pytest.approx(0.01)


def test_it_repairs_a_victim_and_gives_the_same_bits_twice(
    victim_of: Callable[[int], Weights], badnets: Poison, pictures: ImageSet
) -> None:
    method, clean = FTSAM(epochs=10, batch_size=16, lr=0.05), clean_samples(pictures, 0.5)
    found = repaired_exactly(method, victim_of(0), clean)
    before, after = (rates(w, badnets, pictures) for w in (victim_of(0), found.weights))
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > 0.9
    short = replace(method, epochs=2)
    first, second = (repaired(short, victim_of(0), clean).weights.state for _ in range(2))
    assert same(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1.0}, r"^rho is a distance, in .*; got -1\.0"),
        ({"label_smoothing": 0.6}, r"^label_smoothing is a share of the target, in .*; got 0\.6"),
        ({"lr": 0.0}, "^lr is above 0"),
        ({"epochs": 0}, "^epochs is from 1 to 1000; got 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FTSAM(**options)  # type: ignore[arg-type]
