"""Phase 1 with its switches thrown: thresholds share an ascent, and watching changes nothing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import assemble
from ulrl.layers import Layers
from ulrl.models import Classifier, Weights, restore
from ulrl.scoring import score_neurons
from ulrl.unlearning import Ascent, StopAccuracy, UnlearnConfig, unlearn

THRESHOLDS = (0.9, 0.7, 0.5, 0.3, 0.1)
CONFIG = UnlearnConfig(unlearn_batch_size=16)


def last(ascent: Iterator[Ascent]) -> Ascent:
    *_, end = ascent
    return end


@pytest.fixture(scope="module")
def clean(pictures: ImageSet) -> CleanSamples:
    return draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed=0)


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether both have the same names in the same order, and the same bits."""
    return list(one) == list(other) and all(
        torch.equal(value, other[name]) for name, value in one.items()
    )


SHARED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "above chance": {"threshold_scale": "above_chance"},
    "eval": {"stop_accuracy": "eval"},
    "all layers": {"layers": "all", "max_suspects": None},
}


@pytest.mark.parametrize(("seed", "kind"), [(1, "as it is"), *((0, kind) for kind in SHARED)])
def test_one_ascent_serves_every_threshold_bit_for_bit(
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
    cpu: torch.device,
    seed: int,
    kind: str,
) -> None:
    victim = victim_of(seed)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed)
    wanted = [
        assemble({"unlearn_batch_size": 16, **SHARED[kind], "unlearn_threshold": threshold})
        for threshold in THRESHOLDS
    ]
    config = wanted[0].unlearn
    floor = min(h.score.stop_at(10) for h in wanted)
    shared = last(unlearn(config, victim, clean, floor, cpu))
    stops = set()
    for h in wanted:
        threshold = h.score.stop_at(10)
        alone = last(unlearn(config, victim, clean, threshold, cpu))
        epoch = shared.stop_epoch(threshold)
        stops.add(epoch)
        assert epoch == alone.stop_epoch(threshold) == len(alone.accuracy)
        assert shared.reaches(threshold) is alone.reaches(threshold)
        assert same(shared.before, alone.before)
        assert same(shared.at(epoch), alone.at(epoch))
        assert shared.accuracy[:epoch] == alone.accuracy
        assert shared.loss[:epoch] == alone.loss
        ours, theirs = score_neurons(h.score, shared), score_neurons(h.score, alone)
        assert torch.equal(ours.shift, theirs.shift)
        assert same(ours.movement, theirs.movement)
        assert ours.suspects == theirs.suspects
        assert (ours.stop_accuracy, ours.stop_epoch) == (theirs.stop_accuracy, theirs.stop_epoch)
        assert ours.threshold_reached is theirs.threshold_reached
    assert len(stops) >= 3, "thresholds that all stop together would prove little"
    assert len(shared.before) == (22 if kind == "all layers" else 2)


def test_what_an_ascent_watches_does_not_move_it(
    victim_of: Callable[[int], Weights], clean: CleanSamples, cpu: torch.device
) -> None:
    config = replace(CONFIG, unlearn_epochs=3)
    head = last(unlearn(config, victim_of(0), clean, 0.0, cpu))
    everything = last(unlearn(replace(config, layers=Layers.ALL), victim_of(0), clean, 0.0, cpu))
    assert (everything.accuracy, everything.loss) == (head.accuracy, head.loss)
    assert everything.kept == head.kept
    assert same({name: everything.after[name] for name in head.after}, head.after)


def test_the_accuracy_in_eval_mode_is_that_of_the_weights_at_the_end_of_the_epoch(
    victim_of: Callable[[int], Weights], clean: CleanSamples, cpu: torch.device
) -> None:
    """It is read, not taken part in: the trajectory is that of the running accuracy."""
    config = replace(CONFIG, unlearn_epochs=4, stop_accuracy=StopAccuracy.EVAL)
    states = []

    def observe(classifier: Classifier) -> None:
        states.append(classifier.weights())

    ascent = last(unlearn(config, victim_of(0), clean, 0.0, cpu, observe=observe))
    expected = []
    for state in states:
        model = restore(state, cpu)
        model.network.eval()
        with torch.no_grad():
            answers = model.logits(clean.samples.images).argmax(dim=1)
        right = sum(map(int.__eq__, answers.tolist(), clean.samples.labels.tolist()))
        expected.append(right / 36)
    assert list(ascent.accuracy) == expected
    running = replace(config, stop_accuracy=StopAccuracy.RUNNING)
    usual = last(unlearn(running, victim_of(0), clean, 0.0, cpu))
    assert usual.loss == ascent.loss
    assert usual.accuracy != ascent.accuracy
    assert torch.equal(usual.at(4)["linear.weight"], ascent.at(4)["linear.weight"])
