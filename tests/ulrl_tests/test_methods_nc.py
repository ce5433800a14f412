"""Neural Cleanse: the search for triggers, which stand out, and fine-tuning against them."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.steps import finished
from tests.ulrl_tests.repairs import CPU, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.small_models import TRIGGER, small_models
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone, Made
from ulrl.clean import CleanSamples
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.fitting import Samples, Sources
from ulrl.methods._loop import hold_out
from ulrl.methods.nc import NeuralCleanse, ReverseTriggers, anomalies, patched
from ulrl.models import Classifier, ModelSpec, Weights, restore

SEARCH = ReverseTriggers(steps=20, batch_size=40, lr=0.1, mask_weight=0.01, success=0.0)


def planted(target: int) -> Classifier:
    """Return a linear network of six classes, one of which three pixels decide."""
    model_spec = ModelSpec(
        architecture=Made(network=lambda: HeadAlone(3 * 8 * 8, 6)),
        classes=6,
        channels=3,
        side=8,
        preprocessing=Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=1, flip=True),
    )
    classifier = Classifier(model_spec, HeadAlone(3 * 8 * 8, 6), CPU)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        classifier.head.weight.normal_(std=0.1, generator=source)
        classifier.head.bias.zero_()
        classifier.head.weight.view(6, 3, 8, 8)[target, :, 2, 2:5] += 3.0
    return classifier


def noise(count: int) -> CleanSamples:
    source = torch.Generator().manual_seed(1)
    images = torch.randint(60, 190, (count, 3, 8, 8), generator=source).to(torch.uint8)
    samples = Samples(images=images, labels=torch.arange(count) % 6)
    return CleanSamples(samples=samples, index=torch.arange(count), seed=0)


@pytest.mark.parametrize("target", [0, 4])
def test_the_class_of_a_planted_trigger_has_the_least_norm(target: int) -> None:
    search = ReverseTriggers(steps=400, batch_size=30, lr=0.1, mask_weight=1e-3, success=0.98)
    found = finished(search.search(planted(target), noise(30), range(6)))[1]
    order = found["norms"].argsort()
    assert int(order[0]) == target
    assert float(found["norms"][target]) < 0.7 * float(found["norms"][order[1]])
    mask = found["masks"][target, 0]
    assert float(mask[2, 2:5].sum()) > 0.5 * float(mask.sum())
    anomaly = anomalies(found["norms"])
    assert (anomaly > 2).nonzero().flatten().tolist() == [target]


def test_each_class_is_sought_as_if_it_were_alone(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    clean = clean_samples(pictures)
    together = finished(SEARCH.search(restore(victim_of(0), CPU), clean, range(4)))[1]
    for label in (1, 3):
        alone = finished(SEARCH.search(restore(victim_of(0), CPU), clean, [label]))[1]
        for name, value in alone.items():
            wanted = value[0].float()
            torch.testing.assert_close(together[name][label].float(), wanted, rtol=1e-3, atol=1e-3)


def test_the_search_is_that_of_a_plain_writing(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    """Thirty steps for one class, with Adam written out; every look is a success."""
    clean = clean_samples(pictures)
    search = ReverseTriggers(
        steps=30, batch_size=40, lr=0.1, mask_weight=0.01, success=0.0, augment=False
    )
    found = finished(search.search(restore(victim_of(0), CPU), clean, [3]))[1]
    classifier = restore(victim_of(0), CPU)
    classifier.network.eval()
    sources = Sources.of(0, "reversed_triggers")
    parts: list[Tensor] = []
    free = [torch.ones(1, 16, 16), torch.ones(3, 16, 16)]
    moments = [[torch.zeros_like(value) for value in free] for _ in range(2)]
    for step in range(1, 31):
        if not parts:
            order = torch.randperm(60, generator=sources.order)
            parts = [order[:40], order[40:]]
        images = clean.samples.images[parts.pop(0)].float()
        moving = [value.clone().requires_grad_() for value in free]
        mask, pattern = (torch.tanh(value) / 2 + 0.5 for value in moving)
        logits = classifier.logits((1 - mask) * images + mask * pattern * 255)
        loss = cross_entropy(logits, torch.full((len(images),), 3)) + 0.01 * mask.abs().sum()
        for place, gradient in enumerate(torch.autograd.grad(loss, moving)):
            first, second = moments[0][place], moments[1][place]
            first.mul_(0.5).add_(0.5 * gradient)
            second.mul_(0.9).add_(0.1 * gradient**2)
            root = (second / (1 - 0.9**step)).sqrt() + 1e-8
            free[place] = free[place] - 0.1 * first / (1 - 0.5**step) / root
    mask = torch.tanh(free[0]) / 2 + 0.5
    assert float(mask.sum()) < 0.7 * 256
    torch.testing.assert_close(found["masks"][0], mask, rtol=0.02, atol=0.01)
    assert float(found["norms"][0]) == pytest.approx(float(mask.sum()), rel=0.01)


def test_a_class_that_is_not_reached_keeps_the_trigger_of_the_start() -> None:
    search = ReverseTriggers(steps=20, batch_size=30, lr=1e-6, mask_weight=1e-3, success=1.0)
    found = finished(search.search(planted(2), noise(30), [2, 3]))[1]
    assert found["reached"].tolist() == [True, False]
    level = float(np.tanh(1) / 2 + 0.5)
    torch.testing.assert_close(found["masks"][1], torch.full((1, 8, 8), level))
    assert float(found["norms"][1]) == pytest.approx(64 * level, rel=1e-5)


@pytest.mark.parametrize("count", [3, 11, 43])
def test_anomalies_are_deviations_from_the_median(count: int) -> None:
    norms = 50 + 10 * torch.randn(count, generator=torch.Generator().manual_seed(count))
    spread = median_abs_deviation(norms.numpy(), scale="normal")
    wanted = (np.median(norms.numpy()) - norms.numpy()) / spread
    np.testing.assert_allclose(anomalies(norms).numpy(), wanted, rtol=1e-3)


def test_where_most_norms_are_equal_nothing_stands_out() -> None:
    assert anomalies(torch.tensor([3.0, 9.0, 9.0, 9.0])).tolist() == [0.0] * 4


def test_a_share_is_stamped_with_each_trigger(pictures: ImageSet) -> None:
    clean = clean_samples(pictures)
    mask = torch.zeros(2, 1, 16, 16)
    mask[0, :, 0, 0], mask[1, :, 3, 4] = 1.0, 0.5
    pattern = torch.full((2, 3, 16, 16), 1.0)
    found = patched(clean, {"masks": mask, "patterns": pattern}, 0.2, 10)
    plain, others = hold_out(clean, 0.2, 10)
    count = len(others.index)
    assert len(found.index) == len(found.samples.labels) == 60 + count
    torch.testing.assert_close(
        found.samples.images[:-count][: len(plain.index)], plain.samples.images
    )
    for number, (row, column, share) in enumerate([(0, 0, 1.0), (3, 4, 0.5)]):
        start = len(plain.index) + number * count
        stamped = found.samples.images[start : start + count]
        assert torch.equal(found.samples.labels[start : start + count], others.samples.labels)
        wanted = others.samples.images.clone()
        grey = wanted[:, :, row, column].float()
        wanted[:, :, row, column] = ((1 - share) * grey + share * 255).round().to(torch.uint8)
        assert torch.equal(stamped, wanted)


def searched(norms: Sequence[float]) -> dict[str, Tensor]:
    """Return what a search might find, with each class's number as its mask."""
    count = len(norms)
    return {
        "masks": torch.arange(count)[:, None, None, None].expand(count, 1, 16, 16).float(),
        "patterns": torch.zeros(count, 3, 16, 16),
        "norms": torch.tensor(norms),
        "anomaly": anomalies(torch.tensor(norms)),
    }


def test_what_is_read_is_the_triggers_that_are_flagged() -> None:
    """The median is 20 and a deviation 2.97, so that two lie 5.1 and 3.4 of them below."""
    found = searched([5.0, 20.0, 21.0, 22.0, 10.0])
    reads = {t: NeuralCleanse(threshold=t).stages[1].reads(found) for t in (2.0, 3.3, 3.4, 5.1)}
    labels = {
        t: None if tensors is None else [int(mask[0, 0, 0]) for mask in tensors["masks"]]
        for t, tensors in reads.items()
    }
    assert labels == {2.0: [0, 4], 3.3: [0, 4], 3.4: [0], 5.1: []}


def test_it_repairs_a_victim_and_names_the_class(pictures: ImageSet, model_spec: ModelSpec) -> None:
    """In a small network, where many steps of the search take seconds.

    The threshold is low: how far the target's norm lies below the others is not tried here.
    """
    victim, _ = small_models(pictures, model_spec)
    before = rates(victim, TRIGGER, pictures)
    method = NeuralCleanse(
        steps=200,
        search_batch_size=30,
        mask_weight=0.01,
        threshold=1.0,
        epochs=30,
        lr=0.05,
        batch_size=32,
    )
    found = repaired_exactly(method, victim, clean_samples(pictures, 0.5))
    after = rates(found.weights, TRIGGER, pictures)
    assert int(found.stages[0]["norms"].argmin()) == TRIGGER.target_label
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > before.acc - 0.1
    assert len(found.shown) == 30


def test_where_nothing_is_flagged_nothing_happens(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    method = NeuralCleanse(steps=1, search_batch_size=2, threshold=100.0)
    first, second = (repaired(method, victim_of(0), clean_samples(pictures)) for _ in range(2))
    assert same(dict(first.weights.state), dict(victim_of(0).state))
    assert len(first.shown) == 1
    assert same(dict(first.stages[0]), dict(second.stages[0]))


def test_thresholds_share_the_search() -> None:
    first, second = NeuralCleanse(), NeuralCleanse(threshold=3.0, epochs=5, stamped_share=0.3)
    assert first.stages[0] == second.stages[0]
    assert first.stages[0] != NeuralCleanse(steps=100).stages[0]


def test_two_classes_are_refused() -> None:
    network = HeadAlone(4, 2)
    with pytest.raises(ValueError, match="needs at least 3 classes; there are 2"):
        NeuralCleanse().check(network, "head", 2)
    NeuralCleanse().check(network, "head", 3)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("threshold", -1.0, "in .0, 100."),
        ("steps", 0, "from 1 to 100000"),
        ("search_batch_size", 0, "at least 1"),
        ("search_lr", 0.0, "above 0 and at most 100"),
        ("mask_weight", 0.0, "above 0 and at most 100"),
        ("success", 1.5, "in .0, 1."),
        ("stamped_share", 1.0, "in .0, 1."),
        ("lr", 0.0, "above 0"),
        ("epochs", 0, "from 1 to 1000"),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"{option} is {rule}"):
        NeuralCleanse(**{option: value})  # type: ignore[arg-type]
