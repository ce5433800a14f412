"""TrojanNN: a patch that excites chosen neurons of a clean model."""

from collections.abc import Generator as Steps
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image
from torch import Generator, Tensor, nn

from ulrl.attacks._base import register
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks._files import (
    FILE,
    PICTURES,
    check_mark,
    check_name,
    content_of,
    mark_of,
    resized,
)
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.models import Classifier
from ulrl.poison import Attack, Images, Poison, Trigger
from ulrl.supervised import VictimConfig

REPORT_EVERY = 50  # steps


@register("trojannn")
@dataclass(frozen=True, kw_only=True)
class TrojanNN(Attack):
    """Trojaning attack of Liu et al. (NDSS 2018).

    A patch is optimised until it excites the inputs of the last layer that weigh most in a
    clean model of the victim's kind; then it is added to images, in bytes. The patch starts
    from a white shape, and only pixels of the shape change. The published shape is a picture
    of an apple that is not free to ship; here it is two ellipses of the same area at the same
    place: 117 pixels of an image of 32, and 375 at 64 pixels. The clean model sees the patch
    as it sees images, normalised; BackdoorBench's does not normalise.

    Attributes:
        neurons: How many inputs of the last layer are excited.
        excitation: The value that they are driven to; 100 in BackdoorBench.
        steps: Of the optimisation, by the sign of the gradient.
        step_size: Of a step, in [0, 1] pixel units.
        reach: How far a pixel may go from where it started, in [0, 1] pixel units.
        wrap: Whether a sum beyond white starts again at black, as in the published code, which
            casts to bytes before it clips; otherwise sums are clipped.
        pattern: The path of a picture to start from in place of the shape, as BackdoorBench
            does: made RGB (what is transparent is black) and resized to the images' size by
            Pillow. What is above 0 in it is what changes.
    """

    neurons: int = 2
    excitation: float = 100.0
    steps: int = 1000
    step_size: float = 0.1
    reach: float = 0.3
    wrap: bool = False
    pattern: str | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        if self.neurons < 1:
            raise ValueError(f"neurons is a count, at least 1; got {self.neurons}")
        if self.steps < 1:
            raise ValueError(f"steps is a count, at least 1; got {self.steps}")
        for name in ("step_size", "reach"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} is in [0, 1] pixel units, above 0; got {getattr(self, name)}"
                )
        if not 0 < self.excitation <= 1e6:
            raise ValueError(f"excitation is above 0 and at most 1e6; got {self.excitation}")
        if self.pattern is not None:
            check_name("pattern", self.pattern, PICTURES)

    def identity(self) -> dict[str, Any]:
        return _content(self.pattern)

    def check(self, *, side: int, channels: int) -> None:
        if self.pattern is not None:
            check_mark(self.pattern, side, channels)

    def helper(self, poison: Poison) -> Helper:
        del poison  # the patch is for neurons, not for a class
        return TrojanPatch(
            neurons=self.neurons,
            excitation=self.excitation,
            steps=self.steps,
            step_size=self.step_size,
            reach=self.reach,
            pattern=self.pattern,
        )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed
        return _Sum(patch=learned["patch"], wrap=self.wrap)


@dataclass(frozen=True, kw_only=True)
class TrojanPatch(Helper):
    """The optimised patch.

    Attributes:
        neurons: As for `TrojanNN`, like the others.
        excitation: See there.
        steps: See there.
        step_size: See there.
        reach: See there.
        pattern: See there.
    """

    version: ClassVar[int] = 2  # another shape, white at first, and a patch in bytes

    neurons: int
    excitation: float
    steps: int
    step_size: float
    reach: float
    pattern: str | None = field(default=None, metadata=FILE)

    def identity(self) -> dict[str, Any]:
        return _content(self.pattern)

    @property
    def needs(self) -> Helper:
        return BenignModel()

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 0.1

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        classifier = benign_classifier(context)
        channels, side = context.model_spec.channels, context.model_spec.side
        if self.pattern is None:
            mark = shape(side, channels)
        else:
            mark = mark_of(self.pattern, side, channels)
        start = mark.to(context.device).float() / 255
        wanted = heaviest_inputs(classifier.head, self.neurons)
        low, high = (start - self.reach).clamp(0, 1), (start + self.reach).clamp(0, 1)
        patch = start.clone()
        for number in range(1, self.steps + 1):
            seen = patch.clone().requires_grad_()
            features = head_inputs(classifier, seen[None])[0, wanted]
            loss = (features - self.excitation).square().sum()
            (gradient,) = torch.autograd.grad(loss, seen)
            moved = (patch - self.step_size * gradient.sign()).clamp(low, high)
            patch = torch.where(start > 0, moved, start)
            if number % REPORT_EVERY == 0 or number == self.steps:
                yield Step(number, self.steps)
        # As a program that saves the patch as a picture would.
        return {"patch": ((patch * 255).floor() / 255).cpu().contiguous()}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sum(Trigger):
    """Image plus patch, clipped or wrapped."""

    patch: Float[Tensor, "c h w"]
    wrap: bool

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        total = images + self.patch.to(images)
        if not self.wrap:
            return total.clamp(0, 1)
        # In grey levels: 256 is 0 again.
        return ((total * 255 + 1e-3).floor() % 256) / 255


@lru_cache(maxsize=16)
def _shape(side: int, channels: int) -> Tensor:
    """Draw the shape at 224 pixels, as the published one is."""
    row, column = np.mgrid[0:224, 0:224]
    body = ((row - 173) / 30) ** 2 + ((column - 161) / 33) ** 2 <= 1
    leaf = ((row - 128) / 8) ** 2 + ((column - 146) / 17) ** 2 <= 1
    pixels = np.where((body | leaf)[:, :, None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    return resized(Image.fromarray(pixels), side, channels)


def shape(side: int, channels: int) -> UInt8[Tensor, "c side side"]:
    """Return the white shape on black: where the published apple lies, and as large."""
    return _shape(side, channels).clone()


def _content(pattern: str | None) -> dict[str, Any]:
    return {} if pattern is None else {"picture": content_of(pattern)}


def heaviest_inputs(head: nn.Linear, count: int) -> Int64[Tensor, " count"]:
    """Return the inputs of the last layer whose weights have the largest absolute sum."""
    weight = head.weight.detach().abs().sum(dim=0)
    return weight.topk(min(count, len(weight))).indices.sort().values


def head_inputs(
    classifier: Classifier, images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n fan_in"]:
    """Return what the last layer is fed for images in [0, 1]; gradients reach the images."""
    seen: list[Tensor] = []
    hook = classifier.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        classifier.logits(255 * images)
    finally:
        hook.remove()
    return seen[0].float()
