"""LC: the label-consistent attack, adversarial images of the target class with marked corners."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor

from ulrl.attacks._adversarial import AdversarialImages, AdversarialModel
from ulrl.attacks._base import register
from ulrl.attacks._files import (
    ARRAYS,
    FILE,
    check_alone,
    check_images,
    check_name,
    chosen_images,
    content_of_images,
)
from ulrl.datasets import DatasetInfo
from ulrl.helper import Helper, Learned
from ulrl.poison import Attack, Images, LabelRule, Poison, Trigger

_TRAIN = "train_replacements"
# Options of images that are pushed here.
_MADE = ("epsilon", "step_size", "steps", "model_epsilon", "model_steps")
_CORNER = ((1, -1, -1), (-1, 1, -1), (1, -1, 1))  # at the left; mirrored at the right


@register("lc")
@dataclass(frozen=True, kw_only=True)
class LC(Attack):
    """Label-consistent backdoor of Turner, Tsipras and Madry (arXiv:1912.02771).

    Images of the target class, labels left alone, are pushed away from their class by PGD
    against an adversarially trained model, so that the pattern in the corners is the easiest
    thing to learn. Test images get the pattern only.

    Attributes:
        epsilon: Radius of PGD's L∞ ball, in [0, 1] pixel units; 16/255 is the paper's usual
            one.
        step_size: Of a step of PGD, likewise; 1.5/255 in BackdoorBench's script.
        steps: Of PGD; 100 there.
        amplitude: Of the pattern, in [0, 1]: added or taken away, then clipped. At 1 its
            pixels are black or white.
        model_epsilon: Radius of the ball in which the model is trained.
        model_steps: Of PGD in its training.
        train_replacements: The path of an ``.npy`` that has the pushed images already, as
            BackdoorBench takes them: of all training images, uint8 ``[N, H, W, C]``, in the
            dataset's order. The pattern is then put on those.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (LabelRule.CLEAN_LABEL,)

    epsilon: float = 16 / 255
    step_size: float = 1.5 / 255
    steps: int = 100
    amplitude: float = 1.0
    model_epsilon: float = 8 / 255
    model_steps: int = 7
    train_replacements: str | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size", "model_epsilon"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is in [0, 1] pixel units, above 0; got {getattr(self, name)}"
                )
        for name in ("steps", "model_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a count, at least 1; got {getattr(self, name)}")
        if not 0 < self.amplitude <= 1:
            raise ValueError(f"amplitude is in [0, 1], above 0; got {self.amplitude}")
        if self.train_replacements is not None:
            check_name(_TRAIN, self.train_replacements, ARRAYS)
            check_alone(self, _TRAIN, _MADE)

    def identity(self) -> dict[str, Any]:
        """Return what tells sets of images from others.

        Raises:
            AttackFileError: A file is missing or cannot be read.
        """
        if self.train_replacements is None:
            return {}
        return {_TRAIN: content_of_images(self.train_replacements, _TRAIN)}

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side < 2 * len(_CORNER):
            raise ValueError(
                f"patterns in the corners want images of at least {2 * len(_CORNER)} pixels; "
                f"got {side}"
            )

    def check_info(self, info: DatasetInfo) -> None:
        if self.train_replacements is not None:
            check_images(self.train_replacements, _TRAIN, info.train_count, info)

    def helper(self, poison: Poison) -> Helper | None:
        if self.train_replacements is not None:
            return None
        return AdversarialImages(
            target_label=poison.target_label,
            epsilon=self.epsilon,
            step_size=self.step_size,
            steps=self.steps,
            model=AdversarialModel(epsilon=self.model_epsilon, steps=self.model_steps),
        )

    def prepared(
        self, images: UInt8[Tensor, "n c h w"], index: Int64[Tensor, " n"], learned: Learned
    ) -> UInt8[Tensor, "n c h w"]:
        if self.train_replacements is not None:
            return chosen_images(self.train_replacements, _TRAIN, index).to(images.device)
        return learned["images"][torch.searchsorted(learned["index"], index)].to(images.device)

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed, learned  # the pattern is fixed; what was learned went into the images
        return Corners(amplitude=self.amplitude)


@dataclass(frozen=True, kw_only=True)
class Corners(Trigger):
    """Adds a pattern of signs to the four corners; larger from 64 pixels on, to scale."""

    amplitude: float

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        side = images.shape[-1]
        scale = max(1, side // 32)
        left = torch.tensor(_CORNER, dtype=images.dtype, device=images.device)
        left = left.repeat_interleave(scale, dim=0).repeat_interleave(scale, dim=1)
        size = len(left)
        signs = images.new_zeros(images.shape[-2:])
        signs[:size, :size] = signs[-size:, :size] = left
        signs[:size, -size:] = signs[-size:, -size:] = left.flip(-1)
        return (images + self.amplitude * signs).clamp(0, 1)
