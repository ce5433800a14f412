"""The one training loop: victims, ascent and relearning differ in what they pass it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Generator, Tensor
from torch.nn.utils import clip_grad_norm_

from ulrl.augmentation import apply_views, draw_views
from ulrl.models import Classifier

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> scalar
Rate: TypeAlias = Callable[[float], float]  # epochs elapsed, with a fraction -> lr


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Images to train on, and which of them carry a trigger that augmentation spares."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]
    late: Bool[Tensor, " n"] | None = None  # stamped after augmentation, by `stamp`
    stamp: Callable[[Tensor], Tensor] | None = None

    def to(self, device: torch.device) -> "Samples":
        """Return the same samples on `device`."""
        late = None if self.late is None else self.late.to(device)
        return Samples(
            images=self.images.to(device),
            labels=self.labels.to(device),
            late=late,
            stamp=self.stamp,
        )


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What the loop saw of its own batches, before each step and in train mode."""

    number: int  # from 1
    loss: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, in which portions, and how fast."""

    epochs: int
    batch_size: int
    rate: Rate
    clip_norm: float | None = None  # largest global L2 norm of the gradient
    forwards_after_step: int = 0  # further train-mode passes, for their BatchNorm updates


def train(
    classifier: Classifier,
    samples: Samples,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    schedule: Schedule,
    sources: tuple[Generator, Generator],
) -> Iterator[Epoch]:
    """Train `classifier` in place and yield after each epoch, in eval-safe state.

    Each epoch shuffles all samples, draws a view of each, and keeps the last short batch.
    The caller may measure, or stop by leaving the iterator; neither changes what follows.

    Args:
        classifier: Trained in place, in train mode.
        samples: What to train on.
        optimiser: Made for the classifier's parameters; its lr is set before each step.
        objective: Maps logits and labels to what is minimised.
        schedule: Length, batches and learning rate.
        sources: Generators of the order and of the views.
    """
    samples = samples.to(classifier.device)
    parameters = list(classifier.network.parameters())
    treatment = classifier.blueprint.treatment
    count = len(samples.labels)
    steps = -(-count // schedule.batch_size)
    for epoch in range(schedule.epochs):
        classifier.network.train()
        order = torch.randperm(count, generator=sources[0]).to(classifier.device)
        views = draw_views(count, treatment, sources[1], classifier.device)
        loss_sum = torch.zeros((), device=classifier.device)
        hits = torch.zeros((), device=classifier.device)
        for step, index in enumerate(torch.split(order, schedule.batch_size)):
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(epoch + step / steps)
            seen = apply_views(samples.images[index], views.of(index), treatment)
            batch = _with_late_triggers(seen, samples, index)
            labels = samples.labels[index]
            logits = classifier.logits(batch)
            loss = objective(logits, labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if schedule.clip_norm is not None:
                clip_grad_norm_(parameters, schedule.clip_norm)
            optimiser.step()
            loss_sum += loss.detach() * len(index)
            hits += (logits.detach().argmax(dim=1) == labels).sum()
            for _ in range(schedule.forwards_after_step):
                with torch.no_grad():
                    classifier.logits(batch)
        yield Epoch(number=epoch + 1, loss=float(loss_sum) / count, accuracy=float(hits) / count)


def _with_late_triggers(seen: Tensor, samples: Samples, index: Tensor) -> Tensor:
    if samples.late is None or samples.stamp is None:
        return seen
    late = samples.late[index]
    if not bool(late.any()):
        return seen
    shown = seen.clone()
    shown[late] = samples.stamp(shown[late])
    return shown
