"""Networks of a few weights, as classifiers."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor, nn

from ulrl.datasets import Preprocessing
from ulrl.models import Architecture, Classifier, ModelSpec, Weights

Victims = Callable[[int], Weights]  # the victim of a seed


@dataclass(frozen=True, kw_only=True)
class Made(Architecture):
    """An architecture that a test builds itself; its last linear layer is called `head`."""

    network: Callable[[], nn.Module] = field(repr=False)

    name = "made"

    @property
    def head(self) -> str:
        return "head"

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        del classes, channels, side
        return self.network()


class HeadAlone(nn.Module):
    """Nothing but a head."""

    def __init__(self, fan_in: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(fan_in, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1))
        return logits


class Mixed(nn.Module):
    """Convolutions with a bias and without, attention, and linear layers, the head first."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.conv = nn.Conv2d(2, 4, 2)
        self.point = nn.Conv2d(4, 4, 1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mixer = nn.Linear(4, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.point(self.conv(x))).relu()
        tokens = maps.flatten(2).transpose(1, 2)
        tokens, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        logits: Tensor = self.head(self.mixer(tokens.mean(dim=1)))
        return logits


def classifier_of(build: Callable[[], nn.Module], channels: int = 2, side: int = 5) -> Classifier:
    """Return a classifier with weights that are always the same."""
    model_spec = ModelSpec(
        architecture=Made(network=build),
        classes=3,
        channels=channels,
        side=side,
        preprocessing=Preprocessing(
            mean=(0.5,) * channels, std=(0.25,) * channels, padding=1, flip=False
        ),
    )
    network = build()
    source = Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=source)
    return Classifier(model_spec, network, torch.device("cpu"))


def weights_of(build: Callable[[], nn.Module]) -> Weights:
    return classifier_of(build).weights()
