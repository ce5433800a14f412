"""An attack with a helper, in a file outside the package: it adds the images' own mean."""

from collections.abc import Generator as Steps
from dataclasses import dataclass

from torch import Generator, Tensor

from ulrl.attacks import Attack, AttackContext, Helper, Images, Learned, Step, Trigger, register
from ulrl.poison import Poison


@register("tint")
@dataclass(frozen=True, kw_only=True)
class Tint(Attack):
    """Adds `strength` times the mean training image and clips."""

    strength: float = 0.5

    def helper(self, poison: Poison) -> Helper:
        del poison
        return MeanImage()

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed
        return _Added(pattern=self.strength * learned["mean"])


@dataclass(frozen=True, kw_only=True)
class MeanImage(Helper):
    """The mean of the training images, from 0 to 1."""

    of_victim = False

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        mean = context.images.train_images.double().mean(dim=0) / 255
        yield Step(1, 1)
        return {"mean": mean.float()}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Added(Trigger):
    pattern: Tensor

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator
        return (images + self.pattern.to(images)).clamp(0, 1)
