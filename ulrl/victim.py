"""Stage 1 of 5: train the backdoored model on poisoned data."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import cos, pi

import torch
from torch.nn.functional import cross_entropy

from ulrl.attacks import Stamp, stamp_bytes
from ulrl.datasets import ImageSet
from ulrl.fitting import Epoch, Samples, Schedule, train
from ulrl.models import Blueprint, Classifier, initialise
from ulrl.poisoning import Poison, poison_training_set
from ulrl.randomness import generator

VERSION = 1  # bump when the numbers change: old entries stay valid under their own key


@dataclass(frozen=True, kw_only=True)
class VictimConfig:
    """How a victim is trained: SGD with one cycle of the learning rate.

    Attributes:
        epochs: Passes over the poisoned training set.
        batch_size: Images per step.
        lr: Peak of the cycle.
        warmup: Fraction of the training in which the rate rises linearly to `lr`; after
            it the rate falls to 0 along half a cosine.
        momentum: Of SGD, in Nesterov's form.
        weight_decay: L2 penalty on all parameters.
    """

    epochs: int = 20
    batch_size: int = 128
    lr: float = 0.1
    warmup: float = 0.25
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs is at least 1; got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is at least 2; got {self.batch_size}")
        if not 0 < self.lr <= 100:
            raise ValueError(f"lr is a learning rate, above 0 and at most 100; got {self.lr}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is a fraction, in [0, 1); got {self.warmup}")
        if not 0 < self.momentum < 1:
            raise ValueError(f"momentum is in (0, 1), for Nesterov's form; got {self.momentum}")
        if not 0 <= self.weight_decay < 1:
            raise ValueError(f"weight_decay is in [0, 1); got {self.weight_decay}")

    def rate(self, elapsed: float) -> float:
        """Return the learning rate after `elapsed` epochs, a fraction included."""
        done = elapsed / self.epochs
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * (1 + cos(pi * (done - self.warmup) / (1 - self.warmup))) / 2


@dataclass(frozen=True, kw_only=True)
class VictimRun:
    """A victim in training: drain `epochs`, then take the classifier."""

    classifier: Classifier
    epochs: Iterator[Epoch]


def train_victim(
    config: VictimConfig,
    blueprint: Blueprint,
    poison: Poison,
    images: ImageSet,
    seed: int,
    device: torch.device,
) -> VictimRun:
    """Start to train a victim; the work is done as `epochs` of the result is drawn.

    The same arguments give the same victim whatever ran before, up to the arithmetic of
    the device and its number of threads.
    """
    classifier = initialise(blueprint, generator(seed, "victim", "weights"), device)
    poisoned = poison_training_set(poison, images, seed)
    late = poison.stamp is Stamp.AFTER_AUGMENTATION
    trigger = partial(stamp_bytes, poison.attack, generator=generator(seed, "training triggers"))
    samples = Samples(
        images=poisoned.images,
        labels=poisoned.labels,
        late=poisoned.poisoned if late else None,
        stamp=trigger if late else None,
    )
    optimiser = torch.optim.SGD(
        classifier.network.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
        fused=True,
    )
    schedule = Schedule(epochs=config.epochs, batch_size=config.batch_size, rate=config.rate)
    sources = (generator(seed, "victim", "order"), generator(seed, "victim", "views"))
    epochs = train(classifier, samples, optimiser, cross_entropy, schedule, sources)
    return VictimRun(classifier=classifier, epochs=epochs)
