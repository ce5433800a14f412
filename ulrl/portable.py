"""A model that brings its own preprocessing, for those who load it elsewhere."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ulrl.models import Weights, restore


class PixelModel(nn.Module):
    """A network behind its normalisation: pixels in [0, 1] in, class scores out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        scores: Tensor = self.network((images - self.mean) / self.std)
        return scores


def to_pixel_model(weights: Weights) -> PixelModel:
    """Return a copy of a model in eval mode, its preprocessing inside."""
    classifier = restore(weights, torch.device("cpu"))
    preprocessing = weights.model_spec.preprocessing
    return PixelModel(classifier.network, preprocessing.mean, preprocessing.std).eval()
