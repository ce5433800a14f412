"""Poison ratios of BackdoorBench's files: which counts of poisoned images a scenario admits."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from numpy.random import Generator, default_rng

from tests.ulrl_tests.states import refusal
from ulrl.attacks import ATTACKS, LabelRule
from ulrl.interchange import PoisonedCount, VictimFacts
from ulrl.interchange._facts import check_poison
from ulrl.poison import Poison

TRAIN = {"cifar10": 50_000, "cifar100": 50_000, "gtsrb": 39_209, "tiny": 100_000}
BY_BATCH = ("wanet", "bpp", "input_aware")
RATIOS = (0.1, 0.05, 0.01, 0.005, 0.001)


def of_batches(ratio: float, total: int, source: Generator) -> int:
    """Return the count that a training in batches of 128 poisons, drawn batch by batch."""
    count = 0
    for start in range(0, total, 128):
        share = ratio * min(128, total - start)
        count += int(share) if share >= 1 else int(source.uniform() < share)
    return count


@dataclass(frozen=True)
class Case:
    attack: str
    ratio: float
    total: int

    def check(self, fewest: int, most: int | None = None) -> None:
        poison = Poison(
            attack=ATTACKS[self.attack](), labels=LabelRule.ALL_TO_ONE, poison_ratio=self.ratio
        )
        most = fewest if most is None else most
        count = PoisonedCount(total=self.total, fewest=fewest, most=most)
        check_poison(VictimFacts(poisoned=count), poison, "theirs")

    def refuses(self) -> Callable[[int], str]:
        return lambda count: refusal(lambda: self.check(count))


@pytest.mark.parametrize("attack", BY_BATCH)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("dataset", TRAIN)
def test_attacks_that_poison_by_batch(attack: str, ratio: float, dataset: str) -> None:
    total = TRAIN[dataset]
    case = Case(attack, ratio, total)
    source = default_rng(0)
    for _ in range(20):
        case.check(of_batches(ratio, total, source))
    case.check(round(ratio * total))  # the ratio itself, as this project draws


def test_the_counts_of_the_leaderboards_one_per_cent() -> None:
    """391 of 50,000, 307 of 39,209, 782 of 100,000: one image of each batch."""
    for total, count in ((50_000, 391), (39_209, 307), (100_000, 782)):
        Case("bpp", 0.01, total).check(count)
        assert f"has {count} poisoned of {total}" in Case("badnets", 0.01, total).refuses()(count)


def test_a_random_count_of_few() -> None:
    Case("bpp", 0.001, 39_209).check(51)  # drawn once; 39 expected


@pytest.mark.parametrize("attack", [*BY_BATCH, "badnets"])
@pytest.mark.parametrize(
    ("ratio", "other"), [(0.1, 0.05), (0.05, 0.1), (0.01, 0.02), (0.01, 0.005), (0.001, 0.01)]
)
@pytest.mark.parametrize("dataset", TRAIN)
def test_the_counts_of_another_ratio(attack: str, ratio: float, other: float, dataset: str) -> None:
    total = TRAIN[dataset]
    refused = Case(attack, ratio, total).refuses()
    assert "poisoned of" in refused(of_batches(other, total, default_rng(0)))
    assert "poisoned of" in refused(round(other * total))


def test_what_is_not_known_by_name_may_poison_by_batch() -> None:
    poison = Poison(attack=ATTACKS["imported"](), labels=LabelRule.ALL_TO_ONE, poison_ratio=0.01)
    for count in (391, 500):
        found = PoisonedCount(total=50_000, fewest=count, most=count)
        check_poison(VictimFacts(poisoned=found), poison, "theirs")
