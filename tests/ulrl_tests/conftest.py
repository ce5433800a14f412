"""A small world for the core's tests: pictures that a narrow network learns in a second."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from tests.ulrl_tests.dataset_files import SAMPLES, Sample
from tests.ulrl_tests.exact import exactly, in_single
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet, Preprocessing
from ulrl.models import ModelSpec, Weights, initialise
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Poison
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig
from ulrl.victim import train_victim

CLASSES, SIDE = 10, 16


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU here")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """One torch thread, as every trial of a study has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def cpu() -> torch.device:
    return torch.device("cpu")


def _noisy_copies(prototypes: Tensor, labels: Tensor, source: Generator) -> Tensor:
    noise = 30 * torch.randn((len(labels), *prototypes.shape[1:]), generator=source)
    return (prototypes[labels] + noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="session")
def pictures() -> ImageSet:
    """Ten classes of coarse colour patterns under noise: 30 + 15 images of each."""
    source = Generator().manual_seed(0)
    coarse = torch.randint(40, 215, (CLASSES, 3, 4, 4), generator=source).float()
    prototypes = interpolate(coarse, scale_factor=4)
    train = torch.arange(CLASSES).repeat_interleave(30)
    test = torch.arange(CLASSES).repeat_interleave(15)
    with exactly():  # else kinds of CPUs differ in a few pixels
        train_images = _noisy_copies(prototypes, train, source)
        test_images = _noisy_copies(prototypes, test, source)
    return ImageSet(
        train_images=train_images,
        train_labels=train,
        test_images=test_images,
        test_labels=test,
        classes=CLASSES,
    )


@pytest.fixture(scope="session")
def model_spec() -> ModelSpec:
    preprocessing = Preprocessing(mean=(0.5, 0.4, 0.6), std=(0.25, 0.3, 0.2), padding=1, flip=True)
    return ModelSpec(
        architecture=PreActResNet18(width=4),
        classes=CLASSES,
        channels=3,
        side=SIDE,
        preprocessing=preprocessing,
    )


@pytest.fixture(scope="session")
def badnets() -> Poison:
    return Poison(
        attack=BadNets(size=3), labels=LabelRule.ALL_TO_ONE, poison_ratio=0.15, target_label=1
    )


def _victims(
    config: VictimConfig, model_spec: ModelSpec, poison: Poison, pictures: ImageSet
) -> Callable[[int], Weights]:
    """Return the victim of a seed, trained once: the same on every kind of CPU."""
    trained: dict[int, Weights] = {}

    def train(seed: int) -> Weights:
        if seed not in trained:
            with exactly():
                run = train_victim(config, model_spec, poison, pictures, seed, torch.device("cpu"))
                for _ in run.epochs:
                    pass
                trained[seed] = in_single(run.classifier.weights())
        return trained[seed]

    return train


@pytest.fixture(scope="session")
def victim_of(
    pictures: ImageSet, model_spec: ModelSpec, badnets: Poison
) -> Callable[[int], Weights]:
    """Return the victim of a seed."""
    return _victims(VictimConfig(epochs=8, batch_size=32), model_spec, badnets, pictures)


@pytest.fixture(scope="session")
def wide_victim(pictures: ImageSet, model_spec: ModelSpec, badnets: Poison) -> Weights:
    """Return a victim of twice the width, with channels enough that some can be done without.

    It is that of seed 2; the network of seed 1 hardly learns the trigger.
    """
    wide = replace(model_spec, architecture=PreActResNet18(width=8))
    return _victims(VictimConfig(epochs=12, batch_size=32), wide, badnets, pictures)(2)


@pytest.fixture(scope="module")
def state(model_spec: ModelSpec, cpu: torch.device) -> dict[str, Tensor]:
    """The weights of a new network, to be brought in as if from outside."""
    return initialise(model_spec, generator(0, "imported"), cpu).weights().state


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], Path]:
    """Save anything with torch, and return the file."""

    def save(content: Any) -> Path:
        torch.save(content, tmp_path / "model.pt")
        return tmp_path / "model.pt"

    return save


@pytest.fixture
def write_arrays(tmp_path: Path) -> Callable[..., Path]:
    """Write a small valid file for ``arrays:``, some of its arrays changed, and return it."""

    def write(**changes: npt.NDArray[Any]) -> Path:
        source = np.random.default_rng(0)
        arrays: dict[str, npt.NDArray[Any]] = {
            "train_images": source.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8),
            "train_labels": np.array([0, 1, 2, 0, 1, 0]),
            "test_images": source.integers(0, 256, (4, 8, 8, 3), dtype=np.uint8),
            "test_labels": np.array([2, 1, 0, 0]),
        }
        path = tmp_path / "mine.npz"
        np.savez_compressed(path, allow_pickle=True, **(arrays | changes))
        return path

    return write


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which datasets are decoded where their root cannot be written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/ulrl"


@pytest.fixture
def published(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sample], Sample]:
    """Let a small dataset stand in for the published one of its name."""
    del cache

    def publish(made: Sample) -> Sample:
        monkeypatch.setattr(f"{made.module}.SOURCE", made.source)
        return made

    return publish


@pytest.fixture(params=SAMPLES)
def sample(request: pytest.FixtureRequest, published: Callable[[Sample], Sample]) -> Sample:
    """Each public dataset in small."""
    return published(SAMPLES[request.param]())
