"""Masks on BatchNorm's scales, as RNP and ANP learn them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.repairs import CPU
from ulrl.datasets import ImageSet
from ulrl.methods._masks import MaskDescent, Masked, Noise, masked_classifier
from ulrl.models import Weights, restore


class Toy(nn.Module):
    """Two features, normalised by running statistics, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.5, -0.5]))
            self.norm.bias.copy_(torch.tensor([0.3, 0.7]))
            self.head.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 2.0], [-2.0, 0.1]]))
            self.head.bias.zero_()
        assert self.norm.running_mean is not None
        self.norm.running_mean.copy_(torch.tensor([0.2, -0.1]))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(x))
        return logits


def test_a_mask_of_zero_is_a_scale_of_zero_to_the_bit(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    classifier, masked = masked_classifier(victim_of(0), CPU)
    cut = restore(victim_of(0), CPU)
    place = 0
    with torch.no_grad():
        for module in cut.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight[1] = 0.0
                masked.masks[place + 1] = 0.0
                place += len(module.weight)
    assert place == len(masked.masks)
    for one in (classifier, cut):
        one.network.eval()
    images = pictures.test_images[:40]
    with torch.no_grad():
        assert torch.equal(classifier.logits(images), cut.logits(images))
        assert not torch.equal(cut.logits(images), _whole(victim_of(0), images))


@torch.no_grad()
def _whole(victim: Weights, images: Tensor) -> Tensor:
    classifier = restore(victim, CPU)
    classifier.network.eval()
    return classifier.logits(images)


def test_the_gradient_of_a_mask_is_that_by_hand() -> None:
    inputs, labels = torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([2, 0])
    masked = Masked(Toy()).eval()
    logits = masked(inputs)
    cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
    wrong = (logits.detach().softmax(dim=1) - nn.functional.one_hot(labels, 3)) / 2
    normalised = (inputs - torch.tensor([0.2, -0.1])) / (1 + 1e-5) ** 0.5
    weight, scale = Toy().head.weight.detach(), Toy().norm.weight.detach()
    by_hand = [
        sum(
            float(wrong[n, k] * weight[k, c] * normalised[n, c] * scale[c])
            for n in range(2)
            for k in range(3)
        )
        for c in range(2)
    ]
    assert masked.masks.grad is not None
    assert masked.masks.grad.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_noise_changes_scales_beside_the_mask_and_shifts_in_proportion() -> None:
    inputs = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    masked = Masked(Toy()).eval()
    masked.noise = Noise(scale=torch.tensor([0.4, -0.2]), shift=torch.tensor([-0.1, 0.3]))
    with torch.no_grad():
        masked.masks.copy_(torch.tensor([0.5, 0.25]))
        found = masked(inputs)
        by_hand = Toy().eval()
        by_hand.norm.weight.mul_(torch.tensor([0.9, 0.05]))
        by_hand.norm.bias.mul_(torch.tensor([0.9, 1.3]))
        torch.testing.assert_close(found, by_hand(inputs))


def test_masks_descend_with_momentum_and_stay_between_zero_and_one() -> None:
    masked = Masked(Toy())
    descent = MaskDescent(masked)
    slopes = torch.tensor([1.0, -1.0])
    for wanted in ([0.9, 1.0], [0.71, 1.0], [0.439, 1.0]):  # steps of 0.1 × (1, 1.9, 2.71)
        descent.step((masked.masks * slopes).sum(), 0.1)
        assert masked.masks.tolist() == pytest.approx(wanted)
    for _ in range(3):
        descent.step((masked.masks * slopes).sum(), 0.1)
    assert masked.masks.tolist() == [0.0, 1.0]


def test_scores_are_rounded_as_the_official_codes_write_masks(
    victim_of: Callable[[int], Weights],
) -> None:
    _, masked = masked_classifier(victim_of(0), CPU)
    with torch.no_grad():
        masked.masks[:3] = torch.tensor([0.70004, 0.70006, 0.12345678])
    scores = masked.scores()
    assert next(iter(scores.values()))[:3].tolist() == [-0.7, -0.7001, -0.1235]
    assert sum(map(len, scores.values())) == len(masked.masks)
    assert all(name.endswith(("bn1.weight", "bn2.weight")) for name in scores)
