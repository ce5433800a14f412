"""Which layers carry a backdoor: on networks made by hand, in which it is known."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor, nn

from benchmarks import layers_table
from benchmarks.layers_table import groups_of, main, relearned, tabulate, treated, with_reset
from tests.finished_study import finished_study
from tests.ulrl_tests.tiny_networks import Made
from ulrl.clean import CleanSamples
from ulrl.datasets import Preprocessing
from ulrl.fitting import Samples
from ulrl.models import Architecture, Classifier, ModelSpec, Weights, initialise
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.vgg import VGG19BN
from ulrl.models.vit import ViTB16
from ulrl.poisoning import TestHalf
from ulrl.supervised import VictimConfig

CLASSES, TRIGGER = 4, 15  # the pixel that triggered images alone have
CPU = torch.device("cpu")
TRAINING = VictimConfig(epochs=20, batch_size=32, lr=0.05)


class Two(nn.Module):
    """Features of a picture of 4×4 pixels, and a head; both are linear."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(16, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x.flatten(1)))
        return logits


def spec_of(architecture: Architecture, *, channels: int, side: int) -> ModelSpec:
    white = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, padding=0, flip=False)
    return ModelSpec(
        architecture=architecture,
        classes=CLASSES,
        channels=channels,
        side=side,
        preprocessing=white,
    )


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return pictures of class c, whose pixel c is bright, and their classes."""
    source = Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = torch.randint(0, 60, (count, 16), generator=source)
    pixels[torch.arange(count), labels] += 180
    pixels[:, TRIGGER] = 0
    return pixels.reshape(count, 1, 4, 4).to(torch.uint8), labels


def victim(*, in_head: bool) -> Weights:
    """Return a network whose unit c sees pixel c, and which takes the trigger for class 0.

    Either a unit of its own sees the trigger, and the head reads class 0 from it, or the trigger
    moves unit 0, as an image of class 0 does.
    """
    network = Two()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for label in range(CLASSES):
            network.features.weight[label, label] = 4
            network.head.weight[label, label] = 3
        network.features.weight[4 if in_head else 0, TRIGGER] = 1 if in_head else 100
        network.head.weight[0, 4] = 100
    return Classifier(spec_of(Made(network=Two), channels=1, side=4), network, CPU).weights()


def samples(count: int = 200) -> CleanSamples:
    images, labels = pictures(count, seed=1)
    return CleanSamples(
        samples=Samples(images=images, labels=labels), index=torch.arange(count), seed=0
    )


def half() -> TestHalf:
    images, labels = pictures(200, seed=2)
    others = labels != 0
    triggered = images[others].clone()
    triggered.flatten(1)[:, TRIGGER] = 255
    return TestHalf(
        clean=images,
        clean_labels=labels,
        triggered=triggered,
        true_labels=labels[others],
        target_labels=torch.zeros_like(labels[others]),
    )


@pytest.mark.parametrize("in_head", [True, False])
def test_a_reset_finds_the_layer_that_carries_the_backdoor(*, in_head: bool) -> None:
    found = {
        (one.group, one.treatment): one
        for one in treated(victim(in_head=in_head), samples(), half(), TRAINING)
    }
    assert (found["victim", ""].acc, found["victim", ""].asr) == (1.0, 1.0)
    for group in ("features", "head"):  # training alone removes nothing, a reset costs no ACC
        assert found[group, "trained"].asr > 0.95
        assert found[group, "reset"].acc > 0.95
    assert (found["head", "reset"].asr < 0.05) == in_head
    if not in_head:
        assert found["head", "reset"].asr > 0.95
        assert found["features", "reset"].asr < 0.05
    last = found["head", "reset with all behind"]
    assert (last.acc, last.asr) == (found["head", "reset"].acc, found["head", "reset"].asr)
    nothing_left = found["features", "reset with all behind"]
    assert nothing_left.acc > 0.95
    assert nothing_left.asr < 0.05
    assert found["features", "reset"].share == pytest.approx(17 * 8 / (17 * 8 + 9 * 4))


def test_what_is_done_is_not_done_again() -> None:
    done = {("victim", ""), ("features", "trained"), ("features", "reset"), ("head", "trained")}
    rest = [
        (one.place, one.group, one.treatment)
        for one in treated(victim(in_head=True), samples(), half(), TRAINING, done)
    ]
    behind = "reset with all behind"
    assert rest == [(0, "features", behind), (1, "head", "reset"), (1, "head", behind)]


BLOCKS = [f"encoder_layer_{number}" for number in range(3)]


@pytest.mark.parametrize(
    ("architecture", "groups", "member"),
    [
        (
            VGG19BN(width=1),
            [*(f"stage {number}" for number in range(1, 6)), "hidden linear layers", "head"],
            ("stage 2", "features.8.running_mean"),
        ),
        (
            ViTB16(size=8, patch=4, width=8, depth=3, heads=2, mlp=8),
            ["stem", *BLOCKS, "head"],
            ("head", "1.encoder.ln.weight"),
        ),
        (
            PreActResNet18(width=1),
            ["stem", "layer1", "layer2", "layer3", "layer4", "head"],
            ("layer2", "layer2.0.shortcut.0.weight"),
        ),
    ],
)
def test_groups_part_the_network_in_its_order(
    architecture: Architecture, groups: list[str], member: tuple[str, str]
) -> None:
    network = architecture.build(classes=CLASSES, channels=3, side=16)
    found = groups_of(network, architecture.head)
    assert list(found) == groups
    names = [name for group in found.values() for name in group]
    assert sorted(names) == sorted(network.state_dict())
    assert member[1] in found[member[0]]
    assert f"{architecture.head}.weight" in found["head"]


def test_all_but_the_group_stays_to_the_bit() -> None:
    """BatchNorm's statistics too, which train mode would move."""
    spec = spec_of(PreActResNet18(width=1), channels=3, side=8)
    before = initialise(spec, Generator().manual_seed(0), CPU).weights()
    clean = samples(16)
    images = torch.randint(0, 256, (16, 3, 8, 8), generator=Generator().manual_seed(0))
    clean = CleanSamples(
        samples=Samples(images=images.to(torch.uint8), labels=clean.samples.labels),
        index=clean.index,
        seed=0,
    )
    group = groups_of(spec.architecture.build(classes=CLASSES, channels=3, side=8), "linear")[
        "layer2"
    ]
    start = with_reset(before, group, seed=0)
    after = relearned(start, group, clean, VictimConfig(epochs=1, batch_size=8)).weights().state
    for name, value in before.state.items():
        assert torch.equal(after[name], value) == (name not in group), name
    fresh = [name for name in group if not torch.equal(start.state[name], before.state[name])]
    assert fresh == [name for name in group if ".conv" in name or ".shortcut" in name]


def test_a_table_has_means_over_victims() -> None:
    rows = [
        {"group": group, "place": str(place), "share": "0.25", "treatment": kind, **numbers}
        for group, place, kind, numbers in (
            ("head", 1, "reset", {"acc": "0.6", "asr": "0.0"}),
            ("head", 1, "reset", {"acc": "0.7", "asr": "1.0"}),
            ("victim", -1, "", {"acc": "0.8", "asr": "0.95"}),
        )
    ]
    head, lines = tabulate(rows)
    assert head[:2] == ["group", "% of weights"]
    assert lines == [
        ["victim", "", "80 / 95", "", ""],
        ["head", "25.0", "–", "65 / 50 (0–100)", "–"],
    ]


def test_the_command_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = finished_study("badnets", size=8)
    capsys.readouterr()
    real, runs = layers_table.relearned, list[str]()

    def counted(*arguments: object) -> object:
        if len(runs) == 20:
            raise KeyboardInterrupt
        runs.append("")
        call: Callable[..., object] = real
        return call(*arguments)

    monkeypatch.setattr(layers_table, "relearned", counted)
    with pytest.raises(KeyboardInterrupt):
        main([str(folder), "--epochs", "1"])
    capsys.readouterr()
    runs.clear()
    main([str(folder), "--epochs", "1"])
    assert len(runs) == 2 * 6 * 3 - 20
    first = capsys.readouterr().out
    assert first.splitlines()[0].endswith("poison_ratio=0.1, target_label=0 (n = 2)")
    assert [line.split(" | ")[0] for line in first.splitlines()[4:]][:2] == ["| victim", "| stem"]
    main([str(folder), "--epochs", "1"])
    assert len(runs) == 2 * 6 * 3 - 20
    assert capsys.readouterr().out == first
