"""SSBA: a message hidden in each image by a network."""

from collections.abc import Generator as Steps
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss
from torch.optim import Adam

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
from ulrl.attacks._networks import drawn, in_chunks, kept, restored
from ulrl.attacks._stega import Decoder, Encoder
from ulrl.attacks._unet import FINEST
from ulrl.datasets import DatasetInfo
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.poison import Attack, Images, Poison, Split, Stamp, Trigger
from ulrl.randomness import generator as named_generator
from ulrl.supervised import VictimConfig

# Options of an encoder that is trained here.
_MADE = ("bits", "epochs", "batch_size", "lr", "image_weight", "width", "train_images")
_TRAIN, _TEST = "train_replacements", "test_replacements"


@register("ssba")
@dataclass(frozen=True, kw_only=True)
class SSBA(Attack):
    """Sample-specific backdoor of Li et al. (arXiv:2012.03816).

    An encoder like StegaStamp's hides one message in every image, so that each image changes
    in its own way. It is trained with a decoder on the training images; the message is a
    random one, drawn once per scenario (the published one is a coded text, which makes no
    difference to the trigger).

    Attributes:
        bits: Length of the message; 100 in the paper.
        epochs: Of the encoder's training; 20 in BackdoorBench.
        batch_size: Images per step there; 64.
        lr: Learning rate there, with Adam.
        image_weight: Weight of the images' mean squared error (in [0, 1] units) against the
            bits' cross-entropy. It is 0 for the first tenth of the training, since bits are
            learned first or not at all, and rises to its value by the middle.
        width: Channels of the networks' first layers; 32 in StegaStamp.
        train_images: How many training images an epoch sees; 0 is all of them.
        train_replacements: The path of an ``.npy`` that has the encoded images already, as
            BackdoorBench takes them: of all training images, uint8 ``[N, H, W, C]``, in the
            dataset's order. Nothing is trained then, and `stamp` is ``before_augmentation``.
        test_replacements: The same of all test images; for `tiny_imagenet` in the dataset's
            order or BackdoorBench's, whichever fits the images.
    """

    bits: int = 100
    epochs: int = 20
    batch_size: int = 64
    lr: float = 1e-3
    image_weight: float = 100.0
    width: int = 32
    train_images: int = 0
    train_replacements: str | None = field(default=None, metadata=FILE)
    test_replacements: str | None = field(default=None, metadata=FILE)

    def __post_init__(self) -> None:
        for name in ("bits", "epochs", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a count, at least 1; got {getattr(self, name)}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size is at least 2; got {self.batch_size}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr is a learning rate, above 0 and at most 1; got {self.lr}")
        if not 0 <= self.image_weight <= 1e6:
            raise ValueError(f"image_weight is a weight, 0 to 1e6; got {self.image_weight}")
        if self.train_images < 0:
            raise ValueError(
                f"train_images is a count, or 0 for all of them; got {self.train_images}"
            )
        given = self._files
        if len(given) == 1:
            (there,) = given
            (absent,) = {_TRAIN, _TEST} - {there}
            raise ValueError(f"{there} goes with {absent}; name both files, or none")
        for option, path in given.items():
            check_name(option, path, ARRAYS)
            check_alone(self, option, _MADE)

    @property
    def _files(self) -> dict[str, str]:
        both = {_TRAIN: self.train_replacements, _TEST: self.test_replacements}
        return {option: path for option, path in both.items() if path is not None}

    @property
    def stamps(self) -> tuple[Stamp, ...]:
        return (Stamp.BEFORE_AUGMENTATION,) if self._files else tuple(Stamp)

    def identity(self) -> dict[str, Any]:
        """Return what tells sets of images from others.

        Raises:
            AttackFileError: A file is missing or cannot be read.
        """
        return {name: content_of_images(path, name) for name, path in self._files.items()}

    def check_info(self, info: DatasetInfo) -> None:
        counts = {_TRAIN: info.train_count, _TEST: info.test_count}
        for option, path in self._files.items():
            check_images(path, option, counts[option], info)

    def check(self, *, side: int, channels: int) -> None:
        del channels
        if side % FINEST and not self._files:
            raise ValueError(
                f"its encoder halves images four times: sides of {FINEST}·n; got {side}"
            )

    def helper(self, poison: Poison) -> Helper | None:
        del poison  # messages know no labels
        if self._files:
            return None
        return StegaEncoder(
            bits=self.bits,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            image_weight=self.image_weight,
            width=self.width,
            train_images=self.train_images,
        )

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        if self._files:
            return _Given(train=self._files[_TRAIN], test=self._files[_TEST])
        source = named_generator(seed, "ssba", "message")
        message = torch.randint(2, (1, self.bits), generator=source).float()
        return _Hidden(learned=learned, message=message, width=self.width)


@dataclass(frozen=True, kw_only=True)
class StegaEncoder(Helper):
    """The encoder.

    Attributes:
        bits: As for `SSBA`, like the others.
        epochs: See there.
        batch_size: See there.
        lr: See there.
        image_weight: See there.
        width: See there.
        train_images: See there.
    """

    of_victim: ClassVar[bool] = False

    bits: int
    epochs: int
    batch_size: int
    lr: float
    image_weight: float
    width: int
    train_images: int

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 2.0 * self.epochs

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        """Train it.

        Returns:
            Its state under ``encoder/``; ``bit_accuracy`` of the decoder and ``error``, the mean
            squared one of the images, over the last epoch.
        """
        channels, side = context.model_spec.channels, context.model_spec.side
        encoder = drawn(partial(Encoder, channels, self.bits, self.width), context.seed, "encoder")
        decoder = drawn(
            partial(Decoder, channels, self.bits, self.width, side), context.seed, "decoder"
        )
        encoder, decoder = encoder.to(context.device), decoder.to(context.device)
        optimiser = Adam([*encoder.parameters(), *decoder.parameters()], lr=self.lr)
        source = named_generator(context.seed, "ssba", "training")
        images = context.images.train_images
        count = min(self.train_images, len(images)) or len(images)
        right = torch.zeros((), device=context.device)
        error = torch.zeros((), device=context.device)
        for epoch in range(1, self.epochs + 1):
            order = torch.randperm(len(images), generator=source)[:count]
            batches = torch.split(order, self.batch_size)
            right, error = torch.zeros_like(right), torch.zeros_like(error)
            for number, chosen in enumerate(batches):
                pixels = images[chosen].to(context.device).float() / 255
                bits = torch.randint(2, (len(chosen), self.bits), generator=source).float()
                bits = bits.to(context.device)
                done = (epoch - 1 + number / len(batches)) / self.epochs
                marked = encoder(pixels, bits)
                read = decoder(marked)
                apart = mse_loss(marked, pixels)
                loss = binary_cross_entropy_with_logits(read, bits)
                loss = loss + _ramp(done) * self.image_weight * apart
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                right += ((read.detach() > 0) == (bits > 0.5)).float().mean() * len(chosen) / count
                error += apart.detach() * len(chosen) / count
            yield Step(epoch, self.epochs)
        return {**kept(encoder, "encoder"), "bit_accuracy": right.cpu(), "error": error.cpu()}


def _ramp(done: float) -> float:
    return min(1.0, max(0.0, (done - 0.1) / 0.4))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Hidden(Trigger):
    """Hides one message in every image."""

    learned: Learned
    message: Tensor
    width: int

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # encoder and message are fixed
        build = partial(Encoder, images.shape[1], self.message.shape[1], self.width)
        encoder = restored(build, self.learned, "encoder", images.device)
        message = self.message.to(images.device)
        return in_chunks(lambda part: encoder(part, message.expand(len(part), -1)), images)


@dataclass(frozen=True, kw_only=True)
class _Given(Trigger):
    """Triggered images that were made elsewhere, each known by the place of its original."""

    train: str
    test: str

    def stamp(self, images: Images, generator: Generator) -> Images:
        del images, generator
        raise ValueError(
            f"ssba with {_TRAIN} has triggered copies of its dataset's images only; leave the "
            f"files out to train an encoder for others"
        )

    def replacements(
        self, split: Split, index: Int64[Tensor, " n"]
    ) -> UInt8[Tensor, "n c h w"] | None:
        if split is Split.TRAINING:
            return chosen_images(self.train, _TRAIN, index)
        return chosen_images(self.test, _TEST, index)
