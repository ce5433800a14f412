"""What `repair` takes, what it refuses and what it leaves as it was, on tiny networks."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

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


class Auxiliary(Small):
    """A second output in train mode."""

    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.features(x))
        return (scores, scores) if self.training else scores


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
    return ulrl.repair(made() if victim is None else victim, **{**sound, **FEW, **changes})


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
        {"images": pictures().double().numpy() / 255},
        {"labels": LABELS.int()},
        {"labels": LABELS.to(torch.uint8)},
        {"unlearn_epochs": np.int64(2), "z_threshold": np.float32(0.3), "relearn_lr": 0.005},
        {"unlearn_milestones": [10, 20]},
        {"cosine_form": "signed"},
    ],
)
def test_samples_and_numbers_of_other_kinds_are_the_same(change: dict[str, Any]) -> None:
    assert repaired().scores.suspects
    assert same(repaired(**change), repaired())


def test_images_need_not_be_square() -> None:
    assert repaired(images=pictures(8, 6)).scores.suspects


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"images": pictures().float()},
        "images of floats are in [0, 1], before normalisation; got 0 ",
    ),
    ({"images": pictures().long()}, "images are uint8, or floats in [0, 1]; got torch.int64"),
    ({"images": pictures().permute(0, 2, 3, 1)}, "permute(0, 3, 1, 2) puts the channels second"),
    ({"images": pictures()[:, :1]}, "images are [n, 3, h, w], with as many channels"),
    ({"images": pictures()[:1], "labels": LABELS[:1]}, "clean samples are at least 2; got 1"),
    ({"labels": LABELS[:3]}, "labels are integers, one for each of the 12 images; got torch.int64"),
    ({"labels": LABELS.float()}, "labels are integers"),
    ({"labels": LABELS > 1}, "labels are integers"),
    ({"labels": LABELS + 1}, "labels are classes of the victim, 0 to 3; got 1 to 4"),
    ({"images": pictures(2, 2)}, "the victim fails on clean samples of shape [3, 2, 2]"),
    # The preset, the dataset and the hyper-parameters.
    ({"preset": "offical"}, "got 'offical'; did you mean 'official'?"),
    ({"dataset": "cifar-100"}, "got 'cifar-100'; did you mean 'cifar100' or 'cifar10'?"),
    ({"dataset": "photographs"}, "(any other takes cifar10's)"),
    ({"unlearn_threshold": 2}, "unlearn_threshold is an accuracy, in [0, 1]; got 2"),
    (
        {"score": "relativ"},
        "score is l1 or l2 or relative; got 'relativ'; did you mean 'relative'?",
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
        ({"zzz": 1.0}, "no hyper-parameter is called 'zzz'; there are clean_ratio, "),
        ({"clean_ratio": 0.1}, "clean_ratio is of how samples are drawn; here they are given"),
        ({"unlearn_threshold": "0.2"}, "unlearn_threshold is a number; got '0.2'"),
        ({"max_suspects": 2.0}, "max_suspects is a whole number or None; got 2.0"),
        ({"max_suspects": True}, "max_suspects is a whole number or None; got True"),
        ({"score_bias": 1}, "score_bias is True or False; got 1"),
        ({"unlearn_milestones": 10}, "unlearn_milestones is a list of whole numbers; got 10"),
        ({"unlearn_clip_norm": "none"}, "unlearn_clip_norm is a number or None; got 'none'"),
        ({"relearn_lr": None}, "relearn_lr is a number; got None"),
    ],
)
def test_what_is_no_hyperparameter_or_of_another_kind(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        repaired(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": (0.25, 0.3)}, "mean and std have a number per channel each; got 3 and 2"),
        ({"std": (0.25, 0.0, 0.1)}, "std is a divisor, finite and above 0; got [0.25, 0.0, 0.1]"),
        ({"mean": (0.5, float("nan"), 0.1)}, "mean is in finite numbers"),
        ({"padding": -1}, "padding is in pixels, at least 0; got -1"),
    ],
)
def test_a_treatment_that_is_none(change: dict[str, Any], message: str) -> None:
    sound = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "padding": 1, "flip": True}
    with pytest.raises(ValueError, match=re.escape(message)):
        ulrl.Preprocessing(**{**sound, **change})


# The victim.


def test_the_head_is_the_layer_whose_output_is_the_victims() -> None:
    victim = made(HeadFirst)
    assert [path for path, _ in victim.named_modules()][-1] == "hidden"
    for head in (None, "head"):
        scores = repaired(victim, head=head).scores
        assert (scores.layers, scores.sizes) == (("head",), (4,))


NOT_ITS_OUTPUT = "the victim's output is to be that of a linear layer, whose rows ULRL resets; "


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
    with pytest.raises(ValueError, match=re.escape(NOT_ITS_OUTPUT + message)):
        repaired(made(kind), head=head)


def test_other_outputs_in_train_mode() -> None:
    message = "returns class scores [n, classes] in train mode; got tuple: switch off other"
    with pytest.raises(ValueError, match=re.escape(message)):
        repaired(made(Auxiliary))


def test_no_parameters_or_no_linear_layer() -> None:
    with pytest.raises(ValueError, match="the victim has no parameters"):
        repaired(nn.Flatten())
    convolution = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten())
    with pytest.raises(ValueError, match=re.escape("It has the linear layers none;")):
        repaired(convolution)


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


def test_a_pruned_head() -> None:
    victim = made()
    prune.random_unstructured(  # type: ignore[no-untyped-call]
        victim.get_submodule("head"), "weight", amount=0.5
    )
    victim(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"prune\.remove"):
        repaired(victim)


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


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_caller_without_gradients(context: Callable[[], Any]) -> None:
    with context():
        done = repaired(made())
        assert not torch.is_grad_enabled()
    assert same(done, repaired())


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


def test_two_classes() -> None:
    victim = made(lambda: Small(classes=2))
    with pytest.raises(ValueError, match="suspect_rule outlier cannot answer for 2 classes"):
        repaired(victim, labels=LABELS % 2)
    largest = {"suspect_rule": "largest", "suspect_share": 0.5}
    assert len(repaired(victim, labels=LABELS % 2, **largest).scores.suspects) == 1


def test_the_result_says_in_which_class_phase_one_ended() -> None:
    done = repaired()
    assert done.scores.collapse_class in range(4)
    assert int(done.scores.predicted.sum()) == len(LABELS)
    assert not done.plain_fine_tuning
    assert repaired(max_suspects=0).plain_fine_tuning
