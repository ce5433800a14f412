"""Architectures that a function builds: any network of torch's that ends in a linear layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ulrl.models._base import Architecture, register
from ulrl.randomness import preserved_default_rng

Make = Callable[..., nn.Module]


class FunctionModel(Architecture):
    """What `from_function` makes of a function."""

    make: ClassVar[Make]

    def head_for(self, *, classes: int, channels: int, side: int) -> str:
        return _head(type(self), classes, channels, side)

    def check(self, *, classes: int, channels: int, side: int) -> None:
        _head(type(self), classes, channels, side)

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        return type(self).make(classes=classes, channels=channels, side=side)


def from_function(name: str) -> Callable[[Make], type[FunctionModel]]:
    """Return the decorator that registers a function as the architecture `name`.

    The function has the arguments `classes`, `channels` and `side`, and returns a new network
    for images ``[N, channels, side, side]`` whose output is that of an ``nn.Linear`` with a
    row per class. It must also build on torch's device ``meta``, where tensors have no numbers.

    Args:
        name: In study files.
    """

    def add(make: Make) -> type[FunctionModel]:
        # It takes the function's place in its module, where pickle finds it.
        place = {"__module__": make.__module__, "__qualname__": make.__qualname__}
        body = {**place, "__doc__": make.__doc__ or name, "make": staticmethod(make)}
        made: type[FunctionModel] = type(make.__name__, (FunctionModel,), body)
        return register(name)(dataclass(frozen=True, kw_only=True)(made))

    return add


@lru_cache(maxsize=64)
def _head(kind: type[FunctionModel], classes: int, channels: int, side: int) -> str:
    """Return the path of the layer whose output is the network's.

    Raises:
        ValueError: There is no network for such images, or no such layer.
    """
    images = f"{classes} classes of images [{channels}, {side}, {side}]"
    outputs: dict[str, Any] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _layer, _inputs, output: outputs.update({path: output})

    try:
        with preserved_default_rng(), torch.device("meta"), torch.no_grad():
            network = kind.make(classes=classes, channels=channels, side=side).eval()
            if any(map(is_lazy, network.parameters())):
                raise ValueError("it has lazy layers; give their sizes")  # noqa: TRY301
            for path, layer in network.named_modules():
                if isinstance(layer, nn.Linear):
                    layer.register_forward_hook(note(path))
            scores = network(torch.empty(2, channels, side, side))
    except Exception as error:
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"{kind.name} does not work for {images} ({text})") from error
    if not isinstance(scores, Tensor) or scores.shape != (2, classes):
        got = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        text = f"{kind.name} gives [2, {classes}] for two images of {classes} classes; got {got}"
        raise ValueError(text)
    head = next((path for path, output in outputs.items() if output is scores), None)
    if not head:
        raise ValueError(
            f"{kind.name} returns the output of an nn.Linear inside it, with a row per class; it "
            "returns something else"
        )
    return head
