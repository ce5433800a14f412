"""Clean samples from datasets and loaders, news of each epoch, and own triggered images."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset

import ulrl
from tests.ulrl_tests.test_defence_inputs import (
    LABELS,
    PREPROCESSING,
    made,
    pictures,
    repaired,
    same,
    weights,
)

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


def test_a_source_is_read_once() -> None:
    source = Pairs(pairs())
    repaired(images=source, labels=None)
    repaired(images=DataLoader(source, batch_size=5), labels=None)
    assert source.reads == [2] * len(LABELS)


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
        (TensorDataset(pictures().long(), LABELS), "images are uint8, or floats in [0, 1]; got "),
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
        (TensorDataset(pictures()), "it is a pair of images and labels; got a tuple of 1"),
        (
            TensorDataset(pictures(), LABELS, LABELS),
            "it is a pair of images and labels; got a tuple of 3",
        ),
        (
            Pairs([{"image": image, "label": label} for image, label in pairs()]),
            "item 0 of the Dataset: it is a pair of images and labels; got a dict",
        ),
        (TensorDataset(pictures(), LABELS.float()), "item 0 of the Dataset: labels are integers"),
        (Pairs([(pictures()[0], None)]), "item 0 of the Dataset: labels are integers, one for"),
        (Pairs([(pictures()[0], "cat")]), "item 0 of the Dataset: labels are integers, one for"),
        (Pairs([(pictures()[0], 2**70)]), "item 0 of the Dataset: labels are integers, one for"),
        (TensorDataset(pictures(), LABELS + 1), "labels are classes of the victim, 0 to 3; got 1"),
        (Pairs([]), "the Dataset is empty"),
        (TensorDataset(pictures()[:1], LABELS[:1]), "clean samples are at least 2; got 1"),
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


def test_an_error_of_the_listener_ends_the_repair() -> None:
    heard = []

    def stop(phase: str, epoch: int, metrics: Mapping[str, float]) -> None:
        del metrics
        heard.append((phase, epoch))
        if phase == "relearn":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repaired(on_epoch=stop)
    assert heard[-1] == ("relearn", 1)


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


def test_images_without_a_label_each_are_refused() -> None:
    sound = {
        "clean": pictures(),
        "clean_labels": LABELS,
        "triggered": pictures(),
        "true_labels": LABELS,
        "target_labels": LABELS,
    }
    ulrl.TestHalf(**sound)
    for name in ("clean_labels", "true_labels", "target_labels"):
        with pytest.raises(ValueError, match=r"clean images have a label each, .* got "):
            ulrl.TestHalf(**{**sound, name: LABELS[:3]})
