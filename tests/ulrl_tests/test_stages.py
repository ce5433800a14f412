"""All five stages in a row on real digits."""

from dataclasses import dataclass

import pytest
import torch

from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.clean import CleanConfig, CleanSamples, draw_clean_samples
from ulrl.datasets.digits import Digits
from ulrl.evaluation import Evaluation, evaluate
from ulrl.fitting import Epoch
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.metrics import der
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
    training = train_victim(config, model_spec, poison, images, SEED, cpu)
    learned = list(training.epochs)
    victim = training.classifier.weights()
    tests = make_test_sets(poison, images, SEED)
    clean = draw_clean_samples(CleanConfig(clean_ratio=0.1), images, SEED)
    *_, ascent = unlearn(h.unlearn, victim, clean, h.score.unlearn_threshold, cpu)
    scores = score_neurons(h.score, ascent)
    repair = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, cpu)
    relearned = list(repair.epochs)
    repaired = repair.classifier.weights()
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
        assert after.asr < 0.25
        assert after.acc > before.acc - 0.12
        assert after.ra > before.ra
        assert der(before, after) > 0.75


def test_the_repaired_row_has_left_its_direction(story: Story) -> None:
    rows = zip(story.victim.head, story.repaired.head, strict=True)
    cosines = torch.stack([a @ b / (a.norm() * b.norm()) for a, b in rows])
    others = [row for row in range(10) if row != TARGET]
    assert float(cosines[TARGET]) < 0.5
    assert float(cosines[others].min()) > 0.9


def test_halves_are_of_the_test_set_and_apart(story: Story) -> None:
    assert len(story.tests.selection.clean) == len(story.tests.report.clean) == 250
    assert len(story.tests.monitor.clean) == 250
    assert len(story.clean.index) == 129  # a tenth of 1297


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
        assert metrics.acc == right / 250
        assert metrics.asr == sum(p == TARGET for p in triggered) / total
        assert metrics.ra == sum(p == y for p, y in zip(triggered, true, strict=True)) / total
        assert metrics.asr + metrics.ra <= 1
