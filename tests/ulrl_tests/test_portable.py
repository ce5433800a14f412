"""A repaired model for those who have no ULRL."""

from collections.abc import Callable

import torch

from ulrl.datasets import ImageSet
from ulrl.models import Weights, restore
from ulrl.portable import to_pixel_model


def test_pixels_in_and_the_classifiers_scores_out(
    victim_of: Callable[[int], Weights], pictures: ImageSet, cpu: torch.device
) -> None:
    weights, images = victim_of(0), pictures.test_images[:20]
    classifier, model = restore(weights, cpu), to_pixel_model(weights)
    classifier.network.eval()
    with torch.no_grad():
        expected, scores = classifier.logits(images), model(images.float() / 255)
    assert torch.allclose(scores, expected, atol=1e-4)
    assert not model.training
    assert {"mean", "std"} <= model.state_dict().keys()


def test_it_is_a_copy(victim_of: Callable[[int], Weights]) -> None:
    weights = victim_of(0)
    before = weights.head.clone()
    with torch.no_grad():
        for parameter in to_pixel_model(weights).parameters():
            parameter.zero_()
    assert torch.equal(weights.head, before)
