"""ACC, ASR, RA on predictions made up for the purpose, and DER worked by hand."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ulrl.attacks import LabelRule, stamp_bytes
from ulrl.attacks.none import NoAttack
from ulrl.attacks.sig import SIG
from ulrl.datasets import ImageSet
from ulrl.metrics import (
    CleanMetrics,
    Metrics,
    Predictions,
    count_predictions,
    der,
    measure,
    measure_clean,
    rir,
    value_of,
)
from ulrl.poison import Poison
from ulrl.poisoning import (
    MONITOR_COUNT,
    TestHalf,
    example_pairs,
    make_test_sets,
    poison_training_set,
    split_halves,
)
from ulrl.randomness import generator

FRACTION = st.floats(0, 1)
METRICS = st.builds(Metrics, acc=FRACTION, asr=FRACTION, ra=FRACTION)


def part(clean: list[int], true: list[int], wanted: list[int]) -> TestHalf:
    """Images whose first pixel is their number: clean ones from 0, triggered from 100."""

    def numbered(count: int, start: int) -> Tensor:
        pixels = torch.arange(start, start + count, dtype=torch.uint8)
        return pixels[:, None, None, None].expand(-1, 3, 2, 2)

    return TestHalf(
        clean=numbered(len(clean), 0),
        clean_labels=torch.tensor(clean, dtype=torch.long),
        triggered=numbered(len(true), 100),
        true_labels=torch.tensor(true, dtype=torch.long),
        target_labels=torch.tensor(wanted, dtype=torch.long),
    )


def predicting(clean: list[int], triggered: list[int]) -> "Predict":
    return Predict(clean, triggered)


class Predict:
    """Predictions by the number of the image."""

    def __init__(self, clean: list[int], triggered: list[int]) -> None:
        self.answers = dict(enumerate(clean)) | dict(enumerate(triggered, start=100))

    def __call__(self, images: Tensor) -> Tensor:
        return torch.tensor([self.answers[int(image[0, 0, 0])] for image in images])


def test_shares_of_constructed_predictions() -> None:
    half = part(clean=[0, 1, 2, 3, 0], true=[1, 2, 3, 1], wanted=[0, 0, 0, 0])
    # clean: 3 of 5 right; triggered: 2 of 4 as the target, 1 of 4 as the true class
    metrics = measure(predicting([0, 1, 2, 0, 1], [0, 2, 0, 3]), half)
    assert metrics == Metrics(acc=3 / 5, asr=2 / 4, ra=1 / 4)


def test_target_acc_is_acc_of_the_wanted_classes_by_hand() -> None:
    """Of three images of class 2 one is known; wanting classes 0 and 2, two of four are."""
    labels, clean = np.array([0, 1, 2, 2, 2]), np.array([0, 0, 2, 1, 0])

    def found(wanted: list[int]) -> Predictions:
        none = np.zeros(len(wanted), int)
        targets = np.array(wanted, int)
        return Predictions(
            clean=clean,
            clean_labels=labels,
            triggered=none,
            true_labels=none,
            target_labels=targets,
        )

    assert value_of("target_acc", found([2, 2])) == 1 / 3
    assert value_of("target_acc", found([2, 0])) == 2 / 4
    with pytest.warns(RuntimeWarning):
        assert value_of("target_acc", found([])) is None


@pytest.mark.parametrize(
    ("acc", "asr", "rating"),
    [
        ((0.9, 0.9), (1.0, 1.0), 0.5),  # no effect: (0 - 0 + 1) / 2
        ((0.9, 0.9), (1.0, 0.0), 1.0),  # a backdoor removed for nothing: (1 - 0 + 1) / 2
        ((1.0, 0.0), (0.5, 0.5), 0.0),  # only harm: (0 - 1 + 1) / 2
        ((0.9, 0.8), (1.0, 0.2), 0.85),  # (0.8 - 0.1 + 1) / 2
        ((0.8, 0.9), (1.0, 0.2), 0.9),  # a gain in ACC counts nothing: (0.8 - 0 + 1) / 2
        ((0.9, 0.8), (0.2, 1.0), 0.45),  # nor does a rise of ASR: (0 - 0.1 + 1) / 2
        ((0.937, 0.260), (0.834, 0.100), 0.5285),  # NAD's collapsed ViT: above no effect
    ],
)
def test_der_by_hand(acc: tuple[float, float], asr: tuple[float, float], rating: float) -> None:
    before = Metrics(acc=acc[0], asr=asr[0], ra=0.0)
    after = Metrics(acc=acc[1], asr=asr[1], ra=0.0)
    assert der(before, after) == pytest.approx(rating, abs=1e-12)


@pytest.mark.parametrize(
    ("acc", "ra", "rating"),
    [
        ((0.9, 0.9), (0.0, 0.0), 0.5),  # no effect: (0 - 0 + 1) / 2
        ((0.9, 0.9), (0.0, 1.0), 1.0),  # every triggered image right, for nothing: (1 - 0 + 1) / 2
        ((1.0, 0.0), (0.5, 0.5), 0.0),  # only harm: (0 - 1 + 1) / 2
        ((0.9, 0.8), (0.1, 0.7), 0.75),  # (0.6 - 0.1 + 1) / 2
        ((0.8, 0.9), (0.1, 0.7), 0.8),  # a gain in ACC counts nothing: (0.6 - 0 + 1) / 2
        ((0.9, 0.8), (0.7, 0.1), 0.45),  # nor does a fall of RA: (0 - 0.1 + 1) / 2
    ],
)
def test_rir_by_hand(acc: tuple[float, float], ra: tuple[float, float], rating: float) -> None:
    """The worked values of BackdoorBench's definition from totals, not its per-image variant."""
    before = Metrics(acc=acc[0], asr=0.9, ra=ra[0])
    after = Metrics(acc=acc[1], asr=0.1, ra=ra[1])
    assert rir(before, after) == pytest.approx(rating, abs=1e-12)


@given(METRICS, METRICS)
def test_rir_is_the_der_of_an_asr_that_is_one_minus_ra(before: Metrics, after: Metrics) -> None:
    assert 0 <= rir(before, after) <= 1
    swapped = [Metrics(acc=one.acc, asr=1 - one.ra, ra=0.0) for one in (before, after)]
    assert rir(before, after) == pytest.approx(der(*swapped), abs=1e-12)


# Counts by class, against counting one image after the other.


TARGET = 3
SOURCE = (1, 4)


class Guesses:
    """Answers by pixels: often the class by its colours, now and then the attacker's."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, images: Tensor) -> Tensor:
        sums = images.long().sum(dim=(1, 2, 3))
        return torch.where(sums % 3 == 0, TARGET, sums % self.classes)


def by_hand(half: TestHalf, guesses: Guesses, label: int | None) -> tuple[float, float, float]:
    """Return ACC, ASR and RA of the images of a class, or of all: NaN where there are none."""

    def share(hits: list[bool]) -> float:
        return sum(hits) / len(hits) if hits else float("nan")

    clean = list(zip(half.clean_labels.tolist(), guesses(half.clean).tolist(), strict=True))
    true, wanted = half.true_labels.tolist(), half.target_labels.tolist()
    marked = list(zip(true, wanted, guesses(half.triggered).tolist(), strict=True))
    return (
        share([guess == one for one, guess in clean if label in (None, one)]),
        share([guess == aim for one, aim, guess in marked if label in (None, one)]),
        share([guess == one for one, _, guess in marked if label in (None, one)]),
    )


@pytest.mark.parametrize("rule", list(LabelRule))
def test_metrics_and_classes_follow_from_the_counts(pictures: ImageSet, rule: LabelRule) -> None:
    """Exactly, whichever images ASR counts."""
    source = SOURCE if rule is LabelRule.SOURCE_SPECIFIC else ()
    poison = Poison(
        attack=SIG(), labels=rule, poison_ratio=0.05, target_label=TARGET, source=source
    )
    guesses = Guesses(pictures.classes)
    tests = make_test_sets(poison, pictures, seed=0)
    for half in (tests.selection, tests.report):
        found = count_predictions(guesses, half, pictures.classes)
        acc, asr, ra = by_hand(half, guesses, None)
        assert found.metrics == Metrics(acc=acc, asr=asr, ra=ra) == measure(guesses, half)
        classes = zip(found.acc_by_class, found.asr_by_class, found.ra_by_class, strict=True)
        for label, shares in enumerate(classes):
            wanted = by_hand(half, guesses, label)
            pairs = [(float(a), b) for a, b in zip(shares, wanted, strict=True)]
            assert all(a == b or (isnan(a) and isnan(b)) for a, b in pairs), (label, pairs)
        counted = {label for label in range(10) if not isnan(found.asr_by_class[label])}
        left_out = set() if rule is LabelRule.ALL_TO_ALL else {TARGET}
        assert counted == (set(source) or set(range(10)) - left_out)
        assert {label for label in range(10) if found.targets[label] >= 0} == counted


# The triggered test images, and the halves of the test set.


def sets_of(rule: LabelRule, pictures: ImageSet) -> tuple[TestHalf, TestHalf, TestHalf]:
    source = SOURCE if rule is LabelRule.SOURCE_SPECIFIC else ()
    poison = Poison(
        attack=SIG(), labels=rule, poison_ratio=0.05, target_label=TARGET, source=source
    )
    sets = make_test_sets(poison, pictures, seed=0)
    return sets.selection, sets.report, sets.monitor


@pytest.mark.parametrize("rule", list(LabelRule))
def test_triggered_images_are_the_stamped_clean_ones(pictures: ImageSet, rule: LabelRule) -> None:
    for part in sets_of(rule, pictures):
        counted = torch.ones(len(part.clean), dtype=torch.bool)
        if rule is not LabelRule.ALL_TO_ALL:
            counted = part.clean_labels != TARGET
        if rule is LabelRule.SOURCE_SPECIFIC:
            counted = torch.isin(part.clean_labels, torch.tensor(SOURCE))
        expected = stamp_bytes(SIG(), part.clean[counted], generator(0, "unused"))
        assert torch.equal(part.triggered, expected)
        assert torch.equal(part.true_labels, part.clean_labels[counted])


def test_the_monitor_is_a_fixed_part_of_the_selection_half(pictures: ImageSet) -> None:
    selection, _, monitor = sets_of(LabelRule.ALL_TO_ONE, pictures)
    assert len(monitor.clean) == min(MONITOR_COUNT, 75)
    assert torch.equal(monitor.clean, selection.clean[:MONITOR_COUNT])
    many = ImageSet(
        train_images=pictures.train_images,
        train_labels=pictures.train_labels,
        test_images=pictures.test_images.repeat(6, 1, 1, 1),
        test_labels=pictures.test_labels.repeat(6),
        classes=10,
    )
    selection, _, monitor = sets_of(LabelRule.ALL_TO_ONE, many)
    assert len(selection.clean) == 450
    assert len(monitor.clean) == MONITOR_COUNT
    assert torch.equal(monitor.clean_labels, selection.clean_labels[:MONITOR_COUNT])
    assert len(torch.unique(monitor.clean_labels)) == 10


labels_of_a_test_set = st.lists(st.integers(0, 6), min_size=2, max_size=200).map(torch.tensor)


@given(labels_of_a_test_set)
def test_halves_are_disjoint_exhaustive_and_alike(labels: torch.Tensor) -> None:
    first, second = split_halves(labels)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(len(labels)))
    counts = labels[first].bincount(minlength=7) - labels[second].bincount(minlength=7)
    assert int(counts.abs().max()) <= 1
    assert abs(len(first) - len(second)) <= 1


def test_halves_depend_on_the_labels_alone(pictures: ImageSet) -> None:
    torch.manual_seed(1)
    once = split_halves(pictures.test_labels)
    torch.manual_seed(2)
    again = split_halves(pictures.test_labels.clone())
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    cleans = []
    for rule in LabelRule:
        for seed in (0, 7):
            source = (1,) if rule is LabelRule.SOURCE_SPECIFIC else ()
            poison = Poison(
                attack=SIG(), labels=rule, poison_ratio=0.05, target_label=seed, source=source
            )
            cleans.append(make_test_sets(poison, pictures, seed).report.clean)
    assert all(torch.equal(clean, pictures.test_images[once[1]]) for clean in cleans)


def test_without_an_attack_there_is_acc_alone(pictures: ImageSet) -> None:
    poison = Poison(attack=NoAttack(), labels=LabelRule.ALL_TO_ONE, poison_ratio=0.0)
    tests = make_test_sets(poison, pictures, seed=0)
    poisoned = poison_training_set(poison, pictures, seed=0)
    assert torch.equal(poisoned.images, pictures.train_images)
    assert torch.equal(poisoned.labels, pictures.train_labels)

    def predict(images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), dtype=torch.int64)

    for half in (tests.selection, tests.report, tests.monitor):
        assert len(half.triggered) == 0
        share = int((half.clean_labels == 0).sum()) / len(half.clean)
        assert measure_clean(predict, half) == CleanMetrics(acc=share)
        counted = count_predictions(predict, half, pictures.classes)
        assert counted.clean_metrics == CleanMetrics(acc=share)
        assert int(counted.triggered.sum()) == 0
        assert example_pairs(poison, half, 4) == {}
        with pytest.raises(ValueError, match="use measure_clean"):
            measure(predict, half)
    with pytest.raises(ValueError, match="without an attack no image is triggered; got 1"):
        replace(tests.report, **{n: getattr(tests.report, m)[:1] for n, m in SAME.items()})
    with pytest.raises(ValueError, match="poison_ratio is 0 without an attack"):
        replace(poison, poison_ratio=0.1)


SAME = {"triggered": "clean", "true_labels": "clean_labels", "target_labels": "clean_labels"}
