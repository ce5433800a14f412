"""Stochastic gradient descent over the parameters of a network."""

from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.sgd import sgd as update


class SGD:
    """``torch.optim.SGD`` in its fused form, by torch's own function, to the bit.

    It differs in two things. Making one of torch's optimisers imports its compiler: a
    second of each process' time for what is not used here. And torch makes the velocities of
    its fused form at the first step and sets them in it: where loss scaling leaves that step
    out, as it often does in fp16, the second would go by whatever the memory held. Here they
    are made at once.

    Attributes:
        param_groups: One, of all parameters; its ``lr`` may be set before each step.
    """

    # A GradScaler then sets `grad_scale` (what to divide gradients by) and `found_inf` (whether
    # to leave the step out) for a step, on the device: nothing waits to see them.
    _step_supports_amp_scaling = True

    def __init__(
        self,
        network: nn.Module,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool = False,
    ) -> None:
        parameters = list(network.parameters())
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": lr}]
        self._momentum = momentum
        self._weight_decay = weight_decay
        self._nesterov = nesterov
        self._velocities = [torch.zeros_like(p) if momentum > 0 else None for p in parameters]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.param_groups[0]["params"]:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move each parameter that has a gradient."""
        (group,) = self.param_groups
        moved = [
            (parameter, parameter.grad, velocity)
            for parameter, velocity in zip(group["params"], self._velocities, strict=True)
            if parameter.grad is not None
        ]
        update(
            [parameter for parameter, _, _ in moved],
            [gradient for _, gradient, _ in moved],
            [velocity for _, _, velocity in moved],
            fused=True,
            grad_scale=getattr(self, "grad_scale", None),
            found_inf=getattr(self, "found_inf", None),
            weight_decay=self._weight_decay,
            momentum=self._momentum,
            lr=group["lr"],
            dampening=0,
            nesterov=self._nesterov,
            maximize=False,
        )


Optimiser: TypeAlias = SGD | Optimizer
