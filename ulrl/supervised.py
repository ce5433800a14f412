"""Supervised training as victims get it: SGD with a schedule, on samples of any kind."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import cos, pi

import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ulrl.fitting import Epoch, Samples, SGDConfig, Sources, raise_if_diverged, train
from ulrl.models import Classifier
from ulrl.precision import Precision
from ulrl.training_hooks import NO_HOOKS, TrainingHooks


class VictimSchedule(StrEnum):
    """How a victim's learning rate goes from `lr` to its end."""

    ONE_CYCLE = "one_cycle"  # up to `lr` in a straight line, then half a cosine down to 0
    COSINE = "cosine"  # half a cosine, in a step per epoch
    PLATEAU = "plateau"  # a tenth whenever the training loss has not fallen for ten epochs
    STEPS = "steps"  # a tenth after each `period`
    CONSTANT = "constant"


@dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """How a victim is trained: SGD, by default with one cycle of the learning rate.

    Attributes:
        epochs: Passes over the poisoned training set.
        batch_size: Images per step.
        lr: Learning rate: the peak of the cycle, or the start of another schedule.
        schedule: How the rate changes.
        warmup: Fraction of the training in which ``one_cycle`` rises.
        period: Epochs after which ``cosine`` is at 0, or ``steps`` falls to a tenth each time;
            by default `epochs`.
        momentum: Of SGD.
        nesterov: Whether in Nesterov's form.
        weight_decay: L2 penalty on all parameters.
        drop_last: Whether a last short batch of an epoch is left out.
        precision: Of the forward pass.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1
    schedule: VictimSchedule = VictimSchedule.ONE_CYCLE
    warmup: float = 0.25
    period: int | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    drop_last: bool = False
    precision: Precision = Precision.AUTO

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is at least 1; got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is at least 2; got {self.batch_size}")
        if not 0 < self.lr <= 100:
            raise ValueError(f"lr is a learning rate, above 0 and at most 100; got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction, in [0, 1); got {self.warmup}")
        if self.period is not None and self.period < 1:
            raise ValueError(f"period is in epochs, at least 1; got {self.period}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is in [0, 1); got {self.momentum}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov wants a momentum above 0; got 0")
        if not 0 <= self.weight_decay < 1:
            raise ValueError(f"weight_decay is in [0, 1); got {self.weight_decay}")

    def rate(self, elapsed: float) -> float:
        """Return the learning rate after `elapsed` epochs, a fraction included.

        For ``plateau`` that is the rate it starts with: the rest depends on the losses.
        """
        if self.schedule is VictimSchedule.ONE_CYCLE:
            done = elapsed / self.epochs
            if done < self.warmup:
                return self.lr * done / self.warmup
            return self.lr * (1 + cos(pi * (done - self.warmup) / (1 - self.warmup))) / 2
        if self.schedule is VictimSchedule.COSINE:
            return self.lr * (1 + cos(pi * int(elapsed) / (self.period or self.epochs))) / 2
        if self.schedule is VictimSchedule.STEPS:
            return self.lr * 0.1 ** (int(elapsed) // (self.period or self.epochs))
        return self.lr


def fit(
    config: VictimConfig,
    classifier: Classifier,
    samples: Samples,
    sources: Sources,
    hooks: TrainingHooks = NO_HOOKS,
) -> Iterator[Epoch]:
    """Train `classifier` in place as `config` says, and yield after each epoch.

    Raises:
        DivergedError: Loss or weights stopped being finite.
    """

    def run(rate: Callable[[float], float]) -> Iterator[Epoch]:
        sgd = SGDConfig(
            epochs=config.epochs,
            batch_size=config.batch_size,
            rate=rate,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            precision=config.precision,
            drop_last=config.drop_last,
        )
        epochs = train(classifier, samples, cross_entropy, sgd, sources, hooks)
        return raise_if_diverged(epochs, "training", "a smaller lr")

    if config.schedule is VictimSchedule.PLATEAU:
        return _on_plateaus(config.lr, run)
    return run(config.rate)


def _on_plateaus(
    lr: float, run: Callable[[Callable[[float], float]], Iterator[Epoch]]
) -> Iterator[Epoch]:
    """Train at a rate that torch's scheduler lowers, by what each epoch's loss was."""
    stand_in = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = ReduceLROnPlateau(stand_in)
    for epoch in run(lambda _: float(stand_in.param_groups[0]["lr"])):
        scheduler.step(epoch.loss)
        yield epoch
