"""Training on clean samples by steps of a method's own, and how samples are held out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ulrl.augmentation import apply_views, draw_views
from ulrl.clean import CleanSamples
from ulrl.fitting import Epoch, Samples, Sources, fault_of, set_train_mode
from ulrl.models import EVALUATION_BATCH, Classifier
from ulrl.randomness import generator, seeded_layer_rng

# Takes a step on images and labels on the device, with the learning rate of the moment, and
# returns the loss and the logits that it saw before the step.
TakeStep: TypeAlias = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How a method goes over its samples.

    Attributes:
        epochs: Passes over the samples.
        batch_size: Samples per step; a last batch of one joins the one before it.
        rate: Learning rate, by the number of epochs that have passed, with a fraction.
        augment: Whether samples are seen in random views, or as they are.
        shuffle: Whether each epoch has its own order.
        train_mode: Whether the network is in train mode, or in eval mode.
    """

    epochs: int
    batch_size: int
    rate: Callable[[float], float]
    augment: bool = True
    shuffle: bool = True
    train_mode: bool = True


def train_by(
    classifier: Classifier, samples: Samples, take: TakeStep, passes: Passes, sources: Sources
) -> Iterator[Epoch]:
    """Take a step on each batch and yield after each epoch, as `ulrl.fitting.train` does.

    For steps that are more than one gradient of one loss. `ulrl.fitting.raise_if_diverged` makes
    an error of an epoch's `fault`.
    """
    device = classifier.device
    there = samples.to(device)
    count = len(samples.labels)
    for epoch in range(passes.epochs):
        _set_mode(classifier, passes)
        order = torch.arange(count)
        if passes.shuffle:
            order = torch.randperm(count, generator=sources.order)
        batches = _batches(order, passes.batch_size)
        images = seen(classifier, there, sources, augment=passes.augment)
        loss_sum = torch.zeros((), device=device)
        hits = torch.zeros((), device=device)
        with seeded_layer_rng(sources.layers, device), reproducible():
            for number, index in enumerate(batches):
                chosen = index.to(device)
                rate = passes.rate(epoch + number / len(batches))
                loss, logits = take(images[chosen], there.labels[chosen], rate)
                loss_sum += loss.detach() * len(index)
                hits += (logits.detach().argmax(dim=1) == there.labels[chosen]).sum()
        mean = float(loss_sum) / count
        yield Epoch(
            number=epoch + 1,
            loss=mean,
            accuracy=float(hits) / count,
            fault=fault_of(mean, classifier.network),
        )


def seen(classifier: Classifier, samples: Samples, sources: Sources, *, augment: bool) -> Tensor:
    """Return the images, on the classifier's device, in random views if `augment`."""
    images = samples.images.to(classifier.device)
    if not augment:
        return images
    preprocessing = classifier.model_spec.preprocessing
    views = draw_views(len(images), preprocessing, sources.views, classifier.device)
    return apply_views(images, views, preprocessing)


@torch.no_grad()
def watch(classifier: Classifier, images: Tensor, hooks: Sequence[RemovableHandle]) -> None:
    """Pass images as they are through the network in eval mode, then remove hooks from it.

    Args:
        classifier: Left in eval mode.
        images: uint8, ``[n, c, h, w]``.
        hooks: That look at its layers.
    """
    classifier.network.eval()
    try:
        with reproducible():
            for batch in torch.split(images, EVALUATION_BATCH):
                classifier.logits(batch)
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def reproducible() -> Iterator[None]:
    """Let cuDNN compute gradients of convolutions in one order inside."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def hold_out(clean: CleanSamples, share: float, classes: int) -> tuple[CleanSamples, CleanSamples]:
    """Return samples to fit to, and others to judge by, as a fixed draw of the samples' seed.

    With five samples or more of each class, on average, every class is split alike.

    Args:
        clean: All samples.
        share: Of those to judge by, in (0, 1); at least one sample stays on either side.
        classes: Number of classes.
    """
    labels = clean.samples.labels
    order = torch.randperm(len(labels), generator=generator(clean.seed, "hold out"))
    groups = [order]
    if len(labels) >= 5 * classes:
        groups = [order[labels[order] == label] for label in torch.unique(labels)]
    held = torch.cat([group[: round(share * len(group))] for group in groups])
    if not len(held):
        held = order[:1]
    is_held = torch.zeros(len(labels), dtype=torch.bool)
    is_held[held] = True
    return _part(clean, ~is_held), _part(clean, is_held)


def _part(clean: CleanSamples, wanted: Tensor) -> CleanSamples:
    samples = Samples(images=clean.samples.images[wanted], labels=clean.samples.labels[wanted])
    return replace(clean, samples=samples, index=clean.index[wanted])


def _set_mode(classifier: Classifier, passes: Passes) -> None:
    if passes.train_mode:
        set_train_mode(classifier.network, 1)
    else:
        classifier.network.eval()


def _batches(order: Int64[Tensor, " n"], size: int) -> tuple[Int64[Tensor, " b"], ...]:
    batches = torch.split(order, size)
    if len(batches) > 1 and len(batches[-1]) == 1:  # BatchNorm may have no variance of one
        batches = (*batches[:-2], torch.cat(batches[-2:]))
    return batches
