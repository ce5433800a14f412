"""A network that hides a message in an image, and one that reads it."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ulrl.attacks._unet import FINEST, UNet


class Encoder(UNet):
    """A U-Net from an image and a message to the image with the message in it.

    After StegaStamp (Tancik et al., arXiv:1904.05343): the message becomes a picture that
    goes in beside the image, and once more beside the last features. It gives the change
    of the image, so that an untrained one is near to leaving images alone.
    """

    def __init__(self, channels: int, bits: int, width: int) -> None:
        message = nn.Linear(bits, channels * FINEST**2)  # the first of the layers to be drawn
        super().__init__(2 * channels, channels, width)
        self._channels = channels
        self.message = message

    def forward(
        self, images: Float[Tensor, "n c h w"], messages: Float[Tensor, "n bits"]
    ) -> Float[Tensor, "n c h w"]:
        """Return images in [0, 1] with the messages in them."""
        carried = self.message(2 * messages - 1)
        carried = carried.reshape(-1, self._channels, FINEST, FINEST)
        carried = interpolate(carried, size=images.shape[-2:], mode="nearest")
        change = self.transformed(torch.cat([images - 0.5, carried], dim=1))
        return (images + change).clamp(0, 1)


class Decoder(nn.Module):
    """Seven convolutions and two dense layers from an image to the bits it carries.

    BatchNorm, which StegaStamp's has not, lets it read within hundreds of steps; without,
    bits stay at chance for thousands.
    """

    def __init__(self, channels: int, bits: int, width: int, side: int) -> None:
        super().__init__()
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width, 4 * width]
        strides = [2, 1, 2, 1, 2, 1, 2]
        layers: list[nn.Module] = []
        before = channels
        for after, stride in zip(widths, strides, strict=True):
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        self.features = nn.Sequential(*layers, nn.Flatten())
        fan_in = before * (side // FINEST) ** 2
        self.dense = nn.Sequential(nn.Linear(fan_in, 512), nn.ReLU(), nn.Linear(512, bits))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n bits"]:
        """Return a logit for each bit."""
        logits: Tensor = self.dense(self.features(images - 0.5))
        return logits
