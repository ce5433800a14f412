"""A victim for benchmarks: a network of any width on pictures that the program draws."""

from dataclasses import dataclass

import torch

from benchmarks._common import the_device
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.models import ModelSpec, Weights
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.poisoning import TestHalf, TestSets, make_test_sets
from ulrl.shapes import CLASSES, SIDE, shapes
from ulrl.supervised import VictimConfig
from ulrl.victim import train_victim

PREPROCESSING = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=4, flip=True)
POISON = Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE)


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """A victim and what it is trained and tested on."""

    images: ImageSet
    victim: Weights
    tests: TestSets


def model_spec(width: int) -> ModelSpec:
    """Return a PreAct-ResNet18 of so many channels for the drawn pictures."""
    return ModelSpec(
        architecture=PreActResNet18(width=width),
        classes=CLASSES,
        channels=3,
        side=SIDE,
        preprocessing=PREPROCESSING,
    )


def material(width: int, training: int, test: int, epochs: int, monitor: int) -> Material:
    """Train a BadNets victim.

    Args:
        width: Channels of the network's first stage; 64 is the published network.
        training: Training images.
        test: Clean test images, in both halves together.
        epochs: Of the victim's training.
        monitor: Images of the selection half that a curve looks at.
    """
    images = shapes(training, test, 0)
    recipe = VictimConfig(epochs=epochs, batch_size=min(128, training))
    run = train_victim(recipe, model_spec(width), POISON, images, 0, the_device())
    for _ in run.epochs:
        pass
    tests = make_test_sets(POISON, images, 0)
    return Material(
        images=images,
        victim=run.classifier.weights(),
        tests=TestSets(
            selection=tests.selection,
            report=tests.report,
            monitor=few(tests.selection, monitor),
        ),
    )


def few(half: TestHalf, count: int) -> TestHalf:
    """Return the first `count` clean images of a half, and as large a share of the others."""
    others = max(1, count * len(half.triggered) // len(half.clean))
    return TestHalf(
        clean=half.clean[:count],
        clean_labels=half.clean_labels[:count],
        triggered=half.triggered[:others],
        true_labels=half.true_labels[:others],
        target_labels=half.target_labels[:others],
    )


def whole(tests: TestSets) -> TestHalf:
    """Return both halves as one."""
    one, other = tests.selection, tests.report
    return TestHalf(
        clean=torch.cat([one.clean, other.clean]),
        clean_labels=torch.cat([one.clean_labels, other.clean_labels]),
        triggered=torch.cat([one.triggered, other.triggered]),
        true_labels=torch.cat([one.true_labels, other.true_labels]),
        target_labels=torch.cat([one.target_labels, other.target_labels]),
    )
