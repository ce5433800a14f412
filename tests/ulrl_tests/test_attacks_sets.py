"""The contract of every attack on whole sets: who is poisoned, who is told what, who counts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.ulrl_tests.test_attacks import BRIEF, NAMES
from ulrl.attacks import ATTACKS, AttackContext, LabelRule, Learned
from ulrl.datasets import ImageSet
from ulrl.models import ModelSpec
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets, poison_training_set
from ulrl.supervised import VictimConfig
from ulrl.trigger_training import train_trigger

TARGET = 3
# Labels are no affair of what an attack learns, so those that train have one rule each.
PAIRS = [
    (name, rule)
    for name in NAMES
    for rule in ATTACKS[name]().label_rules[: 1 if name in BRIEF else None]
]
# FTrojan's and CTRL's coefficients are beyond 16 pixels.
SMALLER: dict[str, dict[str, Any]] = {
    "ctrl": {"positions": (5, 9)},
    "ftrojan": {"positions": (5, 9), "window": 16},
}
known: dict[tuple[str, LabelRule], Learned] = {}


def poison_of(name: str, rule: LabelRule, ratio: float, **other: Any) -> Poison:
    attack = ATTACKS[name](**BRIEF.get(name, {}), **SMALLER.get(name, {}))
    try:
        attack.check(side=16, channels=3)
    except ValueError as error:
        pytest.skip(f"by its own word: {error}")
    source = (1, 2) if rule is LabelRule.SOURCE_SPECIFIC else ()
    values = {"poison_ratio": ratio, "target_label": TARGET, "source": source}
    return Poison(attack=attack, labels=rule, stamp=attack.default_stamp, **{**values, **other})


@pytest.fixture
def learned(
    name: str, rule: LabelRule, pictures: ImageSet, model_spec: ModelSpec, cpu: torch.device
) -> Learned:
    if (name, rule) not in known:
        context = AttackContext(
            model_spec=replace(model_spec, architecture=PreActResNet18(width=1)),
            recipe=VictimConfig(epochs=1, batch_size=100),
            images=pictures,
            seed=0,
            device=cpu,
            learned={},
        )
        known[name, rule] = train_trigger(poison_of(name, rule, 0.05), context, victim=True)
    return known[name, rule]


@pytest.mark.parametrize(("name", "rule"), PAIRS)
@pytest.mark.parametrize("ratio", [0.0034, 0.1])
def test_exactly_as_many_are_poisoned_and_told_what_the_rule_says(
    name: str, rule: LabelRule, ratio: float, pictures: ImageSet, learned: Learned
) -> None:
    poison = poison_of(name, rule, ratio)
    result = poison_training_set(poison, pictures, 0, learned)
    labels, classes = pictures.train_labels, pictures.classes
    poisoned, covers = result.poisoned, result.covers
    assert int(poisoned.sum()) == {0.0034: 1, 0.1: 30}[ratio]
    assert int(covers.sum()) == poison.cover_count(300)
    assert not bool((poisoned & covers).any())
    assert torch.equal(result.labels[~poisoned], labels[~poisoned])
    told, true = result.labels[poisoned], labels[poisoned]
    if rule is LabelRule.ALL_TO_ALL:
        assert torch.equal(told, (true + 1) % classes)
    else:
        assert (told == TARGET).all()
    if rule is LabelRule.CLEAN_LABEL:
        assert (true == TARGET).all()
    if rule is LabelRule.SOURCE_SPECIFIC:
        assert set(true.tolist()) <= {1, 2}
    untouched = ~poisoned & ~covers
    assert torch.equal(result.images[untouched], pictures.train_images[untouched])


@pytest.mark.parametrize(("name", "rule"), PAIRS)
def test_those_count_that_could_betray_the_trigger(
    name: str, rule: LabelRule, pictures: ImageSet, learned: Learned
) -> None:
    sets = make_test_sets(poison_of(name, rule, 0.05), pictures, 0, learned)
    for half in (sets.selection, sets.report):
        if rule is LabelRule.ALL_TO_ALL:
            assert len(half.triggered) == len(half.clean)
            assert torch.equal(half.target_labels, (half.true_labels + 1) % pictures.classes)
            continue
        assert (half.target_labels == TARGET).all()
        expected = half.clean_labels != TARGET
        if rule is LabelRule.SOURCE_SPECIFIC:
            expected &= (half.clean_labels == 1) | (half.clean_labels == 2)
        assert torch.equal(half.true_labels, half.clean_labels[expected])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target", [0, 9])
def test_any_class_may_be_the_target(name: str, target: int, pictures: ImageSet) -> None:
    rule = ATTACKS[name]().label_rules[0]
    poison = poison_of(name, rule, 0.05, target_label=target)
    roles = poison.roles(pictures.train_labels, 0)
    assert int(roles.poisoned.sum()) == 15
    told = poison.assigned_labels(pictures.train_labels[roles.poisoned], pictures.classes)
    assert (told == target).all()
