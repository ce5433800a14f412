"""Every dataset with every standard architecture goes the whole road, in small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.ulrl_tests.dataset_files import cifar10, cifar100, gtsrb, tiny_imagenet
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.clean import CleanConfig, draw_clean_samples
from ulrl.datasets import Dataset
from ulrl.datasets.arrays import Arrays
from ulrl.datasets.digits import Digits
from ulrl.evaluation import evaluate
from ulrl.metrics import Metrics
from ulrl.models import Architecture, ModelSpec
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets
from ulrl.relearning import RelearnConfig, relearn
from ulrl.scoring import ScoreConfig, SuspectRule, score_neurons
from ulrl.supervised import VictimConfig
from ulrl.unlearning import UnlearnConfig, unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import ResetConfig, select_weights

PUBLIC = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "gtsrb": lambda: gtsrb(counts=(9, 7, 8), test_count=24),
    "tiny_imagenet": tiny_imagenet,
}
SMALL: dict[str, Architecture] = {
    "preact_resnet18": PreActResNet18(width=2),
    "vgg19_bn": VGG19BN(width=2),
    "vit_b_16": ViTB16(size=32, patch=8, width=16, depth=2, heads=2),
}


def arrays(folder: Path) -> Dataset:
    draw = np.random.default_rng(0)
    content: dict[str, npt.NDArray[Any]] = {
        "train_images": draw.integers(0, 256, (40, 24, 24, 1), dtype=np.uint8),
        "train_labels": np.arange(40) % 5,
        "test_images": draw.integers(0, 256, (20, 24, 24, 1), dtype=np.uint8),
        "test_labels": np.arange(20) % 5,
    }
    np.savez(folder / "mine.npz", allow_pickle=False, **content)
    return Arrays(arrays=str(folder / "mine.npz"))


@pytest.fixture
def dataset_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Dataset]:
    """Return a dataset of few images, as it would lie on disk."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(name: str) -> Dataset:
        if name == "digits":
            return Digits(size=8)
        if name == "arrays":
            return arrays(tmp_path)
        sample = PUBLIC[name]()
        monkeypatch.setattr(f"{sample.module}.SOURCE", sample.source)
        sample.put(tmp_path)
        return sample.dataset(tmp_path, download=False)

    return make


def go(dataset: Dataset, architecture: Architecture) -> None:
    """Train, unlearn, score, relearn and evaluate."""
    images, info, cpu = dataset.load(), dataset.info(), torch.device("cpu")
    assert info is not None
    assert (info.classes, info.train_count) == (images.classes, len(images.train_labels))
    assert images.train_images.shape[1:] == (info.channels, info.side, info.side)
    model_spec = ModelSpec(
        architecture=architecture,
        classes=images.classes,
        channels=info.channels,
        side=info.side,
        preprocessing=dataset.preprocessing,
    )
    poison = Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE, target_label=1)
    run = train_victim(VictimConfig(epochs=1, batch_size=32), model_spec, poison, images, 0, cpu)
    (epoch,) = run.epochs
    assert np.isfinite(epoch.loss)
    victim = run.classifier.weights()

    clean = draw_clean_samples(CleanConfig(clean_ratio=0.2), images, seed=0)
    *_, ascent = unlearn(UnlearnConfig(unlearn_epochs=2), victim, clean, 0.0, cpu)
    one = ScoreConfig(suspect_rule=SuspectRule.LARGEST, suspect_share=1 / images.classes)
    scores = score_neurons(one, ascent)
    assert len(scores.suspects) == 1
    suspects = select_weights(ResetConfig(), scores)
    repair = relearn(RelearnConfig(relearn_epochs=1), victim, suspects, clean, cpu)
    (epoch,) = repair.epochs
    assert np.isfinite(epoch.loss)
    tests = make_test_sets(poison, images, seed=0)
    found = evaluate(repair.classifier.weights(), tests, cpu)
    for half in (found.selection, found.report):
        assert isinstance(half, Metrics)
        assert all(0 <= share <= 1 for share in (half.acc, half.asr, half.ra))


# Each dataset with one architecture, and each architecture with one dataset.
PAIRS = [(name, "preact_resnet18") for name in (*PUBLIC, "digits", "arrays")]
PAIRS += [
    (name, other) for name, other in zip(("tiny_imagenet", "arrays"), list(SMALL)[1:], strict=False)
]


@pytest.mark.parametrize(("name", "architecture"), PAIRS)
def test_the_whole_road(dataset_of: Callable[[str], Dataset], name: str, architecture: str) -> None:
    go(dataset_of(name), SMALL[architecture])
