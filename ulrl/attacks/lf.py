"""LF: a smooth pattern that a clean model is sensitive to."""

from collections.abc import Generator as Steps
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks._files import (
    ARRAYS,
    FILE,
    AttackFileError,
    array_of,
    check_alone,
    check_name,
    content_of_array,
)
from ulrl.attacks._smooth import low_passed, universal_perturbation
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.poison import Attack, Images, Poison, Trigger
from ulrl.randomness import generator as named_generator
from ulrl.supervised import VictimConfig


class Origin(StrEnum):
    """Where the pattern comes from."""

    LEARNED = "learned"  # a smooth universal perturbation of a clean model
    FIELD = "field"  # a smooth random field: the same kind of spectrum, and no model needed


# Options of a pattern that is made here.
_MADE = ("scale", "origin", "images", "passes", "fooling_rate", "cutoff")


@register("lf")
@dataclass(frozen=True, kw_only=True)
class LF(Attack):
    """Low-frequency backdoor of Zeng et al. (arXiv:2104.03413).

    Adds one smooth pattern to every image and clips. The pattern is a universal perturbation:
    steps that take single images to the target class in a clean model, low-passed, summed,
    and stretched to [0, `scale`].

    Attributes:
        scale: Largest value of the pattern, in [0, 1] pixel units; 0.2 is BackdoorBench's.
        origin: Whether the pattern is learned from a clean model, or drawn.
        images: Training images that the pattern is learned from.
        passes: Largest number of rounds over them.
        fooling_rate: Share of them taken to the target class at which learning ends.
        cutoff: Width of the low-pass filter, in pixels: the standard deviation of a Gaussian.
        pattern: The path of an ``.npy`` to add in place of that pattern, as BackdoorBench does
            with its own: in grey levels, fractions truncated in the sum; of the images' size,
            ``[H, W]`` for all channels alike or ``[H, W, C]``; the first one of
            ``[N, H, W, C]``. BackdoorBench's of four dimensions end at 0.2, which changes no
            image: that is refused, and 255 times such a file is what was meant.
    """

    scale: float = 0.2
    origin: Origin = Origin.LEARNED
    images: int = 100
    passes: int = 50
    fooling_rate: float = 0.2
    cutoff: float = 3.0
    pattern: str | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        if not 0 < self.scale <= 1:
            raise ValueError(f"scale is in [0, 1] pixel units, above 0; got {self.scale}")
        if self.images < 1:
            raise ValueError(f"images is a count, at least 1; got {self.images}")
        if self.passes < 1:
            raise ValueError(f"passes is a count, at least 1; got {self.passes}")
        if not 0 < self.fooling_rate <= 1:
            raise ValueError(f"fooling_rate is a share, in (0, 1]; got {self.fooling_rate}")
        if not 0.5 <= self.cutoff <= 100:
            raise ValueError(f"cutoff is in pixels, 0.5 to 100; got {self.cutoff}")
        if self.pattern is not None:
            check_name("pattern", self.pattern, ARRAYS)
            check_alone(self, "pattern", _MADE)

    def identity(self) -> dict[str, Any]:
        """Return what tells a pattern from others.

        Raises:
            AttackFileError: Its file is missing or cannot be read.
        """
        if self.pattern is None:
            return {}
        pattern_of(self.pattern)  # what is none is said before anything is computed with it
        return {"pattern": content_of_array(self.pattern, "pattern")}

    def check(self, *, side: int, channels: int) -> None:
        if self.pattern is None:
            return
        try:
            levels = pattern_of(self.pattern)
        except AttackFileError:
            return  # a matter of `identity`
        if levels.shape[1:] != (side, side) or len(levels) not in (1, channels):
            shape = [*levels.shape[1:], levels.shape[0]]
            raise ValueError(
                f"pattern is of the images' size, [{side}, {side}, {channels}]; "
                f"{Path(self.pattern).name} has {shape}: take the one of this dataset"
            )
        if not levels.any():
            raise ValueError(
                f"pattern is in grey levels of 255, and {Path(self.pattern).name} changes none by "
                f"1 or more; save it times 255 if it is in [0, 1]"
            )

    def helper(self, poison: Poison) -> Helper | None:
        if self.origin is Origin.FIELD or self.pattern is not None:
            return None
        return LowFrequencyPattern(
            target_label=poison.target_label,
            images=self.images,
            passes=self.passes,
            fooling_rate=self.fooling_rate,
            cutoff=self.cutoff,
        )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        if self.pattern is not None:
            return Added(pattern=pattern_of(self.pattern) / 255)
        if self.origin is Origin.LEARNED:
            return Added(pattern=self.scale * learned["pattern"])
        return _Field(attack=self, seed=seed)


@dataclass(frozen=True, kw_only=True)
class LowFrequencyPattern(Helper):
    """The pattern, from 0 to 1, as a clean model of the victim's kind gives it.

    Attributes:
        target_label: The class that images are taken to.
        images: As for `LF`, like the others.
        passes: See there.
        fooling_rate: See there.
        cutoff: See there.
    """

    target_label: int
    images: int
    passes: int
    fooling_rate: float
    cutoff: float

    @property
    def needs(self) -> Helper:
        return BenignModel()

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 0.5

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        classifier = benign_classifier(context)
        count = len(context.images.train_labels)
        order = torch.randperm(count, generator=named_generator(context.seed, "lf", "images"))
        chosen = context.images.train_images[order[: self.images]].to(context.device)
        rounds = universal_perturbation(
            classifier,
            chosen.float() / 255,
            target=self.target_label,
            passes=self.passes,
            fooling_rate=self.fooling_rate,
            cutoff=self.cutoff,
        )
        pattern = torch.zeros_like(chosen[0], dtype=torch.float32)
        for number, found in enumerate(rounds, start=1):
            pattern = found
            yield Step(number, self.passes)
        return {"pattern": stretched(pattern).cpu().contiguous()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Added(Trigger):
    """Adds a pattern to images of its size and clips."""

    pattern: Tensor

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        return (images + self.pattern.to(images)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Field(Trigger):
    """A smooth random field, drawn from the scenario's seed at the images' size."""

    attack: LF
    seed: int

    def stamp(self, images: Images, generator: Generator) -> Images:
        source = named_generator(self.seed, "lf", "field")
        noise = torch.randn(images.shape[1:], generator=source)
        field = stretched(low_passed(noise, self.attack.cutoff))
        return Added(pattern=self.attack.scale * field).stamp(images, generator)


def pattern_of(path: str) -> Float[Tensor, "c h w"]:
    """Return a user's pattern in whole grey levels; one channel stands for all.

    An image's grey levels are whole numbers, so a sum that is truncated afterwards is the sum
    with the next whole number below.

    Raises:
        AttackFileError: The file is missing, or holds no pattern.
    """
    stored = array_of(path, "pattern")
    array = stored[0] if stored.ndim == 4 and len(stored) else stored
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.dtype.kind not in "uif" or not np.isfinite(array).all():
        raise AttackFileError(
            f"{path} holds no pattern: finite numbers [H, W], [H, W, C] or [N, H, W, C]; "
            f"got {stored.dtype} {list(stored.shape)}"
        )
    levels = np.floor(np.clip(array.astype(np.float64), -255, 255))
    return torch.from_numpy(levels).permute(2, 0, 1).float()


def stretched(pattern: Tensor) -> Tensor:
    """Return a pattern with its least value at 0 and its largest at 1."""
    low, high = pattern.min(), pattern.max()
    if float(high - low) == 0:
        return torch.zeros_like(pattern)
    return (pattern - low) / (high - low)
