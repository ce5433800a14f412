"""Masks on BatchNorm's scales, written out in the plainest way."""

import torch
from torch import Tensor, nn

from ulrl.models import Classifier


class PlainMask(nn.Module):
    """A BatchNorm in train mode with a mask and noise on its scale, and noise on its shift."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm, self.mask = norm, nn.Parameter(torch.ones(norm.num_features))
        self.scale_noise = torch.zeros(norm.num_features)
        self.shift_noise = torch.zeros(norm.num_features)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        shape = (1, -1, 1, 1)
        normalised = (x - mean.reshape(shape)) / (variance.reshape(shape) + self.norm.eps).sqrt()
        scale = self.norm.weight * (self.mask + self.scale_noise)
        shift = self.norm.bias * (1 + self.shift_noise)
        return normalised * scale.reshape(shape) + shift.reshape(shape)


def put_plain_masks(model: Classifier) -> dict[str, PlainMask]:
    """Put a mask of 1 in place of every BatchNorm, and return them by their paths."""
    plain: dict[str, PlainMask] = {}
    for path, module in list(model.network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            plain[path] = PlainMask(module)
            model.network.set_submodule(path, plain[path])
    return plain


def clamp(plain: dict[str, PlainMask]) -> None:
    """Bring all masks back to [0, 1]."""
    for module in plain.values():
        module.mask.data = module.mask.data.clamp(0, 1)
