"""The few clean samples that the defender holds."""

import random
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

import torch
from jaxtyping import Int64
from torch import Tensor

from ulrl.datasets import ImageSet
from ulrl.fitting import Samples
from ulrl.messages import at_least
from ulrl.randomness import checked_seed, generator


class CleanDraw(StrEnum):
    """How clean samples are drawn from the clean training set."""

    RANDOM = "random"  # the official code's: regardless of class
    PER_CLASS = "per_class"  # the same share of every class, at least one image


@dataclass(frozen=True, kw_only=True)
class CleanConfig:
    """Which clean samples the defender has.

    Attributes:
        clean_ratio: Fraction of the clean training set; the count is truncated.
        clean_draw: How they are drawn.
    """

    clean_ratio: float = 0.01
    clean_draw: CleanDraw = CleanDraw.RANDOM

    def __post_init__(self) -> None:
        if not 0 < self.clean_ratio <= 1:
            raise ValueError(
                f"clean_ratio is a fraction of the clean training set, above 0 and at most 1; "
                f"got {self.clean_ratio}"
            )

    def check(self, train_count: int) -> None:
        """Raise ``ValueError`` where the ratio leaves fewer than two samples."""
        if self.clean_draw is CleanDraw.PER_CLASS:
            return  # one image of each class at least
        count = int(train_count * self.clean_ratio)
        if count < 2:
            raise ValueError(
                f"clean_ratio {self.clean_ratio} of {train_count} training images is {count} "
                f"sample{'' if count == 1 else 's'}, and ULRL needs at least 2: "
                f"from {at_least(Fraction(2, train_count))} on"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class CleanSamples:
    """Untouched training images with their true labels, and the seed that drew them."""

    samples: Samples
    index: Int64[Tensor, " n"]  # into the training set
    seed: int


def draw_clean_samples(config: CleanConfig, images: ImageSet, seed: int) -> CleanSamples:
    """Return the defender's samples: clean copies even of images that were poisoned.

    ``random`` draws as the official code does, with Python's generator, and gives the
    very same indices for the same seed and size. (The official code always takes seed 0.)

    Raises:
        ValueError: The seed is negative.
    """
    seed = checked_seed(seed)
    labels = images.train_labels
    if config.clean_draw is CleanDraw.RANDOM:
        count = int(len(labels) * config.clean_ratio)
        index = torch.tensor(random.Random(seed).sample(range(len(labels)), count))  # noqa: S311
    else:
        index = _per_class(config.clean_ratio, labels, seed)
    samples = Samples(images=images.train_images[index], labels=labels[index])
    return CleanSamples(samples=samples, index=index, seed=seed)


def _per_class(ratio: float, labels: Tensor, seed: int) -> Tensor:
    order = torch.randperm(len(labels), generator=generator(seed, "clean samples"))
    parts = []
    for label in torch.unique(labels):
        members = order[labels[order] == label]
        parts.append(members[: max(1, int(len(members) * ratio))])
    return torch.cat(parts)
