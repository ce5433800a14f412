"""Poison Ink: the edges of each image, coloured, hidden in it by a network."""

from collections.abc import Generator as Steps
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam
from torch.optim.lr_scheduler import MultiStepLR

from ulrl.attacks._base import register
from ulrl.attacks._ink import (
    BLANK,
    Adversary,
    Extractor,
    Injector,
    draw_motions,
    edges_of,
    ink_picture,
    moved,
)
from ulrl.attacks._networks import drawn, in_chunks, kept, restored
from ulrl.attacks._unet import FINEST
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.poison import Attack, Images, Poison, Trigger
from ulrl.randomness import generator as named_generator
from ulrl.supervised import VictimConfig

STAGES = 4  # of the training: rotations; crops as well; reflections as well; an adversary as well
EDGE_WEIGHT = 13.0  # of errors at edges, in the authors' code
BETAS = (0.5, 0.999)
CLEAN = 1.0  # what the adversary finds in patches of clean images; 0 in those of triggered ones


@register("poison_ink")
@dataclass(frozen=True, kw_only=True)
class PoisonInk(Attack):
    """Poison Ink of Zhang et al. (IEEE TIP 2022, arXiv:2108.02488).

    The edges of an image, filled with a colour, are its *ink picture*. A U-Net hides it in the
    image. It is trained on the training images with an extractor, which reads the ink picture
    from a triggered image and a blank one from a clean image, both rotated, cropped or
    reflected first; and at the end with an adversary, which tells triggered images from clean
    ones.

    Weights, rates and stages are those of the authors' code, which BackdoorBench has too, but
    for the adversary's weight. These differ: the U-Net gives the change of the image, and has
    no BatchNorm and fewer channels; each image has a crop and a reflection of its own, and a
    rotation within 15° (theirs is in a file that is not public). Victims are trained as those
    of `badnets` are; theirs see as many triggered images as clean ones in each step, without
    augmentation.

    Attributes:
        colour: Red, green and blue of the ink, in grey levels of 255. Grey images get its
            luminance.
        threshold: What is an edge: where Sobel's magnitude of the luminance is above it, in
            grey levels of 255.
        epochs: Of each of the four stages of the training: with rotations, with crops as
            well, with reflections as well, with the adversary as well; 200 in the authors'
            code. In each, the rate falls to a tenth after 40 and 80 %.
        batch_size: Images per step there; 32.
        lr: Learning rate there, with Adam.
        image_weight: Weight of the images' mean squared error (in [0, 1] units) against those
            of what is read; 1 there. Less gives a stronger trigger, and a more visible one.
        clean_weight: Weight of the error of what is read from clean images; 100 there. Less
            lets the extractor learn sooner.
        adversarial_weight: Weight of the adversary; 0 leaves it out, as BackdoorBench does, which
            saw an ASR of about 50 % with it. In the authors' code it is 1 in training and 0.01
            in validation.
        width: Channels of the U-Net's and the adversary's first layers; 64 there. The extractor
            has twice as many.
    """

    colour: tuple[int, ...] = (80, 160, 80)
    threshold: float = 28.0
    epochs: int = 200
    batch_size: int = 32
    lr: float = 2e-4
    image_weight: float = 1.0
    clean_weight: float = 100.0
    adversarial_weight: float = 0.01
    width: int = 64

    def __post_init__(self) -> None:
        if len(self.colour) != 3 or not all(0 <= level <= 255 for level in self.colour):
            raise ValueError(
                f"colour is red, green and blue in grey levels, 0 to 255; got {list(self.colour)}"
            )
        if all(level == 255 for level in self.colour):
            raise ValueError("colour is white, as what is no edge is; take a darker one")
        if not 0 <= self.threshold < 255:
            raise ValueError(
                f"threshold is in grey levels, at least 0 and below 255; got {self.threshold}"
            )
        for name in ("epochs", "batch_size", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a count, at least 1; got {getattr(self, name)}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr is a learning rate, above 0 and at most 1; got {self.lr}")
        for name in ("image_weight", "clean_weight", "adversarial_weight"):
            if not 0 <= getattr(self, name) <= 1e6:
                raise ValueError(f"{name} is a weight, 0 to 1e6; got {getattr(self, name)}")

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side % FINEST:
            raise ValueError(f"its U-Net halves images four times: sides of {FINEST}·n; got {side}")

    def helper(self, poison: Poison) -> Helper:
        del poison  # edges know no labels
        return InkInjector(
            colour=self.colour,
            threshold=self.threshold,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            image_weight=self.image_weight,
            clean_weight=self.clean_weight,
            adversarial_weight=self.adversarial_weight,
            width=self.width,
        )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed
        return _Inked(
            learned=learned, colour=self.colour, threshold=self.threshold, width=self.width
        )


@dataclass(frozen=True, kw_only=True)
class InkInjector(Helper):
    """The U-Net that hides ink pictures, with the extractor that reads them.

    Attributes:
        colour: As for `PoisonInk`, like the others.
        threshold: See there.
        epochs: See there.
        batch_size: See there.
        lr: See there.
        image_weight: See there.
        clean_weight: See there.
        adversarial_weight: See there.
        width: See there.
    """

    of_victim: ClassVar[bool] = False

    colour: tuple[int, ...]
    threshold: float
    epochs: int
    batch_size: int
    lr: float
    image_weight: float
    clean_weight: float
    adversarial_weight: float
    width: int

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 5.0 * STAGES * self.epochs

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        """Train it.

        Returns:
            States under ``injector/`` and ``extractor/``, and mean squared errors over the last
            epoch: ``error`` of the images, ``ink_error`` of the pictures read from triggered
            ones, ``blank_error`` of those read from clean ones.
        """
        channels, device = context.model_spec.channels, context.device
        injector, extractor, adversary = (
            drawn(partial(kind, channels, width), context.seed, "poison_ink", name).to(device)
            for kind, width, name in (
                (Injector, self.width, "injector"),
                (Extractor, 2 * self.width, "extractor"),
                (Adversary, self.width, "adversary"),
            )
        )
        order, motions = (
            named_generator(context.seed, "poison_ink", use) for use in ("order", "motions")
        )
        images = context.images.train_images
        errors = torch.zeros(3, device=device)
        for stage in range(STAGES):
            hiding = _Rate([*injector.parameters(), *extractor.parameters()], self.lr, self.epochs)
            judging = _Rate([*adversary.parameters()], self.lr, self.epochs)
            judged = stage == STAGES - 1 and self.adversarial_weight > 0
            for epoch in range(1, self.epochs + 1):
                errors = torch.zeros_like(errors)
                shuffled = torch.randperm(len(images), generator=order)
                for chosen in torch.split(shuffled, self.batch_size):
                    clean = images[chosen].to(device).float() / 255
                    motion = draw_motions(
                        len(chosen), clean.shape[-1], motions, crop=stage > 0, flip=stage > 1
                    )
                    triggered = injector(clean, self._ink(clean))
                    apart = mse_loss(triggered, clean)
                    read = self._read(extractor, triggered, clean, motion.to(device))
                    loss = self.image_weight * apart + read.loss
                    if judged:
                        passed = (adversary(triggered) - CLEAN).square().mean()
                        loss = loss + self.adversarial_weight * passed
                    hiding.step(loss)
                    if judged:
                        found = adversary(torch.cat([clean, triggered.detach()]))
                        own, others = found.chunk(2)
                        judging.step(((own - CLEAN).square().mean() + others.square().mean()) / 2)
                    share = len(chosen) / len(images)
                    errors += share * torch.stack([apart, read.ink, read.blank]).detach()
                hiding.fall()
                if judged:
                    judging.fall()
                yield Step(stage * self.epochs + epoch, STAGES * self.epochs)
        error, ink_error, blank_error = errors.cpu()
        return {
            **kept(injector, "injector"),
            **kept(extractor, "extractor"),
            "error": error.clone(),
            "ink_error": ink_error.clone(),
            "blank_error": blank_error.clone(),
        }

    def _ink(self, images: Images) -> Images:
        return ink_picture(edges_of(images, self.threshold), self.colour, images.shape[1])

    def _read(
        self, extractor: nn.Module, triggered: Images, clean: Images, motion: Tensor
    ) -> "_Read":
        """Compare what is read from images, once they are transformed, with what they show then."""
        seen = moved(torch.cat([triggered, clean]), torch.cat([motion, motion]))
        read: Tensor = extractor(seen)
        found, rest = read.chunk(2)
        edges = edges_of(seen.chunk(2)[1], self.threshold)
        squares = (found - ink_picture(edges, self.colour, clean.shape[1])).square()
        blank = (rest - BLANK).square().mean()
        at_edges, elsewhere = (squares * edges).mean(), (squares * ~edges).mean()
        loss = EDGE_WEIGHT * at_edges + elsewhere + self.clean_weight * blank
        return _Read(loss=loss, ink=at_edges + elsewhere, blank=blank)


class _Read(NamedTuple):
    """What an extractor made of a batch: the loss, and mean squared errors."""

    loss: Tensor
    ink: Tensor
    blank: Tensor


class _Rate:
    """Adam for one stage, its rate a tenth after two fifths of the epochs, and after two more."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, epochs: int) -> None:
        self._optimiser = Adam(parameters, lr=lr, betas=BETAS)
        falls = [int(share * epochs) for share in (0.4, 0.8)]  # 80 and 160 of 200
        self._schedule = MultiStepLR(self._optimiser, [epoch for epoch in falls if epoch > 0])

    def step(self, loss: Tensor) -> None:
        """Take a step down a loss."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()

    def fall(self) -> None:
        """Go on to the next epoch's rate."""
        self._schedule.step()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Inked(Trigger):
    """Hides in each image its own edges."""

    learned: Learned
    colour: tuple[int, ...]
    threshold: float
    width: int

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # the network is fixed
        channels = images.shape[1]
        build = partial(Injector, channels, self.width)
        injector = restored(build, self.learned, "injector", images.device)

        def stamped(part: Tensor) -> Tensor:
            ink = ink_picture(edges_of(part, self.threshold), self.colour, channels)
            inked: Tensor = injector(part, ink)
            return inked

        return in_chunks(stamped, images).clamp(0, 1)
