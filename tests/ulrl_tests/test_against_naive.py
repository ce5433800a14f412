"""ULRL against a second, slow writing of it: plain loops, straight from the description.

Shared with the library are the class of the network and the random draws; the crop, the
normalisation, the loss, SGD, the clipping, the medians and the cosine are written out.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import cos, floor, pi

import pytest
import torch
from torch import Generator, Tensor, nn

from ulrl.augmentation import draw_views
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator
from ulrl.relearning import choose_resets, relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import Ascent, unlearn

BATCH = 16  # 36 samples: two whole batches and a short one of 4
UNLEARN_EPOCHS, RELEARN_EPOCHS = 12, 6


def crop(image: Tensor, top: int, left: int, padding: int, *, mirrored: bool) -> Tensor:
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
    canvas[:, padding : padding + height, padding : padding + width] = image
    view = canvas[:, top : top + height, left : left + width]
    columns = [view[:, :, j] for j in range(width)]
    return torch.stack(columns[::-1] if mirrored else columns, dim=2)


def batches(
    model: Classifier, clean: CleanSamples, size: int, sources: tuple[Generator, Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of network inputs and labels."""
    images, labels = clean.samples.images, clean.samples.labels
    treatment = model.blueprint.treatment
    order = torch.randperm(len(labels), generator=sources[0]).tolist()
    views = draw_views(len(labels), treatment, sources[1], torch.device("cpu"))
    for start in range(0, len(order), size):
        inputs = []
        for i in order[start : start + size]:
            top, left = int(views.top[i]), int(views.left[i])
            view = crop(
                images[i].float(), top, left, treatment.padding, mirrored=bool(views.mirrored[i])
            )
            channels = [
                (view[c] / 255 - treatment.mean[c]) / treatment.std[c] for c in range(len(view))
            ]
            inputs.append(torch.stack(channels))
        yield torch.stack(inputs), labels[order[start : start + size]]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = [row.logsumexp(0) - row[label] for row, label in zip(logits, labels, strict=True)]
    return torch.stack(rows).mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())


@dataclass
class SGD:
    """Stochastic gradient descent with momentum and decay, one parameter at a time."""

    parameters: list[nn.Parameter]
    momentum: float
    decay: float

    def __post_init__(self) -> None:
        self.velocity: list[Tensor | None] = [None] * len(self.parameters)

    def step(self, loss: Tensor, lr: float, clip: float | None) -> None:
        gradients = list(torch.autograd.grad(loss, self.parameters))
        if clip is not None:
            norm = sum(float((g * g).sum()) for g in gradients) ** 0.5
            if norm > clip:
                gradients = [g * (clip / norm) for g in gradients]
        with torch.no_grad():
            for i, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
                slope = gradient + self.decay * parameter
                old = self.velocity[i]
                velocity = slope if old is None else self.momentum * old + slope
                self.velocity[i] = velocity
                parameter.sub_(lr * velocity)


def hits(logits: Tensor, labels: Tensor) -> int:
    return sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))


def naive_unlearn(
    h: Hyperparameters, victim: Weights, clean: CleanSamples
) -> tuple[list[float], nn.Module]:
    model = restore(victim, torch.device("cpu"))
    network = model.network.train()
    sgd = SGD(
        list(network.parameters()), h.unlearn.unlearn_momentum, h.unlearn.unlearn_weight_decay
    )
    sources = (
        generator(clean.seed, "unlearn", "order"),
        generator(clean.seed, "unlearn", "views"),
    )
    accuracies: list[float] = []
    for epoch in range(h.unlearn.unlearn_epochs):
        lr = h.unlearn.unlearn_lr
        for milestone in h.unlearn.unlearn_milestones:
            lr = lr / 10 if epoch >= milestone else lr
        right = 0
        for inputs, labels in batches(model, clean, h.unlearn.unlearn_batch_size, sources):
            logits = network(inputs)
            right += hits(logits, labels)
            sgd.step(-cross_entropy(logits, labels), lr, h.unlearn.unlearn_clip_norm)
        accuracies.append(right / len(clean.index))
        if accuracies[-1] <= h.score.unlearn_threshold:
            break
    return accuracies, network


def lower_middle(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def naive_suspects(h: Hyperparameters, before: Tensor, after: Tensor) -> list[int]:
    scores = [
        sum(abs(float(new) - float(old)) for old, new in zip(*rows, strict=True))
        for rows in zip(before, after, strict=True)
    ]
    median = lower_middle(scores)
    mad = lower_middle([abs(score - median) for score in scores])
    z = [abs(score - median) / (1.4826 * mad) for score in scores]
    flagged = [k for k in range(len(z)) if z[k] > h.score.z_threshold and scores[k] > median]
    if h.score.suspect_order.value == "score":
        flagged.sort(key=lambda k: (-z[k], k))
    return sorted(flagged[: h.score.max_suspects])


def naive_relearn(
    h: Hyperparameters, victim: Weights, clean: CleanSamples, rows: list[int], after: Tensor
) -> tuple[list[float], nn.Module]:
    model = restore(victim, torch.device("cpu"))
    network, head = model.network.train(), model.head
    original = copy.deepcopy(head.weight.detach())
    fan_in = head.in_features
    uniform = torch.rand(head.weight.shape, generator=generator(clean.seed, "relearn", "reset"))
    for k in rows:
        moved = [float((after[k, j] - original[k, j]).abs()) for j in range(fan_in)]
        ranked = [j for _, j in sorted((-distance, j) for j, distance in enumerate(moved))]
        for j in ranked[: floor(h.reset.reinit_ratio * fan_in + 0.5)]:
            head.weight.data[k, j] = (2 / fan_in) ** 0.5 * (2 * uniform[k, j] - 1)
        if h.reset.reinit_ratio > 0:
            head.bias.data[k] = 0.0
    r = h.relearn
    sgd = SGD(list(network.parameters()), r.relearn_momentum, r.relearn_weight_decay)
    sources = (
        generator(clean.seed, "relearn", "order"),
        generator(clean.seed, "relearn", "views"),
    )
    accuracies = []
    for epoch in range(r.relearn_epochs):
        lr = r.relearn_lr * 0.5 * (1 + cos(pi * epoch / r.relearn_epochs))
        right = 0
        for inputs, labels in batches(model, clean, r.relearn_batch_size, sources):
            logits = network(inputs)
            right += hits(logits, labels)
            loss = cross_entropy(logits, labels)
            for k in rows:
                loss = loss + r.alpha * cosine(head.weight[k], original[k])
            sgd.step(loss, lr, clip=None)
            if r.batchnorm_updates == 2:
                network(inputs)
        accuracies.append(right / len(clean.index))
    return accuracies, network


def hyperparameters(preset: Preset, ratio: float) -> Hyperparameters:
    return assemble(
        preset_values(preset, "cifar10")
        | {
            "clean_ratio": 36 / 300,
            "unlearn_batch_size": BATCH,
            "unlearn_epochs": UNLEARN_EPOCHS,
            "relearn_batch_size": BATCH,
            "relearn_epochs": RELEARN_EPOCHS,
            "reinit_ratio": ratio,
        }
    )


def last(ascent: Iterator[Ascent]) -> Ascent:
    *_, end = ascent
    return end


def largest_error(ours: Mapping[str, Tensor], naive: Mapping[str, Tensor]) -> float:
    """Largest difference, relative where a value is above 1; counters must be equal."""
    assert ours.keys() == naive.keys()
    worst = 0.0
    for name, value in ours.items():
        if name.endswith("num_batches_tracked"):
            assert value == naive[name], name
        else:
            error = (value - naive[name]).abs() / naive[name].abs().clamp(min=1)
            worst = max(worst, float(error.max()))
    return worst


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("preset", "ratio"), [(Preset.OFFICIAL, 1.0), (Preset.DEFAULT, 1.0), (Preset.DEFAULT, 0.3)]
)
def test_both_phases_agree_with_the_naive_ones(
    pictures: ImageSet,
    victim_of: Callable[[int], Weights],
    cpu: torch.device,
    seed: int,
    preset: Preset,
    ratio: float,
) -> None:
    h, victim = hyperparameters(preset, ratio), victim_of(seed)
    clean = draw_clean_samples(h.clean, pictures, seed)
    assert len(clean.index) == 36

    ascent = last(unlearn(h.unlearn, victim, clean, h.score.unlearn_threshold, cpu))
    accuracies, network = naive_unlearn(h, victim, clean)
    assert list(ascent.accuracy) == accuracies
    scores: NeuronScores = score_neurons(h.score, ascent)
    assert scores.stop_epoch == len(accuracies)
    after = network.get_parameter("linear.weight").detach()
    assert largest_error({"w": ascent.heads[-1]}, {"w": after}) < 1e-5
    bias = network.get_parameter("linear.bias").detach()
    assert largest_error({"b": ascent.biases[-1]}, {"b": bias}) < 1e-5
    rows = naive_suspects(h, victim.head, after)
    assert list(scores.suspects) == rows
    assert rows, "a comparison without suspects compares little"

    run = relearn(h.relearn, victim, choose_resets(h.reset, scores), clean, cpu)
    epochs = list(run.epochs)
    accuracies, network = naive_relearn(h, victim, clean, rows, after)
    assert [epoch.accuracy for epoch in epochs] == accuracies
    # Seen: 3e-6 at most but for running variances, which are of the order of 10.
    assert largest_error(run.classifier.weights().state, network.state_dict()) < 1e-5
