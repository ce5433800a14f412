"""What `repair` takes, what it refuses and what it leaves as it was, on tiny networks."""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

import ulrl
from ulrl.randomness import generator

PREPROCESSING = ulrl.Preprocessing(mean=(0.5, 0.4, 0.6), std=(0.25, 0.3, 0.2), padding=1, flip=True)
FEW: dict[str, Any] = {"unlearn_epochs": 2, "relearn_epochs": 2, "z_threshold": 0.3}
LABELS = torch.arange(12) % 4


class Small(nn.Module):
    """A convolution, BatchNorm and a head of four classes."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, classes)

    def features(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))


class HeadFirst(Small):
    """The head is defined before another linear layer, which is used before it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.hidden(self.features(x)))


class TwoHeads(Small):
    """The mean of two heads, as a distilled transformer's."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dist = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Any:
        features = self.features(x)
        return (self.head(features) + self.head_dist(features)) / 2


class Softmax(Small):
    """Probabilities instead of scores."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x).softmax(dim=1)


class Pooled(Small):
    """BatchNorm over features of 1 × 1, which cannot train on one image."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.late(self.features(x)))


def made(kind: Callable[[], nn.Module] = Small) -> nn.Module:
    """Return a network whose weights are always the same."""
    network = kind()
    source = generator(0, "small")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(generator=source)
    return network.eval()


def pictures(height: int = 8, width: int = 8) -> Tensor:
    size = (len(LABELS), 3, height, width)
    return torch.randint(0, 256, size, generator=generator(0, "pictures")).to(torch.uint8)


def repaired(victim: nn.Module | None = None, **changes: Any) -> ulrl.Repair:
    sound: dict[str, Any] = {"images": pictures(), "labels": LABELS, "preprocessing": PREPROCESSING}
    given = made() if victim is None else victim
    done: ulrl.Repair = ulrl.repair(given, **{**sound, **FEW, **changes})
    return done


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same(one: ulrl.Repair, other: ulrl.Repair) -> bool:
    theirs = weights(other.network)
    return one.scores.suspects == other.scores.suspects and all(
        torch.equal(value, theirs[name]) for name, value in weights(one.network).items()
    )


# Samples.


@pytest.mark.parametrize(
    "change",
    [
        {"images": pictures().numpy(), "labels": LABELS.numpy()},
        {"images": pictures().numpy()[::-1][::-1]},
        {"images": pictures().float() / 255},
        {"labels": LABELS.int()},
        {"unlearn_epochs": np.int64(2), "z_threshold": np.float32(0.3), "relearn_lr": 0.005},
        {"unlearn_milestones": [10, 20]},
        {"cosine_form": "signed"},
    ],
)
def test_samples_and_numbers_of_other_kinds_are_the_same(change: dict[str, Any]) -> None:
    assert repaired().scores.suspects
    assert same(repaired(**change), repaired())


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"images": pictures().float()},
        "images of floats are in [0, 1], before normalisation; got 0 ",
    ),
    ({"images": pictures().permute(0, 2, 3, 1)}, "permute(0, 3, 1, 2) puts the channels second"),
    ({"images": pictures()[:, :1]}, "images are [n, 3, h, w], with as many channels"),
    ({"images": pictures()[:1], "labels": LABELS[:1]}, "clean samples are at least 2; got 1"),
    ({"labels": LABELS[:3]}, "labels are integers, one for each of the 12 images; got torch.int64"),
    ({"labels": LABELS + 1}, "labels are classes of the victim, 0 to 3; got 1 to 4"),
    ({"images": pictures(2, 2)}, "the victim fails on clean samples of shape [3, 2, 2]"),
    # The preset, the dataset and the hyper-parameters.
    ({"preset": "offical"}, "got 'offical'; did you mean 'official'?"),
    ({"dataset": "cifar-100"}, "got 'cifar-100'; did you mean 'cifar100' or 'cifar10'?"),
    ({"dataset": "photographs"}, "(any other takes cifar10's)"),
    ({"unlearn_threshold": 2}, "unlearn_threshold is an accuracy, in [0, 1]; got 2"),
    (
        {"score": "relativ"},
        "score is l1 or l2 or relative or per_mass; got 'relativ'; did you mean 'relative'?",
    ),
    ({"seed": -1}, "a seed is an integer of at least 0; got -1"),
    (
        {"suspect_rule": "largest", "suspect_share": 0.1},
        "suspect_share 0.1 of 4 neurons is less than half of one",
    ),
    (
        {"suspect_rule": "largest", "suspect_share": 1.0, "max_suspects": None},
        "suspect_share flags all 4 rows of the head",
    ),
    ({"head": "haed"}, "got 'haed'; did you mean 'head'?"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        repaired(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aplha": 1.0}, "no hyper-parameter is called 'aplha'; did you mean 'alpha'?"),
        ({"clean_ratio": 0.1}, "clean_ratio is of how samples are drawn; here they are given"),
        ({"unlearn_threshold": "0.2"}, "unlearn_threshold is a number; got '0.2'"),
        ({"max_suspects": 2.0}, "max_suspects is a whole number or None; got 2.0"),
        ({"score_bias": 1}, "score_bias is True or False; got 1"),
        ({"unlearn_milestones": 10}, "unlearn_milestones is a list of whole numbers; got 10"),
    ],
)
def test_what_is_no_hyperparameter_or_of_another_kind(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        repaired(**change)


def test_options_as_a_mapping_are_those_by_name() -> None:
    by_name = repaired(alpha=0.5)
    assert same(repaired(options={"alpha": 0.5}), by_name)
    assert not same(repaired(), by_name)
    with pytest.raises(TypeError, match="alpha is given twice, by its name and in options"):
        repaired(options={"alpha": 0.5}, alpha=0.5)


# The victim.


def test_the_head_is_the_layer_whose_output_is_the_victims() -> None:
    victim = made(HeadFirst)
    assert [path for path, _ in victim.named_modules()][-1] == "hidden"
    for head in (None, "head"):
        scores = repaired(victim, head=head).scores
        assert (scores.layers, scores.sizes) == (("head",), (4,))


NOT_ITS_OUTPUT = (
    "the victim's output is to be that of a linear layer with a row for each class, as repair "
    "methods and audits need it; "
)


@pytest.mark.parametrize(
    ("kind", "head", "message"),
    [
        (HeadFirst, "hidden", "the output of 'hidden' is not the victim's, but that of 'head' is."),
        (TwoHeads, None, "no linear layer's is. It has the linear layers 'head', 'head_dist'; "),
        (TwoHeads, "head", "the output of 'head' is not the victim's. It has"),
        (Softmax, None, "no linear layer's is."),
    ],
)
def test_a_layer_that_is_not_the_head(
    kind: Callable[[], nn.Module], head: str | None, message: str
) -> None:
    said = re.escape(NOT_ITS_OUTPUT + message)
    with pytest.raises(ValueError, match=said):
        repaired(made(kind), head=head)
    images, labels = pictures(), LABELS
    with pytest.raises(ValueError, match=said):  # what holds for ULRL holds for all
        ulrl.repair(made(kind), images, labels, PREPROCESSING, method="fine_tuning", head=head)
    with pytest.raises(ValueError, match=said):
        ulrl.audit(made(kind), "nc", images, labels, preprocessing=PREPROCESSING, head=head)


@pytest.mark.parametrize("kind", ["bfloat16", "float64"])
def test_other_number_formats(kind: str) -> None:
    with pytest.raises(ValueError, match=f"float32; got torch.{kind}: call victim.float"):
        repaired(made().to(getattr(torch, kind)))


def test_a_head_whose_weight_is_computed() -> None:
    victim = made()
    parametrizations.weight_norm(victim.get_submodule("head"))
    with pytest.raises(ValueError, match=r"head\.weight is computed from other parameters"):
        repaired(victim)
    elsewhere = made()
    parametrizations.weight_norm(elsewhere.get_submodule("conv"))
    assert repaired(elsewhere).scores.suspects
    with pytest.raises(ValueError, match=r"conv\.weight is computed from other parameters"):
        repaired(elsewhere, layers="all")


def test_a_frozen_victim_is_repaired_like_any_other() -> None:
    """Weights are mostly loaded so; frozen ones come back frozen."""
    frozen = made().requires_grad_(requires_grad=False)
    backbone = made()
    backbone.get_submodule("conv").requires_grad_(requires_grad=False)
    for victim in (frozen, backbone):
        done = repaired(victim)
        assert same(done, repaired())
        flags = [parameter.requires_grad for parameter in victim.parameters()]
        assert [parameter.requires_grad for parameter in done.network.parameters()] == flags
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_the_network_comes_back_as_the_victim_was() -> None:
    victim = made()
    victim(torch.zeros(2, 3, 8, 8)).sum().backward()
    gradients = [parameter.grad for parameter in victim.parameters()]
    before = weights(victim)
    chance = torch.get_rng_state()
    done = repaired(victim)
    assert torch.equal(torch.get_rng_state(), chance)
    assert not done.network.training
    assert all(parameter.grad is None for parameter in done.network.parameters())
    assert [parameter.grad for parameter in victim.parameters()] == gradients
    assert all(torch.equal(value, before[name]) for name, value in victim.state_dict().items())
    assert not victim.get_submodule("head")._forward_hooks
    assert not done.network.get_submodule("head")._forward_hooks


def test_a_batch_of_one_where_batchnorm_needs_two() -> None:
    with pytest.raises(ValueError, match="batches of 1 are too small"):
        repaired(made(Pooled), unlearn_batch_size=1)
    assert repaired(made(Pooled), unlearn_batch_size=11).scores.suspects  # 11 and 1 are joined
    assert repaired(unlearn_batch_size=1).scores.suspects  # BatchNorm over 6 × 6


# Clean samples from datasets and loaders, news of each epoch, and own triggered images.


Pair = tuple[Any, Any]


class Pairs(Dataset[Pair]):
    """A dataset of any items; it counts how often each is read."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items
        self.reads = [0] * len(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        self.reads[place] += 1
        return self.items[place]  # beyond the end it is an IndexError


class Stream(IterableDataset[Pair]):
    """Items one after the other, without a length."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.items)


class Counted(Stream):
    """A stream that knows, or claims, how many items it has."""

    def __init__(self, items: Any, length: int) -> None:
        super().__init__(items)
        self.length = length

    def __len__(self) -> int:
        return self.length


class Endless(Sampler[int]):
    """The first place, again and again."""

    def __iter__(self) -> Iterator[int]:
        return itertools.repeat(0)


def pairs(images: Any = None, labels: Any = None) -> list[Any]:
    return list(
        zip(
            pictures() if images is None else images,
            LABELS if labels is None else labels,
            strict=True,
        )
    )


def floats() -> Tensor:
    """Return pixels as torchvision's ToTensor makes them."""
    return pictures().float() / 255


@pytest.mark.parametrize(
    "source",
    [
        TensorDataset(pictures(), LABELS),
        TensorDataset(floats(), LABELS.int()),
        Pairs(pairs(labels=LABELS.tolist())),
        Pairs([list(pair) for pair in pairs(pictures().numpy(), LABELS.numpy())]),
        Counted(pairs(), len(LABELS)),
        DataLoader(TensorDataset(floats(), LABELS), batch_size=5),
        DataLoader(Pairs(pairs(labels=LABELS.tolist())), batch_size=None),
        DataLoader(Counted(pairs(), len(LABELS)), batch_size=7),
        DataLoader(TensorDataset(pictures(), LABELS), sampler=range(len(LABELS))),
    ],
)
def test_datasets_and_loaders_give_what_their_tensors_give(source: Any) -> None:
    assert same(repaired(images=source, labels=None), repaired())


def test_a_loader_that_shuffles_depends_on_the_seed_alone() -> None:
    loader = DataLoader(TensorDataset(pictures(), LABELS), batch_size=5, shuffle=True)
    victim = made()
    chance = torch.get_rng_state()
    first = repaired(victim, images=loader, labels=None)
    assert torch.equal(torch.get_rng_state(), chance)
    torch.rand(3)
    assert same(first, repaired(images=loader, labels=None))
    assert not same(first, repaired(images=loader, labels=None, seed=1))


NORMALISED = (floats() - 0.5) / 0.25


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            TensorDataset(NORMALISED, LABELS),
            "item 0 of the Dataset: images of floats are in [0, 1], before normalisation; got ",
        ),
        (
            DataLoader(TensorDataset(torch.cat([floats()[:5], NORMALISED[5:]]), LABELS), 5),
            "item 1 of the DataLoader: images of floats are in [0, 1], before normalisation; got ",
        ),
        (
            DataLoader(TensorDataset(pictures().permute(0, 2, 3, 1), LABELS), 5),
            "numbers; got [5, 8, 8, 3]; permute(0, 3, 1, 2) puts the channels second",
        ),
        (
            Pairs([*pairs()[:3], (pictures(8, 6)[0], 1)]),
            "item 3 of the Dataset: images are of one size; got [3, 8, 6] after [3, 8, 8]",
        ),
        (
            Pairs([(Image.fromarray(np.zeros((8, 8, 3), np.uint8)), 0)]),
            "images are tensors; got Image: torchvision.transforms.PILToTensor() makes a tensor",
        ),
        (
            TensorDataset(pictures(), LABELS, LABELS),
            "it is a pair of images and labels; got a tuple of 3",
        ),
        (
            Pairs([{"image": image, "label": label} for image, label in pairs()]),
            "item 0 of the Dataset: it is a pair of images and labels; got a dict",
        ),
        (TensorDataset(pictures(), LABELS.float()), "item 0 of the Dataset: labels are integers"),
        (Pairs([(pictures()[0], 2**70)]), "item 0 of the Dataset: labels are integers, one for"),
        (TensorDataset(pictures(), LABELS + 1), "labels are classes of the victim, 0 to 3; got 1"),
        (Pairs([]), "the Dataset is empty"),
        # What might never end.
        (Stream(itertools.cycle(pairs())), "a Dataset needs a length, or it might never end; this"),
        (DataLoader(Stream(itertools.cycle(pairs())), 5), "a DataLoader needs a length"),
        (
            DataLoader(TensorDataset(pictures(), LABELS), sampler=Endless()),
            "a DataLoader needs a length, or it might never end; this DataLoader has none: read",
        ),
        (
            Counted(itertools.cycle(pairs()), 8),
            "the Dataset gives more than the 8 items of its length",
        ),
    ],
)
def test_what_is_no_source_of_clean_samples_is_refused(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        repaired(images=source, labels=None)


def test_labels_come_with_the_source_or_with_the_images() -> None:
    source = TensorDataset(pictures(), LABELS)
    with pytest.raises(ValueError, match="labels come from the Dataset, with its images"):
        repaired(images=source)
    with pytest.raises(ValueError, match="labels are needed, one for each image"):
        repaired(labels=None)


# News of each epoch.


def test_each_epoch_is_announced_as_the_result_has_it() -> None:
    heard: list[tuple[str, int, Mapping[str, float]]] = []
    done = repaired(on_epoch=lambda *news: heard.append(news))
    ascent = zip(done.ascent.loss, done.ascent.accuracy, strict=True)
    wanted = [("unlearn", *news) for news in enumerate(ascent, start=1)]
    wanted += [("relearn", *news) for news in enumerate(done.training, start=1)]
    assert [(phase, epoch, (m["loss"], m["accuracy"])) for phase, epoch, m in heard] == wanted
    assert same(done, repaired())


# Triggered images of one's own.


def test_own_triggered_images_are_measured_as_by_hand() -> None:
    network = made().train()
    before, mode = weights(network), network.training
    images, triggered = pictures(), pictures().flip(0)
    predict = ulrl.predictor(network, PREPROCESSING)
    found = ulrl.measure(
        predict,
        ulrl.TestHalf(
            clean=images,
            clean_labels=LABELS,
            triggered=triggered,
            true_labels=LABELS,
            target_labels=torch.ones_like(LABELS),
        ),
    )
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    by_hand = made()
    with torch.no_grad():
        clean, other = (
            by_hand((x.float() / 255 - mean) / std).argmax(dim=1) for x in (images, triggered)
        )
    assert found.acc == (clean == LABELS).float().mean()
    assert found.asr == pytest.approx(float((other == 1).float().mean()))
    assert found.ra == pytest.approx(float((other == LABELS).float().mean()))
    assert torch.equal(predict(images), predict(floats()))
    assert network.training == mode
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
