"""TrojanNN: a patch that excites chosen neurons of a clean model."""

from collections.abc import Generator as Steps
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from ulrl.attacks._base import Attack, Images, Learned, Trigger, register
from ulrl.attacks._benign import BenignModel, benign_classifier
from ulrl.attacks._helper import Helper, Scene, Step
from ulrl.models import Classifier
from ulrl.supervised import VictimConfig

if TYPE_CHECKING:
    from ulrl.poisoning import Poison

REPORT_EVERY = 50  # steps


@register("trojannn")
@dataclass(frozen=True, kw_only=True)
class TrojanNN(Attack):
    """Trojaning attack of Liu et al. (NDSS 2018).

    A patch is optimised until it excites the inputs of the last layer that weigh most in a
    clean model of the victim's kind; then it is added to images. The published mask is a
    picture of an apple that is not free to ship; here it is an ellipse of the same area at
    the same place (rows 120 to 203, columns 128 to 194 of 224). The clean model sees the
    patch as it sees images, normalised.

    Attributes:
        neurons: How many inputs of the last layer are excited.
        excitation: The value that they are driven to; 100 in BackdoorBench.
        steps: Of the optimisation, by the sign of the gradient.
        step_size: Of a step, in [0, 1] pixel units.
        reach: How far a pixel may go from where it started, in [0, 1] pixel units.
        wrap: Whether a sum beyond white starts again at black, as in the published code, which
            casts to bytes before it clips; otherwise sums are clipped.
    """

    neurons: int = 2
    excitation: float = 100.0
    steps: int = 1000
    step_size: float = 0.1
    reach: float = 0.3
    wrap: bool = False

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

    def helper(self, poison: "Poison") -> Helper:
        del poison  # the patch is for neurons, not for a class
        return TrojanPatch(
            neurons=self.neurons,
            excitation=self.excitation,
            steps=self.steps,
            step_size=self.step_size,
            reach=self.reach,
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
    """

    neurons: int
    excitation: float
    steps: int
    step_size: float
    reach: float

    @property
    def needs(self) -> Helper:
        return BenignModel()

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 0.1

    def train(self, scene: Scene) -> Steps[Step, None, dict[str, Tensor]]:
        classifier = benign_classifier(scene)
        channels, side = scene.blueprint.channels, scene.blueprint.side
        mask = ellipse(side).to(scene.device)
        start = (mask * _shading(side).to(scene.device)).expand(channels, -1, -1).clone()
        wanted = heaviest_inputs(classifier.head, self.neurons)
        low, high = (start - self.reach).clamp(0, 1), (start + self.reach).clamp(0, 1)
        patch = start.clone()
        for number in range(1, self.steps + 1):
            seen = patch.clone().requires_grad_()
            features = head_inputs(classifier, seen[None])[0, wanted]
            loss = (features - self.excitation).square().sum()
            (gradient,) = torch.autograd.grad(loss, seen)
            moved = (patch - self.step_size * gradient.sign()).clamp(low, high)
            patch = torch.where(mask > 0, moved, start)
            if number % REPORT_EVERY == 0 or number == self.steps:
                yield Step(number, self.steps)
        return {"patch": patch.cpu().contiguous()}


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


def ellipse(side: int) -> Float[Tensor, "side side"]:
    """Return the mask, 1 inside: where the published apple lies, and as large."""
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    centre_y, centre_x = 162 / 224 * side, 161.5 / 224 * side
    # Half axes whose product gives 3524 of 224 × 224 pixels, in the apple's proportions.
    half_y, half_x = 37.5 / 224 * side, 29.9 / 224 * side
    inside = ((y - centre_y) / half_y) ** 2 + ((x - centre_x) / half_x) ** 2 <= 1
    return inside.float()


def _shading(side: int) -> Float[Tensor, "side side"]:
    """Return what the patch starts from: lighter at the top, as a lit ball is."""
    return torch.linspace(0.8, 0.3, side)[:, None].expand(side, side)


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
