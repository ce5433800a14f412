"""A network with values that are not finite is an error in every stage, never a result."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.functional import cross_entropy

import ulrl
from tests.ulrl_tests.attack_tools import context_of
from tests.ulrl_tests.tiny_networks import Victims
from ulrl.attacks import AttackContext, Helper, Step
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.evaluation import evaluate
from ulrl.fitting import Epoch, SGDConfig, Sources, train
from ulrl.models import ModelSpec, Weights, restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets
from ulrl.precision import Precision
from ulrl.scoring import ScoreConfig, score_neurons
from ulrl.supervised import VictimConfig, VictimSchedule
from ulrl.unlearning import StopAccuracy, UnlearnConfig, unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import ResetConfig, select_weights

EXPLOSIVE = UnlearnConfig(unlearn_batch_size=16, unlearn_lr=0.3, unlearn_clip_norm=1e30)


@pytest.fixture(scope="module")
def clean(pictures: ImageSet) -> CleanSamples:
    return draw_clean_samples(CleanConfig(clean_ratio=0.12), pictures, seed=0)


def spoiled(weights: Weights, name: str, value: float) -> Weights:
    """Return weights with one number replaced."""
    state = {key: tensor.clone() for key, tensor in weights.state.items()}
    state[name].flatten()[0] = value
    return replace(weights, state=state)


# Stages.


@pytest.mark.parametrize("schedule", [VictimSchedule.CONSTANT, VictimSchedule.PLATEAU])
def test_a_victim_that_diverges_ends_its_training(
    model_spec: ModelSpec,
    badnets: Poison,
    pictures: ImageSet,
    cpu: torch.device,
    schedule: VictimSchedule,
) -> None:
    config = VictimConfig(epochs=30, batch_size=32, lr=100.0, schedule=schedule)
    run = train_victim(config, model_spec, badnets, pictures, 0, cpu)
    with pytest.raises(
        ulrl.DivergedError, match=r"^training diverged in epoch \d+ \(.*; a smaller lr may help$"
    ):
        list(run.epochs)


@pytest.mark.parametrize("stop", list(StopAccuracy))
def test_an_ascent_that_diverges_early_chooses_nothing(
    victim_of: Victims, clean: CleanSamples, cpu: torch.device, stop: StopAccuracy
) -> None:
    """In eval mode, too, where all-NaN predictions are class 0: an accuracy of a tenth."""
    config = replace(EXPLOSIVE, unlearn_lr=100.0, stop_accuracy=stop)
    *_, ascent = unlearn(config, victim_of(0), clean, 0.2, cpu)
    assert ascent.diverged
    assert not ascent.reaches(0.2)
    scores = score_neurons(ScoreConfig(unlearn_threshold=0.2), ascent)
    with pytest.raises(
        ulrl.DivergedError, match=f"unlearning diverged in epoch {len(ascent.accuracy)}, before"
    ):
        select_weights(ResetConfig(), scores)


@pytest.mark.parametrize(("name", "value"), [("linear.weight", nan), ("linear.bias", -inf)])
def test_no_class_is_predicted_from_outputs_that_are_not_finite(
    victim_of: Victims,
    pictures: ImageSet,
    badnets: Poison,
    cpu: torch.device,
    name: str,
    value: float,
) -> None:
    weights = spoiled(victim_of(0), name, value)
    classifier = restore(weights, cpu)
    classifier.network.train()
    images = pictures.test_images[:7]
    with pytest.raises(ulrl.DivergedError, match="not finite for 7 of 7 images"):
        classifier.predict(images)
    assert classifier.network.training
    with pytest.raises(ulrl.DivergedError, match="not finite"):
        evaluate(weights, make_test_sets(badnets, pictures, seed=0), cpu)


@pytest.mark.parametrize("phase", ["unlearn", "relearn"])
def test_repair_raises(victim_of: Victims, clean: CleanSamples, phase: str) -> None:
    victim = restore(victim_of(0), torch.device("cpu")).network.eval()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    values: dict[str, Any] = {
        f"{phase}_lr": 100.0,
        f"{phase}_clip_norm": 1e30,
        f"{phase}_batch_size": 16,
    }
    samples = clean.samples
    with pytest.raises(ulrl.DivergedError, match=f"^{phase}ing diverged in epoch"):
        ulrl.repair(
            victim, samples.images, samples.labels, victim_of(0).model_spec.preprocessing, **values
        )
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())


@dataclass(frozen=True, kw_only=True)
class Exploded(Helper):
    """Learned one sound number and another."""

    value: float

    def train(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        del context
        yield Step(1, 1)
        return {"bits": torch.ones(2, dtype=torch.bool), "weight": torch.tensor([1.0, self.value])}


@pytest.mark.parametrize("value", [nan, inf])
def test_a_helper_that_diverged_has_no_result(
    value: float, model_spec: ModelSpec, pictures: ImageSet
) -> None:
    context = context_of(pictures, model_spec, epochs=1, batch_size=32)
    with pytest.raises(ulrl.DivergedError) as failure:
        list(Exploded(value=value).trained(context))
    assert str(failure.value) == (
        "the training of Exploded diverged (weight is not finite); smaller rates or weights of "
        "the attack may help"
    )
    assert list(Exploded(value=2.0).trained(context)) == [Step(1, 1)]


# The loop.


def epochs_of(
    weights: Weights,
    clean: CleanSamples,
    objective: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    *,
    lr: float = 0.01,
    epochs: int = 2,
    precision: Precision = Precision.FP32,
    batch: int = 1000,
) -> tuple[list[Epoch], dict[str, Tensor]]:
    """Return the epochs of a training, and the parameters at its end."""
    classifier = restore(weights, torch.device("cpu"))
    config = SGDConfig(
        epochs=epochs, batch_size=batch, rate=lambda _: lr, precision=precision, augment=False
    )
    sources = Sources.of(0, "test")
    found = list(train(classifier, clean.samples, objective, config, sources))
    return found, {n: p.detach().clone() for n, p in classifier.network.named_parameters()}


# Loss scaling.


def scale_from(start: float, monkeypatch: pytest.MonkeyPatch) -> list[GradScaler]:
    """Let fp16 begin with another scale, and return the scalers that are made."""
    made: list[GradScaler] = []

    def scaler(_: Precision, device: torch.device) -> GradScaler:
        made.append(GradScaler(device.type, init_scale=start))
        return made[-1]

    monkeypatch.setattr(Precision, "scaler", scaler)
    return made


@pytest.mark.parametrize("batch", [1000, 16])
def test_an_epoch_whose_every_step_was_left_out_is_repeated(
    victim_of: Victims, clean: CleanSamples, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """Scales are powers of two: a training that begins with the last one gives the same bits."""

    def run(start: float) -> tuple[list[Epoch], dict[str, Tensor], float]:
        (scalers := scale_from(start, monkeypatch)).clear()
        found = epochs_of(victim_of(0), clean, precision=Precision.FP16, batch=batch)
        return (*found, scalers[0].get_scale())

    steps = -(-len(clean.samples.labels) // batch)
    start = 2.0 ** (24 + 12 * steps)  # overflows every gradient of the first pass
    epochs, weights, scale = run(start)
    assert scale < start / 2**steps
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert not any(epoch.fault for epoch in epochs)
    before = dict(restore(victim_of(0), torch.device("cpu")).network.named_parameters())
    assert not torch.equal(weights["linear.weight"], before["linear.weight"])
    if batch == 1000:  # with several steps, the last pass of an epoch may lose some of them
        _, same, last = run(scale)
        assert last == scale
        assert all(torch.equal(same[name], value) for name, value in weights.items())
