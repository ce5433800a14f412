"""Repairs of small victims by any method, stage by stage."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tests.ulrl_tests.exact import exactly, in_single
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.methods import RepairContext, RepairMethod
from ulrl.metrics import Metrics, measure
from ulrl.models import Classifier, Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the stages of a method returned, and how often the network was shown."""

    stages: tuple[Mapping[str, Tensor], ...]
    weights: Weights
    shown: list[int] = field(default_factory=list)


def clean_samples(pictures: ImageSet, share: float = 0.2, seed: int = 0) -> CleanSamples:
    return draw_clean_samples(CleanConfig(clean_ratio=share), pictures, seed)


def repaired(
    method: RepairMethod, victim: Weights, clean: CleanSamples, dataset: str = "cifar10"
) -> Found:
    """Run every stage of a method; each must leave the victim's tensors as they were."""
    shown: list[int] = []

    def observe(classifier: Classifier) -> None:
        shown.append(len(classifier.network.state_dict()))

    context = RepairContext(victim=victim, clean=clean, device=CPU, observe=observe)
    before: Mapping[str, Tensor] = {}
    results = []
    original = {name: value.clone() for name, value in victim.state.items()}
    for stage in method.resolved(dataset).stages:
        steps = stage.checked(context, before)
        number = 0
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                before = end.value
                break
            assert 0 < step.done <= step.total
            assert step.done >= number  # progress does not go back
            number = step.done
        results.append(before)
    assert all(torch.equal(original[name], value) for name, value in victim.state.items())
    weights = Weights(model_spec=victim.model_spec, state=dict(before))
    return Found(stages=tuple(results), weights=weights, shown=shown)


def repaired_exactly(method: RepairMethod, victim: Weights, clean: CleanSamples) -> Found:
    """Run a method in double precision, for the same effect on every kind of CPU."""
    with exactly():
        found = repaired(method, victim, clean)
    return replace(found, weights=in_single(found.weights))


def rates(weights: Weights, poison: Poison, pictures: ImageSet) -> Metrics:
    """Return ACC, ASR and RA on the test images."""
    tests = make_test_sets(poison, pictures, 0)
    return measure(restore(weights, CPU).predict, tests.report)
