"""A network of two convolutions, small enough for `ulrl.audits.certify`."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from ulrl.models._base import Architecture, register


@register("small_cnn")
@dataclass(frozen=True, kw_only=True)
class SmallCNN(Architecture):
    """Two convolutions of stride 2, each with BatchNorm and ReLU, and a linear head.

    No published study has it: it is for digits, and for what large networks do not allow.

    Attributes:
        width: Channels of the first convolution; the second has twice as many.
    """

    width: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 1024:
            raise ValueError(f"width is in channels, from 1 to 1024; got {self.width}")

    @property
    def head(self) -> str:
        return "linear"

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        return _Network(self.width, channels, side, classes)


class _Network(nn.Module):
    def __init__(self, width: int, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(2 * width * ((side + 3) // 4) ** 2, classes)

    def forward(self, x: Float[Tensor, "n channels side side"]) -> Float[Tensor, "n classes"]:
        x = self.relu1(self.bn1(self.conv1(x)))
        logits: Tensor = self.linear(self.flatten(self.relu2(self.bn2(self.conv2(x)))))
        return logits
