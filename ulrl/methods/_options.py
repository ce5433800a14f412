"""Rules of options that several methods have, and of the networks that they apply to."""

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from ulrl.fitting import BATCHNORM
from ulrl.methods._cuts import Rule


def check_options(method: Any, *, rules: Sequence[Rule]) -> None:
    """Raise ``ValueError`` unless a cutting method's `rule` and `budget` are within range.

    Args:
        method: With both as fields.
        rules: Those that it offers.
    """
    if method.rule not in rules:
        raise ValueError(f"rule is {' or '.join(rules)} for {method.name}; got {method.rule}")
    if not 0 <= method.budget < 1:
        raise ValueError(
            f"budget is a share of the held-out accuracy, in [0, 1); got {method.budget}"
        )


def batchnorms(network: nn.Module) -> Iterator[tuple[str, BATCHNORM]]:
    """Yield each BatchNorm that has a scale and running statistics, by its path."""
    for path, module in network.named_modules():
        if isinstance(module, BATCHNORM) and module.affine and module.track_running_stats:
            yield path, module


def check_batchnorm(network: nn.Module, name: str) -> None:
    """Raise ``ValueError`` where a network has no BatchNorm with a scale."""
    if not any(True for _ in batchnorms(network)):
        raise ValueError(f"{name} needs BatchNorm layers, and the network has none")
