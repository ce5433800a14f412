"""The whole defence as one call, on a network that the library did not build."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import ulrl
from tests.ulrl_tests.exact import exactly, in_single
from tests.ulrl_tests.tiny_networks import Victims
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.datasets.digits import Digits
from ulrl.evaluation import Evaluation, evaluate
from ulrl.fitting import Epoch
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.metrics import Metrics, der, measure
from ulrl.models import ModelSpec, Weights, restore
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.poison_checks import check_poison
from ulrl.poisoning import TestSets, make_test_sets
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.supervised import VictimConfig
from ulrl.unlearning import Ascent, unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import select_weights

SHORT: dict[str, Any] = {"unlearn_batch_size": 16, "relearn_batch_size": 16, "relearn_epochs": 10}


class Foreign(nn.Module):
    """Somebody's network: the library's victim under other names."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.wrapped = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.wrapped(x)
        return scores


@pytest.fixture
def samples(pictures: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.3), pictures, seed=0)
    return clean.samples.images, clean.samples.labels


def test_ten_lines_repair_a_foreign_network(
    victim_of: Victims,
    samples: tuple[torch.Tensor, torch.Tensor],
    pictures: ImageSet,
    badnets: Poison,
    cpu: torch.device,
) -> None:
    victim = Foreign(restore(victim_of(1), cpu).network).eval()
    before = {name: value.clone() for name, value in victim.state_dict().items()}
    # One suspect: which rows pass the limit beside the target's is each kind of CPU's own.
    values = SHORT | {"max_suspects": 1}
    repaired = ulrl.repair(victim, *samples, victim_of(1).model_spec.preprocessing, **values)
    assert repaired.scores.places == (("wrapped.linear", badnets.target_label),)
    assert not repaired.plain_fine_tuning
    assert not repaired.network.training
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    tests = make_test_sets(badnets, pictures, seed=0)
    model = restore(victim_of(1), cpu)
    was = measure(model.predict, tests.report)
    model.network = repaired.network
    now = measure(model.predict, tests.report)
    assert was.asr > 0.9
    assert now.asr < was.asr / 2  # how much is left is each kind of CPU's own, too
    assert now.acc > was.acc - 0.1


def test_it_is_the_stages_one_after_the_other(
    victim_of: Victims,
    samples: tuple[torch.Tensor, torch.Tensor],
    pictures: ImageSet,
    cpu: torch.device,
) -> None:
    weights = victim_of(1)
    parts: Hyperparameters = assemble(preset_values(ulrl.Preset.OFFICIAL, "cifar10") | SHORT)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.3), pictures, seed=0)
    *_, ascent = unlearn(parts.unlearn, weights, clean, 0.2, cpu)
    suspects = select_weights(parts.reset, score_neurons(parts.score, ascent))
    run = relearn(parts.relearn, weights, suspects, clean, cpu)
    for _ in run.epochs:
        pass
    whole = ulrl.repair(
        restore(weights, cpu).network,
        *samples,
        weights.model_spec.preprocessing,
        preset="official",
        **SHORT,
    )
    theirs = run.classifier.network.state_dict()
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def test_nothing_suspicious_is_plain_fine_tuning_and_says_so(
    victim_of: Victims, samples: tuple[torch.Tensor, torch.Tensor], cpu: torch.device
) -> None:
    network = restore(victim_of(0), cpu).network
    preprocessing = victim_of(0).model_spec.preprocessing
    values = SHORT | {"relearn_epochs": 1, "unlearn_epochs": 1}
    assert ulrl.repair(
        network, *samples, preprocessing, z_threshold=1e6, **values
    ).plain_fine_tuning
    tuned = ulrl.repair(network, *samples, preprocessing, preset="fine_tuning", **values)
    assert tuned.plain_fine_tuning


# All five stages in a row on real digits.


TARGET, SEED = 3, 0


@dataclass(frozen=True, kw_only=True)
class Story:
    """What happened to one victim."""

    learned: list[Epoch]
    victim: Weights
    tests: TestSets
    before: Evaluation
    clean: CleanSamples
    ascent: Ascent
    scores: NeuronScores
    relearned: list[Epoch]
    repaired: Weights
    after: Evaluation


@pytest.fixture(scope="session")
def story(cpu: torch.device) -> Story:
    dataset = Digits()
    images = dataset.load()
    model_spec = ModelSpec(
        architecture=PreActResNet18(width=4),
        classes=10,
        channels=3,
        side=16,
        preprocessing=dataset.preprocessing,
    )
    poison = Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE, target_label=TARGET)
    check_poison(poison, dataset.info())
    # One suspect: which rows pass the limit beside the target's is each kind of CPU's own.
    values = {"clean_ratio": 0.1, "unlearn_batch_size": 32, "max_suspects": 1}
    h = assemble(preset_values(Preset.DEFAULT, "digits") | values)
    config = VictimConfig(epochs=6, batch_size=32)
    tests = make_test_sets(poison, images, SEED)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.1), images, SEED)
    with exactly():
        training = train_victim(config, model_spec, poison, images, SEED, cpu)
        learned = list(training.epochs)
        victim = in_single(training.classifier.weights())
        *_, ascent = unlearn(h.unlearn, victim, clean, h.score.unlearn_threshold, cpu)
        scores = score_neurons(h.score, ascent)
        repair = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, cpu)
        relearned = list(repair.epochs)
        repaired = in_single(repair.classifier.weights())
    return Story(
        learned=learned,
        victim=victim,
        tests=tests,
        before=evaluate(victim, tests, cpu),
        clean=clean,
        ascent=ascent,
        scores=scores,
        relearned=relearned,
        repaired=repaired,
        after=evaluate(repaired, tests, cpu),
    )


def test_the_victim_has_learned_the_task_and_the_trigger(story: Story) -> None:
    assert [epoch.number for epoch in story.learned] == [1, 2, 3, 4, 5, 6]
    assert story.learned[-1].loss < story.learned[0].loss / 3
    for half in (story.before.selection, story.before.report):
        assert isinstance(half, Metrics)
        assert half.acc > 0.9
        assert half.asr > 0.7


def test_the_ascent_exposes_the_target(story: Story) -> None:
    assert story.scores.threshold_reached
    assert story.scores.stop_epoch == len(story.ascent.accuracy)
    assert story.ascent.accuracy[-1] <= 0.2 < min(story.ascent.accuracy[:-1])
    assert int(story.scores.z.argmax()) == TARGET
    assert story.scores.suspects == (TARGET,)


def test_the_repair_removes_the_trigger_and_keeps_the_task(story: Story) -> None:
    assert len(story.relearned) == 20
    for before, after in (
        (story.before.selection, story.after.selection),
        (story.before.report, story.after.report),
    ):
        assert isinstance(before, Metrics)
        assert isinstance(after, Metrics)
        assert after.asr < 0.25
        assert after.acc > before.acc - 0.12
        assert after.ra > before.ra
        assert der(before, after) > 0.75


def test_evaluation_is_the_share_of_right_answers_in_eval_mode(
    story: Story, cpu: torch.device
) -> None:
    classifier = restore(story.repaired, cpu)
    classifier.network.eval()
    for part, metrics in (
        (story.tests.selection, story.after.selection),
        (story.tests.report, story.after.report),
    ):
        with torch.no_grad():
            clean = classifier.logits(part.clean).argmax(dim=1).tolist()
            triggered = classifier.logits(part.triggered).argmax(dim=1).tolist()
        true, total = part.true_labels.tolist(), len(part.triggered)
        right = sum(p == y for p, y in zip(clean, part.clean_labels.tolist(), strict=True))
        assert isinstance(metrics, Metrics)
        assert metrics.acc == right / 250
        assert metrics.asr == sum(p == TARGET for p in triggered) / total
        assert metrics.ra == sum(p == y for p, y in zip(triggered, true, strict=True)) / total
        assert metrics.asr + metrics.ra <= 1
