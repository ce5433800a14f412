"""Input-aware: a pattern of its own for every image, learned along with the victim."""

from collections.abc import Generator as Steps
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from ulrl.attacks._base import register
from ulrl.attacks._input_aware_hooks import PatternHooks
from ulrl.attacks._input_aware_networks import (
    AutoEncoder,
    density_loss,
    diversity,
    sharpened,
    standardised,
    statistics_of,
)
from ulrl.attacks._networks import drawn, in_chunks, kept, restored
from ulrl.augmentation import apply_views, draw_views
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.poison import Attack, Images, Poison, Stamp, Trigger
from ulrl.randomness import generator as named_generator
from ulrl.supervised import VictimConfig

BETAS = (0.5, 0.9)  # of Adam
BATCH = 128  # of the mask network's training; whatever the victim's, since victims share it


@register("input_aware")
@dataclass(frozen=True, kw_only=True)
class InputAware(Attack):
    """Input-aware dynamic backdoor of Nguyen and Tran (arXiv:2010.08138).

    One network marks where an image may be changed, another what with. The first is trained
    beforehand; the second along with the victim, which learns at the same time that pattern and
    mask of *another* image mean nothing (cross mode: such images keep their true label).

    Networks and losses are those of the authors' release. BackdoorBench's networks differ in
    one thing, which is left out: they apply tanh twice, so patterns lie in [0.12, 0.88].

    Attributes:
        density: Share of an image's pixels that its mask may cover; 0.032 in the paper.
        mask_epochs: Of the mask network's training; 25 there.
        mask_weight: Weight of the density against the diversity of masks; 100 there.
        diversity_weight: Weight of the diversity of patterns against the classification.
        lr: Learning rate of both networks, with Adam; 0.01 there.
        cross_ratio: Images in cross mode per poisoned image; 1 there.
        width: Channels of the networks' first stage; 32 there.
        accumulate_gradients: Whether the pattern network's gradients are never set back to
            zero, as in the code of the authors and of BackdoorBench; the paper does not ask
            for it.
    """

    default_stamp: ClassVar[Stamp] = Stamp.AFTER_AUGMENTATION
    redrawn: ClassVar[bool] = True
    version: ClassVar[int] = 2

    density: float = 0.032
    mask_epochs: int = 25
    mask_weight: float = 100.0
    diversity_weight: float = 1.0
    lr: float = 0.01
    cross_ratio: float = 1.0
    width: int = 32
    accumulate_gradients: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.density < 1:
            raise ValueError(f"density is a share of pixels, in (0, 1); got {self.density}")
        if self.mask_epochs < 1:
            raise ValueError(f"mask_epochs is at least 1; got {self.mask_epochs}")
        for name in ("mask_weight", "diversity_weight"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise ValueError(f"{name} is a weight, 0 to 1e6; got {getattr(self, name)}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr is a learning rate, above 0 and at most 1; got {self.lr}")
        if not 0 <= self.cross_ratio <= 100:
            raise ValueError(
                f"cross_ratio is in images per poisoned image, 0 to 100; got {self.cross_ratio}"
            )
        if self.width < 1:
            raise ValueError(f"width is in channels, at least 1; got {self.width}")

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side % 8:
            raise ValueError(f"its networks halve images three times: sides of 8·n; got {side}")

    def cover_ratio_at(self, poison_ratio: float) -> float:
        return self.cross_ratio * poison_ratio

    def helper(self, poison: Poison) -> Helper:
        del poison  # masks know no labels
        return MaskNetwork(
            density=self.density,
            epochs=self.mask_epochs,
            weight=self.mask_weight,
            lr=self.lr,
            width=self.width,
        )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed
        return _Patterned(learned=learned, width=self.width)

    def training_hooks(self, poison: Poison, context: AttackContext) -> PatternHooks:
        channels = context.model_spec.channels
        mask = restored(
            partial(AutoEncoder, channels, 1, self.width), context.learned, "mask", context.device
        )
        pattern = drawn(
            partial(AutoEncoder, channels, channels, self.width),
            context.seed,
            "input_aware",
            "pattern",
        )
        return PatternHooks(
            poison,
            context,
            trigger=self.trigger(context.seed, context.learned),
            mask=mask,
            pattern=pattern.to(context.device),
            lr=self.lr,
            betas=BETAS,
            diversity_weight=self.diversity_weight,
            accumulate=self.accumulate_gradients,
        )


@dataclass(frozen=True, kw_only=True)
class MaskNetwork(Helper):
    """The network of the masks, trained on views of the clean training images.

    Attributes:
        density: As for `InputAware`, like the others.
        epochs: See there.
        weight: See there.
        lr: See there.
        width: See there.
    """

    of_victim: ClassVar[bool] = False
    version: ClassVar[int] = 2

    density: float
    epochs: int
    weight: float
    lr: float
    width: int

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 1.0 * self.epochs

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        """Train it; the result is its state under ``mask/``, and the ``statistics`` of pixels."""
        channels = context.model_spec.channels
        build = partial(AutoEncoder, channels, 1, self.width)
        network = drawn(build, context.seed, "input_aware", "mask").to(context.device).train()
        optimiser = Adam(network.parameters(), lr=self.lr, betas=BETAS)
        falls = [int(share * self.epochs) for share in (0.4, 0.8)]  # 10 and 20 of 25
        steps = MultiStepLR(optimiser, [epoch for epoch in falls if epoch > 0])
        order, views = (
            named_generator(context.seed, "input_aware", "mask", use) for use in ("order", "views")
        )
        preprocessing = context.model_spec.preprocessing
        statistics = statistics_of(preprocessing.mean, preprocessing.std)
        images = context.images.train_images.to(context.device)
        count = len(images)
        for epoch in range(1, self.epochs + 1):
            seen_as = draw_views(count, preprocessing, views, context.device)
            shuffled = torch.randperm(count, generator=order).to(context.device)
            for chosen in torch.split(shuffled, BATCH):
                if len(chosen) < 2:
                    continue  # one image differs from no other
                pixels = (
                    apply_views(images[chosen], seen_as.of(chosen), preprocessing).float() / 255
                )
                seen = standardised(pixels, statistics)
                masks = sharpened(network(seen))
                loss = self.weight * density_loss(masks, self.density)
                loss = loss + diversity(seen, seen.roll(1, dims=0), masks, masks.roll(1, dims=0))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            steps.step()
            yield Step(epoch, self.epochs)
        return {**kept(network, "mask"), "statistics": statistics}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Patterned(Trigger):
    """What the trained networks make of each image."""

    learned: Learned
    width: int

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # the networks are fixed
        channels = images.shape[1]
        if not any(name.startswith("pattern/") for name in self.learned):
            raise RuntimeError("the trigger of input_aware is learned along with its victim")
        device = images.device
        build = partial(AutoEncoder, channels, width=self.width)
        mask = restored(partial(build, 1), self.learned, "mask", device)
        pattern = restored(partial(build, channels), self.learned, "pattern", device)
        statistics = self.learned["statistics"]

        def stamped(part: Tensor) -> Tensor:
            seen = standardised(part, statistics)
            where = sharpened(mask(seen))
            altered: Tensor = part + (pattern(seen) - part) * where
            return altered

        return in_chunks(stamped, images).clamp(0, 1)
