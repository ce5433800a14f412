"""A second, slow writing of ULRL: plain loops, straight from its description.

Shared with the library are the class of the network and the random draws; the crop, the
normalisation, the loss, SGD, the clipping, the medians and the cosine are written out.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, floor, pi

import torch
from torch import Generator, Tensor, nn

from ulrl.augmentation import draw_views
from ulrl.clean import CleanSamples
from ulrl.hyperparameters import Hyperparameters
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator

CPU = torch.device("cpu")


@contextmanager
def in_double() -> Iterator[None]:
    """Compute in double precision, where rounding does not add up to anything."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def crop(image: Tensor, top: int, left: int, padding: int, *, mirrored: bool) -> Tensor:
    channels, height, width = image.shape
    canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding)
    canvas[:, padding : padding + height, padding : padding + width] = image
    view = canvas[:, top : top + height, left : left + width]
    columns = [view[:, :, j] for j in range(width)]
    return torch.stack(columns[::-1] if mirrored else columns, dim=2)


def normalised(model: Classifier, image: Tensor) -> Tensor:
    mean, std = model.model_spec.preprocessing.mean, model.model_spec.preprocessing.std
    return torch.stack([(image[c] / 255 - mean[c]) / std[c] for c in range(len(image))])


def batches(
    model: Classifier,
    clean: CleanSamples,
    size: int,
    sources: tuple[Generator, Generator],
    *,
    augment: bool,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of network inputs and labels."""
    images = clean.samples.images.to(torch.get_default_dtype())
    labels = clean.samples.labels
    preprocessing = model.model_spec.preprocessing
    order = torch.randperm(len(labels), generator=sources[0]).tolist()
    views = draw_views(len(labels), preprocessing, sources[1], CPU)
    for start in range(0, len(order), size):
        inputs = []
        for i in order[start : start + size]:
            image = images[i]
            if augment:
                top, left = int(views.top[i]), int(views.left[i])
                mirrored = bool(views.mirrored[i])
                image = crop(image, top, left, preprocessing.padding, mirrored=mirrored)
            inputs.append(normalised(model, image))
        yield torch.stack(inputs), labels[order[start : start + size]]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    rows = [row.logsumexp(0) - row[label] for row, label in zip(logits, labels, strict=True)]
    return torch.stack(rows).mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    if not bool(a.any()):
        return 0 * a.sum()  # no direction, nothing to turn
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


def train_mode(network: nn.Module, updates: int) -> None:
    network.train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and updates == 0:
            module.training = False


def hits(logits: Tensor, labels: Tensor) -> int:
    return sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))


def naive_unlearn(
    h: Hyperparameters, victim: Weights, clean: CleanSamples
) -> tuple[list[float], nn.Module]:
    """Phase 1: the accuracies that were compared, and the network where it stopped."""
    u, model = h.unlearn, restore(victim, CPU)
    network = model.network
    sgd = SGD(list(network.parameters()), u.unlearn_momentum, u.unlearn_weight_decay)
    order, views = (generator(clean.seed, "unlearn", name) for name in ("order", "views"))
    threshold = h.score.unlearn_threshold
    if h.score.threshold_scale.value == "above_chance":
        chance = 1 / model.model_spec.classes
        threshold = chance + threshold * (1 - chance)
    accuracies: list[float] = []
    for epoch in range(u.unlearn_epochs):
        train_mode(network, u.unlearn_batchnorm_updates)
        lr = u.unlearn_lr
        for milestone in u.unlearn_milestones:
            lr = lr / 10 if epoch >= milestone else lr
        right, size = 0, u.unlearn_batch_size
        for inputs, labels in batches(
            model, clean, size, (order, views), augment=u.unlearn_augment
        ):
            logits = network(inputs).float()  # whatever the precision before
            right += hits(logits, labels)
            sgd.step(-cross_entropy(logits, labels), lr, u.unlearn_clip_norm)
            if u.unlearn_batchnorm_updates == 2:
                network(inputs)
        if u.stop_accuracy.value == "eval":
            network.eval()
            images = [
                normalised(model, image.to(torch.get_default_dtype()))
                for image in clean.samples.images
            ]
            right = hits(network(torch.stack(images)), clean.samples.labels)
        accuracies.append(right / len(clean.index))
        if accuracies[-1] <= threshold:
            break
    return accuracies, network


def lower_middle(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def naive_shifts(
    h: Hyperparameters, before: list[list[float]], after: list[list[float]]
) -> list[float]:
    """Score rows of weights; where the bias counts, it is the last of its row."""
    shifts = []
    for old, new in zip(before, after, strict=True):
        changes = [abs(b - a) for a, b in zip(old, new, strict=True)]
        if h.score.score.value == "l2":
            shifts.append(sum(change * change for change in changes) ** 0.5)
        elif h.score.score.value == "relative":
            shifts.append(sum(changes) / sum(abs(a) for a in old))
        else:
            shifts.append(sum(changes))
    return shifts


def naive_suspects(h: Hyperparameters, shifts: list[float]) -> list[int]:
    """Flag rows by their scores; a MAD of 0 is not provided for."""
    median = lower_middle(shifts)
    mad = lower_middle([abs(shift - median) for shift in shifts]) + h.score.mad_epsilon
    z = [abs(shift - median) / (1.4826 * mad) for shift in shifts]
    flagged = [k for k in range(len(z)) if z[k] > h.score.z_threshold and shifts[k] > median]
    by_score = sorted(range(len(z)), key=lambda k: (-shifts[k], k))
    if h.score.suspect_rule.value == "largest":
        flagged = sorted(by_score[: floor(h.score.suspect_share * len(z) + 0.5)])
    if h.score.suspect_order.value == "score":
        flagged = [k for k in by_score if k in flagged]
    cap = len(z) if h.score.max_suspects is None else h.score.max_suspects
    return sorted(flagged[:cap])


def naive_start(
    h: Hyperparameters, head: nn.Linear, seed: int, rows: list[int], after: Tensor
) -> None:
    """Draw the weights of suspicious rows afresh that moved most, in place."""
    fan_in = head.in_features
    source = generator(seed, "relearn", "reset", "linear.weight")
    original, shape = head.weight.detach().clone(), head.weight.shape
    distribution = h.relearn.reinit_distribution.value
    width = h.relearn.reinit_scale * (2 / fan_in) ** 0.5
    if distribution == "normal":
        fresh = width * torch.randn(shape, generator=source)
    elif distribution == "uniform":
        fresh = width * (2 * torch.rand(shape, generator=source) - 1)
    else:
        fresh = torch.zeros(shape)
    for k in rows:
        moved = [float((after[k, j] - original[k, j]).abs()) for j in range(fan_in)]
        ranked = [j for _, j in sorted((-distance, j) for j, distance in enumerate(moved))]
        for j in ranked[: floor(h.reset.reinit_ratio * fan_in + 0.5)]:
            head.weight.data[k, j] = fresh[k, j]
        if h.reset.reinit_ratio > 0 and h.reset.reinit_bias.value == "zero":
            head.bias.data[k] = 0.0


def naive_penalty(h: Hyperparameters, cosines: list[Tensor]) -> Tensor:
    form = h.relearn.cosine_form.value
    if form == "absolute":
        cosines = [value if value >= 0 else -value for value in cosines]
    elif form == "clamped":
        cosines = [value if value >= 0 else 0 * value for value in cosines]
    total = torch.stack(cosines).sum()
    return total / len(cosines) if h.relearn.cosine_reduction.value == "mean" else total


def naive_relearn(
    h: Hyperparameters, victim: Weights, clean: CleanSamples, rows: list[int], after: Tensor
) -> tuple[list[float], nn.Module]:
    """Phase 2: the running accuracies and the repaired network."""
    r, model = h.relearn, restore(victim, CPU)
    network, head = model.network, model.head
    original = head.weight.detach().clone()
    naive_start(h, head, clean.seed, rows, after)
    sgd = SGD(list(network.parameters()), r.relearn_momentum, r.relearn_weight_decay)
    order, views = (generator(clean.seed, "relearn", name) for name in ("order", "views"))
    accuracies = []
    for epoch in range(r.relearn_epochs):
        train_mode(network, r.batchnorm_updates)
        lr = r.relearn_lr
        if r.relearn_schedule.value == "cosine":
            lr *= 0.5 * (1 + cos(pi * epoch / r.relearn_epochs))
        elif r.relearn_schedule.value == "linear":
            lr *= (r.relearn_epochs - epoch) / r.relearn_epochs
        right, size = 0, r.relearn_batch_size
        for inputs, labels in batches(
            model, clean, size, (order, views), augment=r.relearn_augment
        ):
            logits = network(inputs).float()  # whatever the precision before
            right += hits(logits, labels)
            loss = cross_entropy(logits, labels)
            if rows:
                cosines = [cosine(head.weight[k], original[k]) for k in rows]
                loss = loss + r.alpha * naive_penalty(h, cosines)
            sgd.step(loss, lr, r.relearn_clip_norm)
            if r.batchnorm_updates == 2:
                network(inputs)
        accuracies.append(right / len(clean.index))
    return accuracies, network


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
