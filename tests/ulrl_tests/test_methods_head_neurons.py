"""ULRL's finder as a cut, before any tuner."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.ulrl_tests.repairs import CPU, Found, clean_samples, rates, repaired, repaired_exactly
from tests.ulrl_tests.states import same
from tests.ulrl_tests.tiny_networks import HeadAlone
from ulrl.datasets import ImageSet
from ulrl.methods import RepairContext
from ulrl.methods._ascent import Ascents
from ulrl.methods._cuts import Rule, apply
from ulrl.methods._tuning import NoTuning
from ulrl.methods.fine_tuning import FineTuning
from ulrl.methods.head_neurons import HeadNeurons
from ulrl.methods.rnp import RNP
from ulrl.methods.tsbd import TSBD, GradientNorm, GradientNormTuner
from ulrl.models import Weights, restore
from ulrl.poison import Poison
from ulrl.scoring import ScoreConfig, SuspectRule, score_neurons
from ulrl.unlearning import UnlearnConfig, unlearn
from ulrl.weight_selection import ResetConfig, select_weights


@pytest.fixture(scope="module")
def found(victim_of: Callable[[int], Weights], pictures: ImageSet) -> Found:
    """A victim of which rows are cut, and nothing is trained."""
    method = HeadNeurons(share=0.2, weights=0.5, tune=NoTuning())
    return repaired(method, victim_of(0), clean_samples(pictures))


@pytest.mark.parametrize(
    ("method", "score"),
    [
        (
            HeadNeurons(share=0.2, weights=0.5),
            ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=0.2),
        ),
        (HeadNeurons(z_threshold=0.7, weights=0.3), ScoreConfig(z_threshold=0.7)),
        (
            HeadNeurons(share=0.3, max_suspects=1),
            ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=0.3, max_suspects=1),
        ),
    ],
)
def test_it_cuts_what_ulrl_would_reinitialise(
    found: Found,
    method: HeadNeurons,
    score: ScoreConfig,
    victim_of: Callable[[int], Weights],
    pictures: ImageSet,
) -> None:
    """Rows, weights and biases are those of ULRL's own phase 1 with its default ascent."""
    victim = victim_of(0)
    *_, ascent = unlearn(UnlearnConfig(), victim, clean_samples(pictures), 0.2, CPU)
    suspects = select_weights(
        ResetConfig(reinit_ratio=method.weights), score_neurons(score, ascent)
    )
    (layer,) = suspects.layers
    wanted = torch.zeros(victim.head.shape, dtype=torch.bool)
    wanted[list(layer.rows)] = layer.reset
    edit = method.stages[-1].reads(found.stages[1])
    assert edit is not None
    head = victim.model_spec.head
    assert set(edit) == {f"{head}.weight", f"{head}.bias"}
    assert torch.equal(edit[f"{head}.weight"], wanted)
    assert edit[f"{head}.bias"].nonzero().flatten().tolist() == list(layer.rows)


def test_the_rest_of_the_network_stays(found: Found, victim_of: Callable[[int], Weights]) -> None:
    edit = HeadNeurons(share=0.2, weights=0.5).stages[-1].reads(found.stages[1])
    assert edit
    classifier = restore(victim_of(0), CPU)
    apply(edit, classifier)
    assert same(dict(found.weights.state), dict(classifier.weights().state))


def test_tsbds_tuner_repairs_after_it(
    found: Found, victim_of: Callable[[int], Weights], badnets: Poison, pictures: ImageSet
) -> None:
    """Here the tuner would do without the cut; the cut is only seen to come before it."""
    clean, tune = clean_samples(pictures), GradientNorm(epochs=2, lr=0.02)
    tuned = repaired(HeadNeurons(share=0.2, weights=0.5, tune=tune), victim_of(0), clean)
    classifier = restore(found.weights, CPU)
    context = RepairContext(victim=victim_of(0), clean=clean, device=CPU, observe=print)
    list(GradientNormTuner(epochs=2, lr=0.02, weight_decay=0.0).train(classifier, context))
    assert same(dict(tuned.weights.state), dict(classifier.weights().state))
    longer = GradientNorm(epochs=10, lr=0.05, batch_size=16)
    method = HeadNeurons(share=0.2, weights=0.5, tune=longer)
    tuned = repaired_exactly(method, victim_of(0), clean_samples(pictures, 0.5))
    before, after = (rates(w, badnets, pictures) for w in (victim_of(0), tuned.weights))
    assert before.asr > 0.9
    assert after.asr < 0.3
    assert after.acc > 0.9


def test_where_no_row_stands_out_only_the_tuner_works(found: Found) -> None:
    method = HeadNeurons(z_threshold=1000.0)
    assert method.stages[-1].reads(found.stages[1]) == {}
    assert method.stages[-1].tuner == FineTuning().tuner  # type: ignore[attr-defined]
    assert HeadNeurons(share=0.2, weights=0.0).stages[-1].reads(found.stages[1]) == {}


def test_methods_have_one_ascent_where_all_of_it_is_equal() -> None:
    common: dict[str, Any] = {
        "unlearn_lr": 0.02,
        "unlearn_epochs": 7,
        "batch_size": 32,
        "unlearn_threshold": 0.3,
    }
    for ascent in Ascents:
        methods = [kind(ascent=ascent, **common) for kind in (RNP, TSBD, HeadNeurons)]
        assert len({method.stages[0] for method in methods}) == 1
    assert len({RNP(ascent=ascent, **common).stages[0] for ascent in Ascents}) == 3
    assert HeadNeurons(share=0.3).stages[:2] == HeadNeurons(tune=NoTuning()).stages[:2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": Rule.BUDGET}, r"^rule is outlier or largest for head_neurons; got budget"),
        ({"z_threshold": 0.0}, r"^z_threshold is above 0"),
        ({"share": 2.0}, r"^share is a share"),
        ({"weights": 1.5}, r"^weights is a share"),
        ({"max_suspects": -1}, r"^max_suspects is at least 0"),
        ({"unlearn_threshold": 2.0}, r"^unlearn_threshold is an accuracy"),
        ({"unlearn_lr": 0.0}, r"^unlearn_lr is above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HeadNeurons(**options)


@pytest.mark.parametrize(
    ("method", "classes", "message"),
    [
        (HeadNeurons(), 2, r"^head_neurons with rule: outlier cannot answer for 2 classes"),
        (HeadNeurons(share=0.1), 4, r"^head_neurons with share: 0\.1 of 4 rows cuts none"),
    ],
)
def test_rules_that_cannot_tell_few_rows_apart_are_refused(
    method: HeadNeurons, classes: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        method.check(HeadAlone(4, classes), "head", classes)
    method.check(HeadAlone(4, 10), "head", 10)
