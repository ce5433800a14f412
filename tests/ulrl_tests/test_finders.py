"""Ascents that are kept from ending in whatever class is nearest, against numbers by hand."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ulrl_tests.tiny_networks import HeadAlone, classifier_of
from ulrl.clean import CleanSamples
from ulrl.fitting import Samples
from ulrl.models import Weights
from ulrl.precision import Precision
from ulrl.scoring import Score, ScoreConfig, score_neurons
from ulrl.unlearning import Ascent, Finder, UnlearnConfig, missing_prior, unlearn

Array = npt.NDArray[np.float64]
LR = 0.5
PLAIN = UnlearnConfig(
    unlearn_lr=LR,
    unlearn_momentum=0.0,
    unlearn_weight_decay=0.0,
    unlearn_clip_norm=None,
    unlearn_epochs=30,
    unlearn_milestones=(),
    unlearn_augment=False,
    unlearn_precision=Precision.FP32,
)


@pytest.fixture(scope="module")
def victim() -> Weights:
    """A head of three classes over four pixels."""
    return classifier_of(lambda: HeadAlone(4, 3), channels=1, side=2).weights()


@pytest.fixture(scope="module")
def clean(victim: Weights) -> CleanSamples:
    """Forty images, with the victim's own answers as labels."""
    source = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 1, 2, 2), generator=source).to(torch.uint8)
    labels = torch.from_numpy(logits_of(*head_of(victim), pixels_of(images)).argmax(axis=1))
    samples = Samples(images=images, labels=labels)
    return CleanSamples(samples=samples, index=torch.arange(40), seed=0)


def pixels_of(images: torch.Tensor) -> Array:
    return (images.flatten(1).double().numpy() / 255 - 0.5) / 0.25


def head_of(weights: Weights) -> tuple[Array, Array]:
    state = weights.state
    return state["head.weight"].double().numpy(), state["head.bias"].double().numpy()


def logits_of(weight: Array, bias: Array, pixels: Array) -> Array:
    logits: Array = pixels @ weight.T + bias
    return logits


def shares(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = powers / powers.sum(axis=1, keepdims=True)
    return found


def climbed(
    victim: Weights,
    clean: CleanSamples,
    *,
    balanced: bool = False,
    out: int | None = None,
    shifted: bool = False,
) -> Iterator[tuple[Array, Array, float, Array]]:
    """Yield, epoch by epoch, weight, bias, the accuracy before the step, the answers after it."""
    weight, bias = head_of(victim)
    labels = clean.samples.labels.numpy()
    left = labels != out
    pixels, wanted = pixels_of(clean.samples.images)[left], np.eye(3)[labels[left]]
    shift = 2 * missing_by_hand(logits_of(weight, bias, pixels), wanted) if shifted else 0.0

    def masked(weight: Array, bias: Array) -> Array:
        logits = logits_of(weight, bias, pixels) + shift
        if out is not None:
            logits[:, out] = -1e30
        return logits

    while True:
        logits = masked(weight, bias)
        accuracy = float((logits.argmax(axis=1) == labels[left]).mean())
        shared = shares(logits)
        if balanced:  # softmax(z - log m) is proportional to softmax(z) / m
            shared = shared / shared.mean(axis=0)
            shared /= shared.sum(axis=1, keepdims=True)
        climb = shared - wanted  # of the cross-entropy, by the logits
        weight = weight + LR * climb.T @ pixels / len(pixels)
        bias = bias + LR * climb.mean(axis=0)
        yield weight, bias, accuracy, masked(weight, bias).argmax(axis=1)


def missing_by_hand(logits: Array, wanted: Array) -> Array:
    """Return what logits lack, by many small steps up the same likelihood."""
    shift = np.zeros(logits.shape[1])
    for _ in range(3000):
        shift = shift + 0.03 * ((wanted - shares(logits + shift)).sum(axis=0) - shift)
    return shift


def last(ascents: Iterator[Ascent]) -> Ascent:
    *_, end = ascents
    return end


@pytest.mark.parametrize("finder", [Finder.ASCENT, Finder.BALANCED])
def test_steps_of_an_ascent(
    victim: Weights, clean: CleanSamples, cpu: torch.device, finder: Finder
) -> None:
    config = replace(PLAIN, unlearn_epochs=6, finder=finder)
    found = last(unlearn(config, victim, clean, 0.0, cpu))
    steps = climbed(victim, clean, balanced=finder is Finder.BALANCED)
    by_hand = [next(steps) for _ in found.accuracy]
    assert found.accuracy == pytest.approx([accuracy for _, _, accuracy, _ in by_hand])
    weight, bias, _, answers = by_hand[-1]
    end = found.at(len(by_hand))
    assert end["head.weight"].numpy() == pytest.approx(weight, abs=1e-4)
    assert end["head.bias"].numpy() == pytest.approx(bias, abs=1e-4)
    assert found.predicted[-1].tolist() == np.bincount(answers, minlength=3).tolist()


def test_a_class_half_of_which_the_trigger_stands_for_lacks_the_logarithm_of_two() -> None:
    """What a perfect victim of a clean-label attack knows, by Bayes' rule, on clean samples.

    Of two classes alike in number, half of the first has the trigger, so that without it the odds
    of the first are halved: an image of features x has the logit a(x) - log 2.
    """
    source = np.random.default_rng(0)
    labels = np.arange(20_000) % 2
    # Features of the classes are normal, at -1 and 1, so that log p(x | 1) - log p(x | 0) = 2x.
    features = source.normal(2.0 * labels - 1)
    logits = torch.from_numpy(np.stack([-2 * features - np.log(2), np.zeros(20_000)], axis=1))
    missing = missing_prior(logits, torch.from_numpy(labels))
    assert float(missing[0] - missing[1]) == pytest.approx(np.log(2), abs=0.06)
    alone = missing_prior(logits + torch.tensor([5.0, 5.0]), torch.from_numpy(labels))
    assert alone.numpy() == pytest.approx(missing.numpy(), abs=1e-8)


def test_classes_without_samples_lack_a_finite_number() -> None:
    logits = torch.zeros(6, 4, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    missing = missing_prior(logits, labels).numpy()
    likely = 6 * np.exp(missing) / np.exp(missing).sum()
    # Where the likelihood with its normal prior is highest, its slope is 0.
    assert np.array([5, 1, 0, 0]) - likely - missing == pytest.approx(np.zeros(4), abs=1e-8)
    assert missing[0] > missing[1] > missing[2] == pytest.approx(missing[3])


def test_newton_ends_where_the_victim_is_far_off() -> None:
    """A victim that is sure of the wrong class, on all samples, by a hundred."""
    logits = torch.tensor([[100.0, 0.0, 0.0]], dtype=torch.float64).expand(50, 3)
    labels = torch.tensor([1, 2] * 25)
    missing = missing_prior(logits, labels).numpy()
    likely = 50 * shares(logits[:1].numpy() + missing)[0]
    assert np.array([0, 25, 25]) - likely - missing == pytest.approx(np.zeros(3), abs=1e-6)


def test_the_second_ascent_does_without_the_class_that_the_first_ended_in(
    victim: Weights, clean: CleanSamples, cpu: torch.device
) -> None:
    gone, weight, bias = collapse(victim, clean)
    config = replace(PLAIN, finder=Finder.SECOND_ASCENT)
    found = last(unlearn(config, victim, clean, 0.3, cpu))
    steps = climbed(victim, clean, out=gone)
    by_hand = [next(steps) for _ in found.accuracy]
    assert found.accuracy == pytest.approx([accuracy for _, _, accuracy, _ in by_hand])
    assert found.accuracy[-1] <= 0.3 < min(found.accuracy[:-1])
    start, start_bias = head_of(victim)
    expected, end = by_hand[-1][0].copy(), found.at(len(by_hand))
    scale = other_rows(expected - start, gone) / other_rows(weight - start, gone)
    expected[gone] = start[gone] + scale * (weight - start)[gone]
    assert end["head.weight"].numpy() == pytest.approx(expected, abs=1e-4)
    moved = start_bias[gone] + scale * (bias - start_bias)[gone]
    assert float(end["head.bias"][gone]) == pytest.approx(moved, abs=1e-4)
    assert int(found.predicted[-1][gone]) == 0
    assert int(found.predicted[-1].sum()) == int((clean.samples.labels != gone).sum())


@pytest.mark.parametrize("often", [0, 1, 2])
def test_a_shifted_prior_makes_rare_predictions_frequent(
    victim: Weights, clean: CleanSamples, cpu: torch.device, often: int
) -> None:
    """Three victims that each have another class too seldom, by 3 in the logit."""
    state = dict(victim.state)
    state["head.bias"] = state["head.bias"] - 3.0 * torch.eye(3)[often]
    shy = replace(victim, state=state)
    ended, weight, bias = collapse(shy, clean)
    found = last(unlearn(replace(PLAIN, finder=Finder.PRIOR_SHIFT), shy, clean, 0.3, cpu))
    steps = climbed(shy, clean, shifted=True)
    by_hand = [next(steps) for _ in found.accuracy]
    assert found.accuracy == pytest.approx([accuracy for _, _, accuracy, _ in by_hand])
    start, start_bias = head_of(shy)
    (expected, expected_bias), end = (
        (part.copy() for part in by_hand[-1][:2]),
        found.at(len(by_hand)),
    )
    scale = other_rows(expected - start, ended) / other_rows(weight - start, ended)
    if scale * np.abs(weight - start)[ended].sum() > np.abs(expected - start)[ended].sum():
        expected[ended] = start[ended] + scale * (weight - start)[ended]
        expected_bias[ended] = start_bias[ended] + scale * (bias - start_bias)[ended]
    assert end["head.weight"].numpy() == pytest.approx(expected, abs=1e-4)
    assert end["head.bias"].numpy() == pytest.approx(expected_bias, abs=1e-4)
    assert found.predicted[-1].tolist() == np.bincount(by_hand[-1][3], minlength=3).tolist()


def other_rows(change: Array, label: int) -> float:
    """Return the median movement of the rows but one; of two, the lower."""
    return float(min(np.abs(np.delete(change, label, axis=0)).sum(axis=1)))


def collapse(victim: Weights, clean: CleanSamples) -> tuple[int, Array, Array]:
    """Return the class that the first ascent ends in, with the weights and biases there."""
    least = 2.0
    for weight, bias, accuracy, answers in climbed(victim, clean):
        counts = np.bincount(answers, minlength=3)
        if accuracy < least and 2 * counts.max() > len(answers):
            return int(counts.argmax()), weight, bias
        least = min(least, accuracy)
    raise AssertionError


def test_a_second_ascent_wants_samples_of_other_classes(
    victim: Weights, clean: CleanSamples, cpu: torch.device
) -> None:
    label = int(clean.samples.labels[0])
    same = clean.samples.labels == label
    samples = Samples(images=clean.samples.images[same], labels=clean.samples.labels[same])
    config = replace(PLAIN, unlearn_epochs=1, finder=Finder.SECOND_ASCENT, unlearn_lr=1e-6)
    with pytest.raises(ValueError, match=f"takes out class {label}, which leaves 0 clean samples"):
        last(unlearn(config, victim, replace(clean, samples=samples), 0.0, cpu))


def test_movement_per_predicted_mass() -> None:
    ascent = Ascent(
        before={"head.weight": torch.zeros(4, 1)},
        after={"head.weight": torch.tensor([[[0.0], [1.0], [4.0], [9.0]]])},
        kept=(1,),
        predicted=torch.tensor([[0, 2, 6, 12]]),
        accuracy=(0.0,),
        loss=(1.0,),
        diverged=False,
    )
    found = score_neurons(ScoreConfig(score=Score.PER_MASS), ascent)
    # Shares of 0, 0.1, 0.3 and 0.6, of which the first two count as 1 / 4.
    assert found.shift.tolist() == pytest.approx([0.0, 4.0, 4 / 0.3, 15.0])


def test_movement_per_predicted_mass_is_of_heads() -> None:
    ascent = Ascent(
        before={"body.weight": torch.zeros(4, 1), "head.weight": torch.zeros(4, 1)},
        after={"body.weight": torch.zeros(1, 4, 1), "head.weight": torch.zeros(1, 4, 1)},
        kept=(1,),
        predicted=torch.tensor([[5, 5, 5, 5]]),
        accuracy=(0.0,),
        loss=(1.0,),
        diverged=False,
    )
    with pytest.raises(ValueError, match="score per_mass is of rows of the head"):
        score_neurons(ScoreConfig(score=Score.PER_MASS), ascent)
