"""PreAct-ResNet18, the field's standard victim."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, relu

from ulrl.models._base import register
from ulrl.models._pretrained import WEIGHTS, Pretrainable


@register("preact_resnet18")
@dataclass(frozen=True, kw_only=True)
class PreActResNet18(Pretrainable):
    """Identity mappings of He et al. (arXiv:1603.05027), eighteen layers, for small images.

    Parameter names and shapes at width 64 are BackdoorBench's, so its checkpoints load by
    name: a 3×3 stem without normalisation, and none after the last block.

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


@register("preact_resnet18_bn")
@dataclass(frozen=True, kw_only=True)
class PreActResNet18BN(PreActResNet18):
    """`PreActResNet18` with BatchNorm (``bn``) and ReLU between the last block and the pool.

    As in He et al.; many programs on adversarial training have it. Victims of BackdoorBench,
    VinAI and kuangliu do not.
    """

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del side  # fully convolutional up to the pool
        return _Network(self.width, channels, classes, last_norm=True)


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.stride = stride
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        active = relu(self.bn1(x))
        identity = x
        if self.shortcut is not None:
            # The stride is taken here, since torch 2.14's 1×1 convolution with a stride writes
            # beyond its memory on CPUs, for 8 channels or less in channels-last order.
            identity = self.shortcut(active[:, :, :: self.stride, :: self.stride])
        out: Tensor = self.conv2(relu(self.bn2(self.conv1(active))))
        return out + identity


class _Network(nn.Module):
    def __init__(self, width: int, channels: int, classes: int, *, last_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        channels_in = width
        for stage in range(4):
            channels_out = width * 2**stage
            blocks = nn.Sequential(
                _Block(channels_in, channels_out, stride=1 if stage == 0 else 2),
                _Block(channels_out, channels_out, stride=1),
            )
            self.add_module(f"layer{stage + 1}", blocks)
            channels_in = channels_out
        self.bn = nn.BatchNorm2d(channels_in) if last_norm else None
        self.linear = nn.Linear(channels_in, classes)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        out = self.conv1(x)
        for stage in range(4):
            out = self.get_submodule(f"layer{stage + 1}")(out)
        if self.bn is not None:
            out = relu(self.bn(out))
        logits: Tensor = self.linear(adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
