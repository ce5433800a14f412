"""Stage 2 of 5: gradient ascent on the clean samples, to expose suspicious neurons."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from ulrl.clean import CleanSamples
from ulrl.fitting import Schedule, train
from ulrl.models import Classifier, Weights, restore
from ulrl.randomness import generator

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """The ascent of phase 1; defaults are the official code's.

    Attributes:
        unlearn_lr: Learning rate of SGD.
        unlearn_momentum: Of SGD.
        unlearn_weight_decay: L2 penalty; its sign is the usual one although the loss climbs.
        unlearn_clip_norm: Largest global L2 norm of the gradient.
        unlearn_epochs: Epochs at most.
        unlearn_milestones: Epochs after which the rate falls to a tenth.
        unlearn_batch_size: Samples per step; the last batch may be short.
    """

    unlearn_lr: float = 0.01
    unlearn_momentum: float = 0.9
    unlearn_weight_decay: float = 5e-4
    unlearn_clip_norm: float = 20.0
    unlearn_epochs: int = 20
    unlearn_milestones: tuple[int, ...] = (10, 20)
    unlearn_batch_size: int = 128

    def __post_init__(self) -> None:
        check_sgd("unlearn", self.unlearn_lr, self.unlearn_momentum, self.unlearn_weight_decay)
        if not self.unlearn_clip_norm > 0:
            raise ValueError(f"unlearn_clip_norm is above 0; got {self.unlearn_clip_norm}")
        if not 1 <= self.unlearn_epochs <= 1000:
            raise ValueError(f"unlearn_epochs is from 1 to 1000; got {self.unlearn_epochs}")
        if any(milestone < 1 for milestone in self.unlearn_milestones):
            raise ValueError(
                f"unlearn_milestones are epochs from 1; got {list(self.unlearn_milestones)}"
            )
        if self.unlearn_batch_size < 1:
            raise ValueError(f"unlearn_batch_size is at least 1; got {self.unlearn_batch_size}")

    def rate(self, elapsed: float) -> float:
        """Return the learning rate, which changes between epochs only."""
        passed = sum(elapsed >= milestone for milestone in self.unlearn_milestones)
        return self.unlearn_lr * 0.1**passed


@dataclass(frozen=True, kw_only=True, eq=False)
class Ascent:
    """One trajectory of phase 1, from which every stop threshold can be read.

    The first epoch whose accuracy is at most a threshold is a new minimum of the
    accuracy, so keeping the head at each new minimum, and at the end, keeps all that any
    threshold can ask for.

    Attributes:
        before: Head weight of the victim.
        before_bias: Its bias.
        heads: Head weights at the kept epochs, in order.
        biases: Their biases.
        kept: Those epochs, from 1.
        accuracy: Running accuracy of every epoch: train mode, augmented, before each step.
        loss: Running cross-entropy of every epoch.
        diverged: Whether loss or head stopped being finite in the last epoch, which ends the
            ascent.
    """

    before: Float[Tensor, "classes fan_in"]
    before_bias: Float[Tensor, " classes"]
    heads: Float[Tensor, "kept classes fan_in"]
    biases: Float[Tensor, "kept classes"]
    kept: tuple[int, ...]
    accuracy: tuple[float, ...]
    loss: tuple[float, ...]
    diverged: bool

    def reaches(self, threshold: float) -> bool:
        """Whether the accuracy fell to `threshold` in an epoch that did not diverge."""
        return any(accuracy <= threshold for accuracy in self._sound())

    def stop_epoch(self, threshold: float) -> int:
        """Return the first epoch at or below `threshold`, else the last there is."""
        for number, accuracy in enumerate(self._sound(), start=1):
            if accuracy <= threshold:
                return number
        return len(self.accuracy)

    def _sound(self) -> tuple[float, ...]:
        """Accuracies of the finite epochs: a divergence, always in the last, spares them."""
        return self.accuracy[:-1] if self.diverged else self.accuracy

    def covers(self, threshold: float, config: UnlearnConfig) -> bool:
        """Whether a separate ascent to `threshold` would have gone no further."""
        ended = len(self.accuracy) >= config.unlearn_epochs
        return self.reaches(threshold) or self.diverged or ended


def unlearn(
    config: UnlearnConfig,
    victim: Weights,
    clean: CleanSamples,
    floor: float,
    device: torch.device,
    *,
    observe: Callable[[Classifier], None] | None = None,
) -> Iterator[Ascent]:
    """Maximise cross-entropy on the clean samples; yield the ascent so far, epoch by epoch.

    It ends after the first epoch whose running accuracy is at most `floor`, the lowest
    threshold anyone will ask for, or after ``unlearn_epochs``. All parameters train, in
    train mode, as in the official code; what the stop rule reads does not depend on the
    threshold, so one ascent serves all of them exactly. `observe` is called with the
    climbing classifier after each epoch; it may measure, and shall change nothing.
    """
    classifier = restore(victim, device)
    optimiser = torch.optim.SGD(
        classifier.network.parameters(),
        lr=config.unlearn_lr,
        momentum=config.unlearn_momentum,
        weight_decay=config.unlearn_weight_decay,
        fused=True,
    )
    schedule = Schedule(
        epochs=config.unlearn_epochs,
        batch_size=config.unlearn_batch_size,
        rate=config.rate,
        clip_norm=config.unlearn_clip_norm,
    )
    sources = (
        generator(clean.seed, "unlearn", "order"),
        generator(clean.seed, "unlearn", "views"),
    )
    before = _head(classifier.head)
    accuracy: list[float] = []
    loss: list[float] = []
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    epochs = train(classifier, clean.samples, optimiser, _climb, schedule, sources)
    for epoch in epochs:
        head = _head(classifier.head)
        diverged = not (isfinite(epoch.loss) and bool(head[0].isfinite().all()))
        last = diverged or epoch.accuracy <= floor or epoch.number == config.unlearn_epochs
        if last or not accuracy or epoch.accuracy < min(accuracy):
            kept[epoch.number] = head
        if observe is not None:
            observe(classifier)
        accuracy.append(epoch.accuracy)
        loss.append(-epoch.loss)
        yield Ascent(
            before=before[0],
            before_bias=before[1],
            heads=torch.stack([weight for weight, _ in kept.values()]),
            biases=torch.stack([bias for _, bias in kept.values()]),
            kept=tuple(kept),
            accuracy=tuple(accuracy),
            loss=tuple(loss),
            diverged=diverged,
        )
        if last:
            return


def check_sgd(phase: str, lr: float, momentum: float, weight_decay: float) -> None:
    """Raise ``ValueError`` where one of SGD's numbers is out of range."""
    rules: tuple[tuple[str, Any, bool, str], ...] = (
        ("lr", lr, 0 < lr <= 100, "above 0 and at most 100"),
        ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
        ("weight_decay", weight_decay, 0 <= weight_decay < 1, "in [0, 1)"),
    )
    for name, value, holds, rule in rules:
        if not holds:
            raise ValueError(f"{phase}_{name} is {rule}; got {value}")


def _climb(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)


def _head(head: torch.nn.Linear) -> tuple[Tensor, Tensor]:
    return head.weight.detach().cpu().clone(), head.bias.detach().cpu().clone()
