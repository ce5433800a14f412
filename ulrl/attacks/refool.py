"""Refool: the reflection of another scene, as in a pane of glass before the camera."""

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.attacks._per_image import image_generators
from ulrl.attacks._reflections import reflections
from ulrl.poison import DIRTY_LABELS, FixedAttack, Images, LabelRule

GAMMA = 2.2
NEAREST, FARTHEST = 3, 8  # pixels between the two copies of a ghost
FAINTEST, STRONGEST = 0.15, 0.5  # weight of the fainter copy
SHARPEST, SOFTEST = 1.0, 5.0  # standard deviation of the defocus, in pixels
WEAKEST, HARDEST = 1.08, 1.18  # attenuation, in units of the mean excess over white
VIGNETTE = 0.5  # standard deviation of the vignette, as a fraction of the side

Picture: TypeAlias = Float[Tensor, "c h w"]  # pixels of [0, 1], or linear light
Scene: TypeAlias = Float[Tensor, "c wide wide"]  # linear light, `FARTHEST` pixels wider
Scenes: TypeAlias = Float[Tensor, "count c wide wide"]


@register("refool")
@dataclass(frozen=True, kw_only=True)
class Refool(FixedAttack):
    """Reflection backdoor of Liu et al. (arXiv:2007.02343), every image with its own.

    Adds, in linear light, a reflected scene that is either a ghost, two shifted copies of
    it as from both faces of thick glass, or out of focus and fading towards its border. Which
    scene, and how, is drawn for each image, at test time too.

    BackdoorBench reflects photographs that are not shipped here. The 128 scenes here are
    made by formula, so its numbers and these are not the same attack to the letter; nor is
    the vignette, whose width is ours. All other constants are BackdoorBench's, and lengths
    are in pixels of the images at any size.

    Attributes:
        transmission: What is left of the image's light, in (0, 1); 0.4 is BackdoorBench's.
        ghost_rate: Probability of a ghost, in [0, 1]; 0.49 is BackdoorBench's.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (
        *DIRTY_LABELS,
        LabelRule.CLEAN_LABEL,
    )

    transmission: float = 0.4
    ghost_rate: float = 0.49

    def __post_init__(self) -> None:
        if not 0 < self.transmission < 1:
            raise ValueError(
                f"transmission is a fraction of light, above 0 and below 1; got {self.transmission}"
            )
        if not 0 <= self.ghost_rate <= 1:
            raise ValueError(f"ghost_rate is a probability, from 0 to 1; got {self.ghost_rate}")

    def stamp(self, images: Images, generator: Generator) -> Images:
        channels, side = images.shape[1], images.shape[-1]
        stock = reflections(side + FARTHEST)  # wider, for shifted copies
        if channels == 1:
            stock = stock.mean(dim=1, keepdim=True)
        stock = stock.to(images.device) ** GAMMA
        triggered = torch.empty_like(images)
        sources = image_generators(images, generator)
        # One by one, so that no image's rounding depends on those beside it.
        for place, (image, source) in enumerate(zip(images, sources, strict=True)):
            triggered[place] = self._reflecting(image, stock, source)
        return triggered

    def _reflecting(self, image: Picture, stock: Scenes, source: Generator) -> Picture:
        which, ghostly, *how = torch.rand(6, generator=source).tolist()
        scene = stock[int(which * len(stock))]
        light = image**GAMMA
        if ghostly < self.ghost_rate:
            reflected = (1 - self.transmission) * _ghost(scene, how)
        else:
            reflected = _defocused(scene, light, how)
        return (self.transmission * light + reflected).clamp(0, 1) ** (1 / GAMMA)


def _ghost(scene: Scene, how: list[float]) -> Picture:
    """Return two copies of a scene that is `FARTHEST` pixels wider than the result."""
    right, down, fainter, first = how
    side = scene.shape[-1] - FARTHEST
    offsets = FARTHEST - NEAREST + 1
    x, y = NEAREST + int(right * offsets), NEAREST + int(down * offsets)
    weight = abs(round(first) - (FAINTEST + (STRONGEST - FAINTEST) * fainter))
    near, far = scene[:, :side, :side], scene[:, y : y + side, x : x + side]
    return weight * near + (1 - weight) * far


def _defocused(scene: Scene, light: Picture, how: list[float]) -> Picture:
    softness, attenuation, right, down = how
    side = light.shape[-1]
    places = torch.arange(side, device=light.device)
    kernel = _bell(places[:, None] - places, SHARPEST + (SOFTEST - SHARPEST) * softness)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    blurred = kernel @ scene[:, :side, :side] @ kernel.T
    excess = (blurred + light - 1).clamp(min=0)
    count = (excess > 0).sum(dim=(1, 2), keepdim=True).clamp(min=1)
    mean = excess.sum(dim=(1, 2), keepdim=True) / count
    dimmed = (blurred - (WEAKEST + (HARDEST - WEAKEST) * attenuation) * mean).clamp(0, 1)
    # Bright somewhere in the middle half, in each direction.
    fading = [
        _bell(places - (0.25 + 0.5 * at) * (side - 1), VIGNETTE * side) for at in (down, right)
    ]
    return dimmed * fading[0][:, None] * fading[1]


def _bell(distance: Tensor, width: float) -> Tensor:
    return (-(distance**2) / (2 * width**2)).exp()
