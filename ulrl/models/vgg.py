"""VGG19 with batch normalisation, a victim of the benchmarks."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ulrl.models._base import register
from ulrl.models._pretrained import WEIGHTS, Pretrainable

STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 4))  # multiple of the width, convolutions
POOLED = 7  # side of the features that the classifier sees
HIDDEN = 64  # units of the classifier's hidden layers per channel of the first stage
HALVED = 2 ** len(STAGES)  # an image's side over that of its features


@register("vgg19_bn")
@dataclass(frozen=True, kw_only=True)
class VGG19BN(Pretrainable):
    """Configuration E of Simonyan and Zisserman (arXiv:1409.1556) with batch normalisation.

    Parameter names, shapes and the initial draw at width 64 are torchvision's, and so
    BackdoorBench's. Features of other than 7×7, so all of images below 224 px, are averaged
    or repeated to 7×7. Images of less than 32 px keep features of 1×1 once they are that
    small; torchvision would have none left.

    Attributes:
        width: Channels of the first stage; 2, 4, 8 and 8 times as many follow. The
            classifier's hidden layers have 64 times as many units.
        dropout: Share of hidden units that a training step leaves out.
        weights: A file that training starts from; by default a random draw.
    """

    width: int = 64
    dropout: float = 0.5
    weights: str | None = field(default=None, metadata=WEIGHTS)

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 256:
            raise ValueError(f"width is in channels, from 1 to 256; got {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share, so 0 <= dropout < 1; got {self.dropout}")
        self.check_weights()

    @property
    def head(self) -> str:
        return "classifier.6"

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        network = _Network(self.width, self.dropout, channels, classes, small=side < HALVED)
        _draw(network)
        return network


class _Network(nn.Module):
    def __init__(
        self, width: int, dropout: float, channels: int, classes: int, *, small: bool
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels_in = channels
        for multiple, convolutions in STAGES:
            for _ in range(convolutions):
                convolution = nn.Conv2d(channels_in, multiple * width, 3, padding=1)
                channels_in = multiple * width
                layers += [convolution, nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True)]
            layers.append(nn.MaxPool2d(2, ceil_mode=small))
        self.features = nn.Sequential(*layers)
        hidden = HIDDEN * width
        self.classifier = nn.Sequential(
            nn.Linear(channels_in * POOLED**2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        logits: Tensor = self.classifier(_resized(self.features(x)).flatten(1))
        return logits


def _resized(features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 7 7"]:
    """Return what an adaptive average pool gives; that has no deterministic gradient on GPUs."""
    for axis in (-2, -1):
        features = _averaged(features, axis)
    return features


def _averaged(features: Tensor, axis: int) -> Tensor:
    side = features.shape[axis]
    if side == POOLED:
        return features
    if side == 1:
        shape = [-1] * features.dim()
        shape[axis] = POOLED
        return features.expand(shape)
    bins = ((i * side // POOLED, -(-(i + 1) * side // POOLED)) for i in range(POOLED))
    means = [features.narrow(axis, first, end - first).mean(dim=axis) for first, end in bins]
    return torch.stack(means, dim=axis)


def _draw(network: nn.Module) -> None:
    """Draw initial weights as torchvision does."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
