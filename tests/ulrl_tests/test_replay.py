"""Recorded steps are the steps: the same training, replayed and not. These tests want a GPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from tests.ulrl_tests.tiny_networks import HeadAlone, Made
from ulrl.clean import CleanSamples
from ulrl.datasets import Preprocessing
from ulrl.fitting import Epoch, Samples, SGDConfig, Sources, train
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.relearning import RelearnConfig, relearn
from ulrl.replay import SWITCH, Replay
from ulrl.weight_selection import LayerSuspects, Suspects

pytestmark = pytest.mark.gpu

COUNT, BATCH, EPOCHS = 44, 16, 4  # batches of 16, 16 and 12
PREPROCESSING = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=4, flip=True)


@dataclass(frozen=True, kw_only=True)
class Replayable(Made):
    """A test's own network, said to be replayable."""

    replayable = True


class Looking(HeadAlone):
    """A network that cannot be recorded: it waits for a value of each batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if float(x.mean()) > -1e9 else 2.0)


class Counting(HeadAlone):
    """A network that counts how often Python goes through it."""

    def __init__(self) -> None:
        super().__init__(3 * 32 * 32, 10)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)


def model_spec(architecture: Any) -> ModelSpec:
    return ModelSpec(
        architecture=architecture, classes=10, channels=3, side=32, preprocessing=PREPROCESSING
    )


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda")


@pytest.fixture
def samples() -> Samples:
    draw = generator(0, "pictures")
    return Samples(
        images=torch.randint(256, (COUNT, 3, 32, 32), generator=draw).to(torch.uint8),
        labels=torch.randint(10, (COUNT,), generator=draw),
    )


Trained = tuple[Classifier, list[Epoch]]


@pytest.fixture
def trained(
    samples: Samples, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Trained]:
    """Return a function that trains a new network, by recorded steps or without."""

    def run(architecture: Any, *, replayed: bool, lr: float = 0.05, **changes: Any) -> Trained:
        monkeypatch.setattr(type(architecture), "replayable", replayed)
        classifier = initialise(model_spec(architecture), generator(0, "weights"), device)
        defaults: dict[str, Any] = {"rate": lambda done: lr / (1 + done)}
        defaults |= {"epochs": EPOCHS, "batch_size": BATCH, "weight_decay": 5e-4}
        config = SGDConfig(**(defaults | changes))
        sources = Sources.of(0, "test")
        steps = train(classifier, samples, cross_entropy, config, sources)
        return classifier, list(steps)

    return run


CASES: Mapping[str, Any] = {
    "fp32": (PreActResNet18(width=8), {}),
    "bf16": (PreActResNet18(width=8), {"precision": Precision.BF16}),
    "fp16, with loss scaling": (PreActResNet18(width=8), {"precision": Precision.FP16}),
    "clipped": (PreActResNet18(width=8), {"precision": Precision.FP16, "clip_norm": 0.5}),
    "two passes": (PreActResNet18(width=8), {"batchnorm_updates": 2}),
    "BatchNorm frozen": (PreActResNet18(width=8), {"batchnorm_updates": 0}),
    "no views": (PreActResNet18(width=8), {"augment": False}),
    "short batch left out": (PreActResNet18(width=8), {"drop_last": True}),
    "dropout": (VGG19BN(width=4), {"lr": 0.01}),
    "attention": (
        ViTB16(size=32, patch=8, width=32, depth=2, heads=2),
        {"precision": Precision.BF16},
    ),
}


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Note the length of each batch that goes through a network in Python."""
    noted: list[int] = []
    logits = Classifier.logits

    def noting(self: Classifier, images: Tensor) -> Tensor:
        noted.append(len(images))
        return logits(self, images)

    monkeypatch.setattr(Classifier, "logits", noting)
    return noted


@pytest.mark.parametrize("case", CASES)
def test_a_replayed_training_is_the_training(
    case: str, trained: Callable[..., Trained], passes: list[int]
) -> None:
    architecture, changes = CASES[case]
    plain, seen = trained(architecture, replayed=False, **changes)
    plain_passes = len(passes)
    replayed, seen_there = trained(architecture, replayed=True, **changes)
    assert 0 < len(passes) - plain_passes <= plain_passes / 2
    same(replayed, plain)
    assert seen_there == seen


def same(one: Classifier, other: Classifier) -> None:
    """Assert that two classifiers have the same weights, to the bit."""
    there = other.weights().state
    for name, value in one.weights().state.items():
        assert torch.equal(value, there[name]), name


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_replayed_relearning_is_the_relearning(
    precision: Precision,
    samples: Samples,
    device: torch.device,
    passes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim = initialise(model_spec(PreActResNet18(width=8)), generator(0, "weights"), device)
    rows = LayerSuspects(
        weight="linear.weight", rows=(2, 5), reset=torch.rand(2, 64, generator=Generator()) < 0.5
    )
    suspects = Suspects(layers=(rows,), reset_bias=True)
    config = RelearnConfig(relearn_epochs=4, relearn_batch_size=BATCH, relearn_precision=precision)
    clean = CleanSamples(samples=samples, index=torch.arange(COUNT), seed=0)
    found, counts = [], []
    for replayed in (False, True):
        monkeypatch.setattr(PreActResNet18, "replayable", replayed)
        before = len(passes)
        run = relearn(config, victim.weights(), suspects, clean, device)
        epochs = list(run.epochs)
        found.append((run.classifier, epochs))
        counts.append(len(passes) - before)
    # One more pass after the last epoch, over all samples: it raises where all is NaN.
    assert counts == [3 * 4 + 1, 2 * 2 + 1]
    same(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_the_switch_does_without(
    trained: Callable[..., Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "0")
    classifier, _ = trained(Replayable(network=Counting), replayed=True)
    assert classifier.network.passes == 3 * EPOCHS


def test_python_goes_through_a_network_twice_for_each_length(
    trained: Callable[..., Trained],
) -> None:
    counts = {}
    for replayed in (False, True):
        classifier, _ = trained(Replayable(network=Counting), replayed=replayed)
        counts[replayed] = classifier.network.passes
    assert counts == {False: 3 * EPOCHS, True: 2 * 2}


def test_what_waits_for_the_device_is_done_as_ever(trained: Callable[..., Trained]) -> None:
    architecture = Replayable(network=lambda: Looking(3 * 32 * 32, 10))
    plain, _ = trained(architecture, replayed=False)
    replayed, _ = trained(architecture, replayed=True)
    same(replayed, plain)
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.cuda.get_sync_debug_mode() == 0


def test_dropout_of_a_recording_is_drawn_anew(device: torch.device) -> None:
    layer, found = nn.Dropout(0.5), torch.zeros(64, device=device)

    def work(index: Tensor) -> None:
        found.copy_(layer(torch.ones_like(index).float()))

    replay = Replay(work, device)
    index = torch.arange(64, device=device)
    seen = []
    with replay.running():
        for _ in range(6):
            replay(index)
            seen.append(found.cpu().clone())
    assert len({tuple(each.tolist()) for each in seen}) == 6


def test_no_memory_stays_behind(trained: Callable[..., Trained]) -> None:
    taken = []
    for _ in range(4):
        trained(PreActResNet18(width=8), replayed=True)
        torch.cuda.empty_cache()
        taken.append(torch.cuda.memory_reserved())
    assert taken[-1] <= taken[1]
