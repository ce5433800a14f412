"""Phase 1: what one ascent says about every threshold."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.tiny_networks import Victims
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.hyperparameters import assemble
from ulrl.models import Classifier
from ulrl.scoring import ScoreConfig, score_neurons
from ulrl.unlearning import Ascent, UnlearnConfig, unlearn

CONFIG = UnlearnConfig(unlearn_batch_size=16)
EXPLOSIVE = UnlearnConfig(unlearn_batch_size=16, unlearn_lr=0.3, unlearn_clip_norm=1e30)


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


def test_ascent_climbs_and_keeps_every_new_minimum(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    config = replace(CONFIG, unlearn_epochs=12)
    ascent = last(unlearn(config, victim_of(0), clean, 0.0, cpu))
    epochs = len(ascent.accuracy)
    assert epochs == 12 or ascent.accuracy[-1] == 0.0  # no accuracy is below that
    minima = [
        epoch
        for epoch in range(1, epochs + 1)
        if all(ascent.accuracy[epoch - 1] < earlier for earlier in ascent.accuracy[: epoch - 1])
    ]
    assert len(minima) > 2
    assert ascent.kept == tuple(sorted({*minima, epochs}))
    assert [len(values) for values in ascent.after.values()] == [len(ascent.kept)] * 2
    assert ascent.loss[0] > 0
    assert ascent.loss[-1] > ascent.loss[0]
    for name in ("linear.weight", "linear.bias"):
        assert torch.equal(ascent.before[name], victim_of(0).state[name])


def test_an_observer_sees_every_epoch_and_changes_nothing(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    config = replace(CONFIG, unlearn_epochs=4)
    heads = []

    def observe(classifier: Classifier) -> None:
        classifier.predict(clean.samples.images)
        torch.rand(5)
        heads.append(classifier.head.weight.detach().clone())

    watched = last(unlearn(config, victim_of(0), clean, 0.0, cpu, observe=observe))
    alone = last(unlearn(config, victim_of(0), clean, 0.0, cpu))
    assert len(heads) == 4
    seen = torch.stack([heads[epoch - 1] for epoch in watched.kept])
    assert torch.equal(seen, watched.after["linear.weight"])
    assert same(watched.after, alone.after)
    assert watched.accuracy == alone.accuracy


def test_it_counts_what_the_network_predicts_at_each_kept_epoch(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    """Phase 1 ends in few classes; the counts are a second look at the same weights."""
    config = replace(CONFIG, unlearn_epochs=6)
    counts: list[list[int]] = []

    def observe(classifier: Classifier) -> None:
        classifier.network.eval()
        with torch.no_grad():
            classes = classifier.logits(clean.samples.images).argmax(dim=1).tolist()
        classifier.network.train()
        counts.append([classes.count(label) for label in range(10)])

    ascent = last(unlearn(config, victim_of(0), clean, 0.0, cpu, observe=observe))
    assert len(ascent.kept) > 2
    assert ascent.predicted.tolist() == [counts[epoch - 1] for epoch in ascent.kept]
    assert ascent.predicted_at(ascent.kept[1]).tolist() == counts[ascent.kept[1] - 1]
    scores = score_neurons(ScoreConfig(unlearn_threshold=0.0), ascent)
    assert scores.predicted.tolist() == counts[scores.stop_epoch - 1]
    assert scores.collapse_class == max(range(10), key=counts[scores.stop_epoch - 1].__getitem__)


def test_never_reaching_means_the_last_epoch(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    config = replace(CONFIG, unlearn_epochs=2)
    ascent = last(unlearn(config, victim_of(0), clean, 0.2, cpu))
    assert min(ascent.accuracy) > 0.2
    assert not ascent.reaches(0.2)
    assert ascent.stop_epoch(0.2) == 2
    assert ascent.covers(0.2, config)
    scores = score_neurons(ScoreConfig(unlearn_threshold=0.2), ascent)
    assert (scores.stop_epoch, scores.threshold_reached, scores.diverged) == (2, False, False)
    change = ascent.at(2)["linear.weight"] - victim_of(0).head
    assert torch.equal(scores.shift, change.abs().sum(dim=1))


def test_divergence_is_an_outcome_that_flags_nothing(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    ascent = last(unlearn(EXPLOSIVE, victim_of(0), clean, 0.0, cpu))
    assert ascent.diverged
    assert len(ascent.accuracy) < EXPLOSIVE.unlearn_epochs
    assert min(ascent.accuracy[:-1]) > 0.0
    assert not ascent.reaches(0.0)
    assert ascent.covers(0.0, EXPLOSIVE)
    scores = score_neurons(ScoreConfig(unlearn_threshold=0.0), ascent)
    assert scores.diverged
    assert scores.collapse_class is None
    assert not scores.threshold_reached
    assert scores.suspects == ()
    assert scores.movement == {}
    assert scores.stop_epoch == len(ascent.accuracy)


def test_a_later_divergence_spares_the_thresholds_passed_before(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device
) -> None:
    """Else a setting's result would depend on which lower thresholds share its ascent."""
    alone = last(unlearn(EXPLOSIVE, victim_of(0), clean, 0.9, cpu))
    shared = last(unlearn(EXPLOSIVE, victim_of(0), clean, 0.0, cpu))
    assert (alone.diverged, shared.diverged) == (False, True)
    config = ScoreConfig(unlearn_threshold=0.9)
    theirs, ours = score_neurons(config, alone), score_neurons(config, shared)
    assert ours.stop_epoch == theirs.stop_epoch
    assert torch.equal(ours.shift, theirs.shift)
    assert ours.suspects == theirs.suspects
    assert (ours.threshold_reached, ours.diverged) == (True, False)


# Phase 1 with its switches thrown: thresholds share an ascent, and watching changes nothing.


THRESHOLDS = (0.9, 0.7, 0.5, 0.3, 0.1)


SHARED: dict[str, dict[str, Any]] = {
    "as it is": {},
    "eval": {"stop_accuracy": "eval"},
    "all layers": {"layers": "all", "max_suspects": None},
}


@pytest.mark.parametrize(("seed", "kind"), [(1, "as it is"), *((0, kind) for kind in SHARED)])
def test_one_ascent_serves_every_threshold_bit_for_bit(
    victim_of: Victims, pictures: ImageSet, cpu: torch.device, seed: int, kind: str
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
