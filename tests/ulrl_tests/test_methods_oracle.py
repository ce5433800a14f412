"""Cuts chosen by the backdoor in test images, as published scripts do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import ulrl
from tests.ulrl_tests.repairs import CPU, clean_samples, repaired
from tests.ulrl_tests.states import same
from ulrl.datasets import ImageSet
from ulrl.methods import METHODS, RepairContext
from ulrl.methods._cuts import Cut, Rule, edit_at, scores_of
from ulrl.methods._oracle import OracleSweep
from ulrl.methods.anp import ANP
from ulrl.methods.bnp import BNP
from ulrl.methods.clp import CLP
from ulrl.methods.rnp import RNP
from ulrl.metrics import measure
from ulrl.models import Classifier, Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets

ORACLE = [method(rule=Rule.ORACLE) for method in (ANP, RNP, CLP, BNP)]
SCORES = {"score/a": torch.tensor([4.0, 3.0, 2.0, 1.0])}


def measured(asr: list[float], acc: list[float]) -> dict[str, torch.Tensor]:
    """Return what is found at the levels 3.5, 2.5 and 1.5, after the victim's."""
    numbers = {"levels": [3.5, 2.5, 1.5], "asr": asr, "acc": acc}
    doubles = {n: torch.tensor(v, dtype=torch.float64) for n, v in numbers.items()}
    return SCORES | {f"oracle_{name}": values for name, values in doubles.items()}


@pytest.mark.parametrize(
    ("asr", "acc", "cut"),
    [
        ([1.0, 0.9, 0.2, 0.0], [0.8, 0.8, 0.75, 0.71], 2),  # the last keeps less than 0.72
        ([1.0, 0.9, 0.2, 0.0], [0.8, 0.8, 0.75, 0.73], 3),
        ([1.0, 0.2, 0.2, 0.2], [0.8, 0.8, 0.8, 0.8], 1),  # of equal ones the weakest
        ([0.1, 0.2, 0.3, 0.4], [0.8, 0.8, 0.8, 0.8], 0),  # none is better than the victim
        ([1.0, 0.0, 0.0, 0.0], [0.8, 0.1, 0.1, 0.1], 0),
    ],
)
def test_the_lowest_asr_that_keeps_the_accuracy_by_hand(
    asr: list[float], acc: list[float], cut: int
) -> None:
    edit = Cut(rule=Rule.ORACLE, strength=0.1).choose(measured(asr, acc))
    chosen = edit["a"].tolist() if edit else [False] * 4
    assert chosen == [place < cut for place in range(4)]


def test_every_level_is_measured_with_triggered_images(
    victim_of: Callable[[int], Weights], pictures: ImageSet, badnets: Poison
) -> None:
    victim, clean = victim_of(0), clean_samples(pictures)
    half = make_test_sets(badnets, pictures, 0).selection
    found = repaired(CLP(), victim, clean).stages[0]
    looks = 0

    def oracle(classifier: Classifier) -> tuple[float, float]:
        nonlocal looks
        looks += 1
        rates = measure(classifier.predict, half)
        return rates.asr, rates.acc

    context = RepairContext(victim=victim, clean=clean, device=CPU, observe=print, oracle=oracle)
    sweep = OracleSweep(levels=(1.0, 0.5, 2.0, 50.0))
    steps = sweep.checked(context, found)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result = end.value
    assert looks == 4  # of the victim and of three cuts: 50 cuts nothing
    assert sweep.looks == 5
    assert result["oracle_levels"].tolist() == [50.0, 2.0, 1.0, 0.5]
    for number, level in enumerate([1e9, 50.0, 2.0, 1.0, 0.5]):
        cut = restore(victim, CPU)
        parameters = dict(cut.network.named_parameters())
        for name, mask in edit_at(scores_of(found), level).items():
            parameters[name].data[mask] = 0.0
        rates = measure(cut.predict, half)
        assert result["oracle_asr"][number].item() == rates.asr
        assert result["oracle_acc"][number].item() == rates.acc
    assert len(set(result["oracle_acc"].tolist())) > 2
    assert same({n: v for n, v in result.items() if n in found}, dict(found))


def test_a_method_says_that_it_is_no_defence() -> None:
    assert all(method.oracle for method in ORACLE)
    assert not any(method().resolved("cifar10").oracle for method in METHODS.values())
    assert [method.label for method in ORACLE] == [
        f"{name}(rule=oracle)" for name in ("anp", "rnp", "clp", "bnp")
    ]
    for method in ORACLE:
        usual = type(method)()
        assert method.stages[:-2] == usual.stages[:-1]
        assert [stage.looks for stage in usual.stages] == [0] * len(usual.stages)


def test_the_published_levels_are_tried() -> None:
    levels = {method.name: method.stages[-2].levels for method in ORACLE}  # type: ignore[attr-defined]
    assert levels["anp"] == levels["rnp"] == tuple(-step / 20 for step in range(20))
    assert levels["clp"] == levels["bnp"] == tuple(step / 2 for step in range(21))


def test_the_library_refuses_it(victim_of: Callable[[int], Weights], pictures: ImageSet) -> None:
    samples, victim = clean_samples(pictures).samples, restore(victim_of(0), CPU).network
    preprocessing: Any = victim_of(0).model_spec.preprocessing
    with pytest.raises(ValueError, match=r"^rule oracle of clp chooses by triggered images"):
        ulrl.repair(
            victim, samples.images, samples.labels, preprocessing, method="clp", rule="oracle"
        )


def test_without_triggered_images_there_is_nothing_to_choose_by(
    victim_of: Callable[[int], Weights], pictures: ImageSet
) -> None:
    with pytest.raises(ValueError, match=r"^rule oracle chooses by triggered images, and there"):
        repaired(CLP(rule=Rule.ORACLE), victim_of(0), clean_samples(pictures))


def test_it_has_no_strength_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"^budget means nothing by the rule oracle"):
        RNP(rule=Rule.ORACLE, budget=0.1)
