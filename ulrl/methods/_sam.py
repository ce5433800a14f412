"""Training by gradients taken beside the weights: sharpness-aware minimisation and its kin."""

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from math import cos, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.fitting import BATCHNORM, Epoch, SGDConfig, Sources
from ulrl.methods._base import RepairContext
from ulrl.methods._loop import Passes, train_by
from ulrl.methods._tuning import Tuner, cosine
from ulrl.models import Classifier
from ulrl.sgd import SGD

PERIOD = 100  # steps of half a cosine in the published schedule of FT-SAM
TINY = 1e-12  # the least norm that is divided by


@dataclass(frozen=True, kw_only=True)
class TwoPassTuner(Tuner):
    """SGD with a second gradient of each batch, taken at weights moved along the first.

    Each step makes two train-mode passes over the batch. BatchNorm normalises by the batch in
    both and updates its running statistics in the first alone. It computes in float32.

    Attributes:
        lr: Learning rate at the start, above 0.
        epochs: Passes over the samples, from 1 to 1000.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        batch_size: Samples per step.
        momentum: In [0, 1).
    """

    lr: float = 0.01
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256
    momentum: float = 0.9

    def __post_init__(self) -> None:
        SGDConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=lambda _: self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
        ).check("", self.lr)

    @abstractmethod
    def moves(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return what to add to each weight for the second pass."""

    def mixed(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the gradient of the step, from those of a weight in both passes."""
        del first
        return second

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what is minimised in both passes."""
        return cross_entropy(logits, labels)

    def rate(self, elapsed: float, step: int) -> float:
        """Return the learning rate after so many epochs, and so many steps."""
        del step
        return cosine(self.lr, self.epochs)(elapsed)

    @property
    def epochs_in_all(self) -> int:
        """Its epochs."""
        return self.epochs

    def cost(self, samples: int) -> float:
        """Return two passes per epoch."""
        return 2.0 * self.epochs * samples

    def train(self, classifier: Classifier, context: RepairContext) -> Iterator[Epoch]:
        """Train with the draws of plain fine-tuning."""
        network, steps = classifier.network, count()
        sgd = SGD(network, lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay)

        def take(images: Tensor, labels: Tensor, elapsed: float) -> tuple[Tensor, Tensor]:
            sgd.zero_grad()
            logits = classifier.logits(images)
            loss = self.loss(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            reached = [weight for weight in network.parameters() if weight.grad is not None]
            first = _gradients(reached)
            sgd.zero_grad()
            moves = self.moves([weight.detach() for weight in reached], first)
            with _moved(reached, moves), _same_statistics(network):
                second = self.loss(classifier.logits(images), labels)
                second.backward()  # type: ignore[no-untyped-call]
            for weight, one, two in zip(reached, first, _gradients(reached), strict=True):
                weight.grad = self.mixed(one, two)
            sgd.param_groups[0]["lr"] = self.rate(elapsed, next(steps))
            sgd.step()
            return loss, logits

        passes = Passes(epochs=self.epochs, batch_size=self.batch_size, rate=lambda e: e)
        sources = Sources.of(context.clean.seed, "relearn")
        return train_by(classifier, context.clean.samples, take, passes, sources)


class Schedule(StrEnum):
    """How the learning rate goes down by half a cosine."""

    PER_EPOCH = "per_epoch"  # once, in a step per epoch
    PER_BATCH = "per_batch"  # the published code's: down in 100 steps, up in 100, and so on


@dataclass(frozen=True, kw_only=True)
class SAMTuner(TwoPassTuner):
    """Sharpness-aware minimisation, plain or adaptive (Kwon et al., ICML 2021).

    With weights w and gradient g, all parameters of the network in one vector, the second pass
    is at w + rho · w² g / ‖|w| g‖; plain SAM's is at w + rho · g / ‖g‖.

    Attributes:
        rho: Distance of the second pass, at least 0; with 0 it is plain training.
        adaptive: Whether distance is measured relative to each weight.
        label_smoothing: Share of the target that the other classes have, in [0, 0.5].
        schedule: Of the learning rate.
    """

    rho: float = 2.0
    adaptive: bool = True
    label_smoothing: float = 0.1
    schedule: Schedule = Schedule.PER_EPOCH

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.rho <= 1000:
            raise ValueError(f"rho is a distance, in [0, 1000]; got {self.rho}")
        if not 0 <= self.label_smoothing <= 0.5:
            raise ValueError(
                f"label_smoothing is a share of the target, in [0, 0.5]; got {self.label_smoothing}"
            )

    def moves(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the way up: of length `rho`, in the measure of the method."""
        scales = [w.abs() if self.adaptive else torch.ones_like(w) for w in weights]
        scaled = [scale * g for scale, g in zip(scales, gradients, strict=True)]
        norm = torch.stack([part.norm() for part in scaled]).norm().clamp(min=TINY)
        return [self.rho / norm * scale * g for scale, g in zip(scales, scaled, strict=True)]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return cross-entropy with targets of 1 - s, and s / (classes - 1) for the others."""
        classes = logits.shape[1]
        spread = self.label_smoothing * classes / (classes - 1)  # torch gives all classes a part
        return cross_entropy(logits, labels, label_smoothing=spread)

    def rate(self, elapsed: float, step: int) -> float:
        """Return the learning rate of the schedule."""
        if self.schedule is Schedule.PER_BATCH:
            return self.lr * (1 + cos(pi * step / PERIOD)) / 2
        return super().rate(elapsed, step)


def _gradients(weights: list[nn.Parameter]) -> list[Tensor]:
    return [torch.zeros_like(w) if w.grad is None else w.grad.detach() for w in weights]


@contextmanager
def _moved(weights: list[nn.Parameter], moves: list[Tensor]) -> Iterator[None]:
    """Add a move to each weight inside; then each is what it was, to the bit."""
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight, move in zip(weights, moves, strict=True):
            weight.add_(move)
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, values in zip(weights, before, strict=True):
                weight.copy_(values)


@contextmanager
def _same_statistics(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch inside, and leave its running statistics alone.

    The published codes set its momentum to 0, which counts the batch all the same.
    """
    tracking = [
        module
        for module in network.modules()
        if isinstance(module, BATCHNORM) and module.training and module.track_running_stats
    ]
    for module in tracking:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True
