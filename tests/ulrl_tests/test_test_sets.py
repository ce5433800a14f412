"""The triggered test images, and the halves of the test set."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ulrl.attacks import LabelRule, Stamp, stamp_bytes
from ulrl.attacks.sig import SIG
from ulrl.datasets import ImageSet
from ulrl.poison import Poison
from ulrl.poisoning import MONITOR_COUNT, TestHalf, make_test_sets, split_halves
from ulrl.randomness import generator

TARGET = 3
SOURCE = (1, 4)


def sets_of(rule: LabelRule, pictures: ImageSet) -> tuple[TestHalf, TestHalf, TestHalf]:
    source = SOURCE if rule is LabelRule.SOURCE_SPECIFIC else ()
    poison = Poison(
        attack=SIG(), labels=rule, poison_ratio=0.05, target_label=TARGET, source=source
    )
    sets = make_test_sets(poison, pictures, seed=0)
    return sets.selection, sets.report, sets.monitor


@pytest.mark.parametrize("rule", [LabelRule.ALL_TO_ONE, LabelRule.CLEAN_LABEL])
def test_asr_leaves_the_target_class_out(pictures: ImageSet, rule: LabelRule) -> None:
    for part in sets_of(rule, pictures)[:2]:
        assert len(part.clean) == 75
        assert len(part.triggered) == 75 - int((part.clean_labels == TARGET).sum())
        assert TARGET not in part.true_labels.tolist()
        assert part.target_labels.tolist() == [TARGET] * len(part.triggered)


def test_all_to_all_counts_every_image(pictures: ImageSet) -> None:
    for part in sets_of(LabelRule.ALL_TO_ALL, pictures)[:2]:
        assert len(part.triggered) == 75
        assert torch.equal(part.true_labels, part.clean_labels)
        assert torch.equal(part.target_labels, (part.clean_labels + 1) % 10)


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


def test_test_triggers_do_not_depend_on_when_training_stamps(pictures: ImageSet) -> None:
    parts = []
    for stamp in Stamp:
        poison = Poison(attack=SIG(), labels=LabelRule.CLEAN_LABEL, stamp=stamp)
        parts.append(make_test_sets(poison, pictures, seed=0).report.triggered)
    assert torch.equal(*parts)


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


def test_halves_are_shuffled_so_that_a_prefix_is_fair() -> None:
    first, second = split_halves(torch.arange(10).repeat_interleave(100))
    for half in (first, second):
        assert half.tolist() != sorted(half.tolist())
        assert len(torch.unique(half[:100] // 100)) == 10
