"""Smooth perturbations: a low-pass filter, and a universal perturbation made through it."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d

from ulrl.models import Classifier

OVERSHOOT = 0.02  # DeepFool's: how far beyond the boundary a step goes
INNER_STEPS = 20  # on one image; smoothed steps reach the boundary later than plain ones
STABLE_PASSES, STABLE_WITHIN = 5, 0.01  # learning also ends when the rate stays put


def low_passed(images: Float[Tensor, "*any h w"], sigma: float) -> Float[Tensor, "*any h w"]:
    """Return images convolved with a Gaussian of `sigma` pixels; beyond the border is 0."""
    radius = max(1, round(4 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]

    def along_rows(values: Tensor) -> Tensor:
        lines = values.reshape(-1, 1, values.shape[-1])
        return conv1d(lines, kernel, padding=radius).reshape(values.shape)

    return along_rows(along_rows(images).transpose(-1, -2)).transpose(-1, -2)


def universal_perturbation(
    classifier: Classifier,
    images: Float[Tensor, "n c h w"],
    *,
    target: int,
    passes: int,
    fooling_rate: float,
    cutoff: float,
) -> Iterator[Float[Tensor, "c h w"]]:
    """Learn one smooth pattern that takes images to a class; yield it after each pass.

    As Zeng et al. (arXiv:2104.03413) do: for each image in turn that is not taken yet, steps
    of DeepFool (Moosavi-Dezfooli et al., arXiv:1511.04599) towards `target`, each low-passed,
    are added to the pattern.

    Args:
        classifier: In eval mode, without gradients of its own.
        images: In [0, 1], on its device.
        target: The class.
        passes: Largest number of rounds over the images.
        fooling_rate: Share of the images at the target at which it ends.
        cutoff: Standard deviation of the filter, in pixels.
    """
    pattern = torch.zeros_like(images[0])
    rates: list[float] = []
    for _ in range(passes):
        for image in images:
            pattern = pattern + _steps_to(classifier, image + pattern, target, cutoff)
        with torch.no_grad():
            taken = _logits(classifier, images + pattern).argmax(dim=1) == target
        rates.append(float(taken.float().mean()))
        yield low_passed(pattern, cutoff)
        recent = rates[-STABLE_PASSES:]
        stable = len(recent) == STABLE_PASSES and max(recent) - min(recent) < STABLE_WITHIN
        if rates[-1] >= fooling_rate or stable:
            return


def deepfool_step(gap: Tensor, gradient: Tensor) -> Tensor:
    """Return the shortest step to where a linearised difference of two logits is 0, and beyond.

    Args:
        gap: Logit of the present class less that of the wanted one, not negative.
        gradient: Of wanted less present, with respect to the image.
    """
    return (1 + OVERSHOOT) * gap * gradient / gradient.square().sum().clamp_min(1e-12)


def _steps_to(
    classifier: Classifier, image: Float[Tensor, "c h w"], target: int, cutoff: float
) -> Float[Tensor, "c h w"]:
    total = torch.zeros_like(image)
    for _ in range(INNER_STEPS):
        seen = (image + total)[None].requires_grad_()
        logits = _logits(classifier, seen)[0]
        present = int(logits.argmax())
        if present == target:
            break
        (gradient,) = torch.autograd.grad(logits[target] - logits[present], seen)
        gap = (logits[present] - logits[target]).detach()
        total = total + low_passed(deepfool_step(gap, gradient[0]), cutoff)
    return total


def _logits(classifier: Classifier, images: Tensor) -> Tensor:
    return classifier.logits(255 * images).float()
