"""The certificate: how many images a patch may turn to a class, at most."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Generator, Tensor, nn

from tests.ulrl_tests.audited import CPU, audited, audited_exactly, found_by
from tests.ulrl_tests.repairs import clean_samples, rates
from tests.ulrl_tests.small_models import TRIGGER, Small, small_models
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, Made
from ulrl.audits.certify import Certify
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.errors import NotApplicable
from ulrl.fitting import Samples
from ulrl.models import ModelSpec, Weights, restore
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.conv(x).relu().flatten(1))
        return logits


def tiny(seed: int) -> tuple[Weights, CleanSamples]:
    """Return a network of 4 × 4 images in two channels and three classes, and images."""
    preprocessing = Preprocessing(mean=(0.4, 0.5), std=(0.25, 0.2), padding=0, flip=False)
    spec = ModelSpec(
        architecture=Made(network=Tiny),
        classes=3,
        channels=2,
        side=4,
        preprocessing=preprocessing,
    )
    source = Generator().manual_seed(seed)
    state = {
        name: torch.randn(value.shape, generator=source) * 0.5
        for name, value in Tiny().state_dict().items()
    }
    weights = Weights(model_spec=spec, state=state)
    images = torch.randint(256, (40, 2, 4, 4), generator=source).to(torch.uint8)
    labels = restore(weights, CPU).predict(images)
    labels[:4] = (labels[:4] + 1) % 3  # which the network gets wrong
    samples = Samples(images=images, labels=labels)
    return weights, CleanSamples(samples=samples, index=torch.arange(40), seed=0)


def test_a_patch_larger_than_the_images_is_refused_before_anything_runs() -> None:
    Certify(patch=12).check_images(nn.Identity(), 1, 12)
    with pytest.raises(ValueError, match="patch is at most the side of the images, 12 pixels; g"):
        Certify(patch=13).check_images(nn.Identity(), 1, 12)


@pytest.mark.parametrize(("patch", "seed"), [(1, 0), (1, 1), (2, 0)])
def test_no_patch_turns_more_images_than_its_bound(patch: int, seed: int) -> None:
    """One pixel of two channels is tried on a grid, four pixels at random and at corners.

    An image counts where the target's output is above the true class's, as in the bounds, which
    it is wherever the target is predicted.
    """
    weights, clean = tiny(seed)
    found = audited(Certify(patch=patch), weights, clean)
    classifier = restore(weights, CPU)
    classifier.network.eval()
    images, labels = clean.samples.images[4:], clean.samples.labels[4:]
    assert found.details["images"].tolist() == [
        int((labels != target).sum()) for target in range(3)
    ]
    source = Generator().manual_seed(7)
    levels = range(0, 256, 17)
    contents = [torch.tensor([a, b])[:, None, None] for a in levels for b in levels]
    if patch > 1:
        contents = [
            torch.randint(256, (2, 2, 2), generator=source).where(torch.tensor(number % 2 > 0), 255)
            for number in range(200)
        ]
        contents += [255 * torch.randint(2, (2, 2, 2), generator=source) for _ in range(100)]
    reached = torch.zeros(found.details["bounds"].shape)
    for row in range(5 - patch):
        for column in range(5 - patch):
            for content in contents:
                stamped = images.clone()
                stamped[:, :, row : row + patch, column : column + patch] = content.to(torch.uint8)
                logits = classifier.logits(stamped).detach()
                above = logits >= logits.gather(1, labels[:, None])
                for target in range(3):
                    share = above[labels != target, target].float().mean()
                    reached[target, row, column] = max(share, reached[target, row, column])
    assert bool((reached <= found.details["bounds"] + 1e-6).all())
    assert float(reached.max()) > 0.1  # the patches did something
    if patch == 1:  # and the bounds are near what they did
        assert float((found.details["bounds"] - reached).mean()) < 0.15


def test_what_stays_open_is_each_image_s_own() -> None:
    """Bounds of all images together are those of each, one place after another."""
    weights, clean = tiny(0)
    together = found_by(Certify(patch=2), weights, clean)[0]
    left = torch.zeros_like(together["left"])
    for number in range(4, 40):  # the first four, which the network gets wrong, do not count
        one = Samples(
            images=clean.samples.images[number][None], labels=clean.samples.labels[number][None]
        )
        alone = found_by(
            Certify(patch=2), weights, replace(clean, samples=one, index=torch.arange(1))
        )
        left += alone[0]["left"]
    assert torch.equal(left, together["left"])
    assert int(left.sum()) > 0


def counts(left: list[list[int]], images: list[int]) -> dict[str, Tensor]:
    return {
        "left": torch.tensor(left).reshape(len(left), 2, 2),
        "images": torch.tensor(images),
        "passes": torch.tensor(5.0),
    }


def test_the_result_is_the_largest_share_over_places() -> None:
    found = Certify(success=0.5).result(
        counts([[1, 0, 4, 2], [9, 10, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], [8, 10, 9, 0]), 12
    )
    assert found.scores.tolist() == [0.5, 1.0, 0.0, 1.0]  # nothing is known of the last class
    assert (found.suspects, found.statistic) == ((0, 1, 3), 1.0)
    assert found.details["worst"].tolist()[:2] == [[1, 0], [0, 1]]
    # Of 16 tests at once, each is one-sided: half of a two-sided interval's error.
    wanted = [
        binomtest(hits, count).proportion_ci(1 - 2 * 0.05 / 16, method="exact").high
        for hits, count in ((4, 8), (0, 9))
    ]
    np.testing.assert_allclose(found.details["upper"][[0, 2]].numpy(), wanted, rtol=1e-5)
    assert found.details["upper"][[1, 3]].tolist() == [1.0, 1.0]


@pytest.fixture(scope="module")
def small(pictures: ImageSet, model_spec: ModelSpec) -> tuple[Weights, Weights]:
    return small_models(pictures, model_spec)


def test_a_victim_is_not_cleared_and_a_benign_model_is(
    small: tuple[Weights, Weights], pictures: ImageSet
) -> None:
    """A part of the trigger does; with patches of 3 × 3 bounds are loose."""
    victim, benign = (
        audited_exactly(Certify(patch=2, images=10), model, clean_samples(pictures))
        for model in small
    )
    assert rates(small[0], TRIGGER, pictures).asr > 0.9
    target = TRIGGER.target_label
    assert (victim.suspects, victim.rank(target)) == ((target,), 1)
    assert float(victim.details["bounds"][target, 13:, 13:].max()) > 0.7  # where the trigger is
    assert float(victim.scores.sort().values[-2]) < 0.7
    assert benign.suspects == ()
    assert benign.statistic < 0.6


def test_twice_is_the_same() -> None:
    weights, clean = tiny(0)
    first, second = (found_by(Certify(images=7), weights, clean)[0] for _ in range(2))
    assert same(dict(first), dict(second))
    assert int(first["images"].sum()) <= 14  # each of at most 7 images counts for two classes


def test_where_all_that_count_are_of_one_class_nothing_is_ruled_out_for_it() -> None:
    weights, clean = tiny(0)
    label = int(clean.samples.labels[4])  # the first that the network gets right
    of_it = 4 + (clean.samples.labels[4:] == label).nonzero().flatten()
    own = Samples(images=clean.samples.images[of_it], labels=clean.samples.labels[of_it])
    chosen = replace(clean, samples=own, index=torch.arange(len(of_it)))
    found = audited(Certify(patch=1), weights, chosen)
    counted = [0 if target == label else len(of_it) for target in range(3)]
    assert found.details["images"].tolist() == counted
    assert float(found.scores[label]) == 1
    assert found.suspects is not None
    assert label in found.suspects


def test_the_rule_is_in_no_stage() -> None:
    assert Certify(success=0.5, confidence=0.9).stages == Certify().stages
    assert Certify(patch=2).stages != Certify().stages


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: PreActResNet18(width=2).build(classes=10, channels=3, side=16), "is for small"),
        (lambda: nn.Sequential(nn.Linear(400, 400), nn.Linear(400, 10)), "and 100000 parameters"),
        (lambda: nn.Sequential(nn.MaxPool2d(2), nn.Linear(4, 4)), r"cannot bound MaxPool2d \(0\)"),
        (lambda: nn.Sequential(nn.GELU()), "cannot bound GELU"),
        (lambda: nn.Sequential(nn.MultiheadAttention(4, 2)), "cannot bound MultiheadAttention"),
        (lambda: VGG19BN().build(classes=10, channels=3, side=32), "is for small networks"),
        (lambda: ViTB16().build(classes=10, channels=3, side=32), "is for small networks"),
    ],
)
def test_other_networks_are_refused(network: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Certify().check(on_meta(network), "head", 10)


def test_small_networks_are_accepted() -> None:
    Certify().check(Small(), "head", 10)
    Certify().check(HeadAlone(4, 3), "head", 3)


def test_a_network_that_classifies_no_image_well_has_no_bound() -> None:
    """A score of 1 would call every class of it a suspect, with nothing counted."""
    weights, clean = tiny(0)
    wrong = (restore(weights, CPU).predict(clean.samples.images) + 1) % 3
    samples = Samples(images=clean.samples.images, labels=wrong)
    with pytest.raises(NotApplicable, match="of the 40 that it looked at it classifies none so"):
        found_by(Certify(), weights, CleanSamples(samples=samples, index=clean.index, seed=0))


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(
        ValueError, match="patch is at most the side of the images, 4 pixels; got 5"
    ):
        found_by(Certify(patch=5), *tiny(0))


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("patch", 0, "from 1 to 1024 pixels"),
        ("images", 0, "at least 1"),
        ("success", 0.0, "above 0 and at most 1"),
        ("confidence", 1.0, "in .0, 1."),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        Certify(**{option: value})  # type: ignore[arg-type]
