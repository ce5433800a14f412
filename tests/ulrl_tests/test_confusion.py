"""Counts by class, against counting one image after the other."""

from collections.abc import Callable
from math import isnan

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.test_metrics import part, predicting
from ulrl.attacks import LabelRule
from ulrl.attacks.sig import SIG
from ulrl.datasets import ImageSet
from ulrl.evaluation import evaluate
from ulrl.metrics import Metrics, count_predictions, measure
from ulrl.models import Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import TestHalf, make_test_sets

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


def test_an_evaluation_has_the_counts_of_both_halves(
    pictures: ImageSet, badnets: Poison, victim_of: Callable[[int], Weights], cpu: torch.device
) -> None:
    victim = victim_of(0)
    tests = make_test_sets(badnets, pictures, seed=0)
    found = evaluate(victim, tests, cpu)
    predict = restore(victim, cpu).predict
    for metrics, counts, half in (
        (found.selection, found.selection_confusion, tests.selection),
        (found.report, found.report_confusion, tests.report),
    ):
        assert metrics == measure(predict, half) == counts.metrics
        assert int(counts.clean.sum()) == len(half.clean)
        assert int(counts.triggered.sum()) == len(half.triggered)
        assert counts.targets.tolist() == [1, -1, *[1] * 8]


@pytest.mark.parametrize(
    ("clean", "true", "wanted", "predicted", "message"),
    [
        ([0, 3], [1], [0], [0, 0], "clean_labels are classes from 0 to 2; got 0 to 3"),
        ([0, 1], [1], [5], [0, 0], "target_labels are classes from 0 to 2; got 5 to 5"),
        ([0, 1], [1], [0], [0, 7], "predictions are classes from 0 to 2; got 0 to 7"),
        ([0, 1], [1, 1], [0, 2], [0, 0], "triggered images of one class are wanted as one class"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    clean: list[int], true: list[int], wanted: list[int], predicted: list[int], message: str
) -> None:
    half = part(clean=clean, true=true, wanted=wanted)
    with pytest.raises(ValueError, match="class") as error:
        count_predictions(predicting(predicted, [0] * len(true)), half, 3)
    assert str(error.value) == message
