"""ResNet18 for images of 32 px, with activations after the additions."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from ulrl.models._base import register
from ulrl.models._pretrained import WEIGHTS, Pretrainable


@register("resnet18_cifar")
@dataclass(frozen=True, kw_only=True)
class CifarResNet18(Pretrainable):
    """Residual network of He et al. (arXiv:1512.03385), eighteen layers, for small images.

    Parameter names and shapes at width 64 are those of kuangliu's ``pytorch-cifar``, which
    most code on backdoors has copied: a 3×3 stem, no pool after it, and a head ``linear``.
    ``timm:resnet18`` is the network for ImageNet, with a 7×7 stem and a pool.

    Attributes:
        width: Channels of the stem and the first stage; doubled in each later stage.
        weights: A file that training starts from; by default a random draw.
    """

    width: int = 64
    weights: str | None = field(default=None, metadata=WEIGHTS)

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 1024:
            raise ValueError(f"width is in channels, from 1 to 1024; got {self.width}")
        self.check_weights()

    @property
    def head(self) -> str:
        return "linear"

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del side  # fully convolutional up to the pool
        return _Network(self.width, channels, classes)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        # The stride is taken here, since torch 2.14's 1×1 convolution with a stride writes
        # beyond its memory on CPUs, for 8 channels or less in channels-last order.
        identity = self.shortcut(x[:, :, :: self.stride, :: self.stride])
        out = relu(self.bn1(self.conv1(x)))
        return relu(self.bn2(self.conv2(out)) + identity)


class _Network(nn.Module):
    def __init__(self, width: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        channels_in = width
        for stage in range(4):
            channels_out = width * 2**stage
            blocks = nn.Sequential(
                _Block(channels_in, channels_out, stride=1 if stage == 0 else 2),
                _Block(channels_out, channels_out, stride=1),
            )
            self.add_module(f"layer{stage + 1}", blocks)
            channels_in = channels_out
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        out = relu(self.bn1(self.conv1(x)))
        for stage in range(4):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
