"""Datasets and architectures that a user's functions make."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor, nn

from ulrl.datasets import DATASETS, Dataset, DatasetError, DatasetInfo, Preprocessing, from_torch
from ulrl.models import ARCHITECTURES, Architecture, ModelSpec, from_function, initialise, restore

Pairs = list[tuple[Any, Any]]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Leave no name behind."""
    yield
    for registry, names in ((DATASETS, ("mine", "drawn")), (ARCHITECTURES, ("net",))):
        for name in names:
            registry.pop(name, None)


def dataset(train: Pairs, test: Pairs | None = None, **options: Any) -> Dataset:
    """Return the dataset of a function that returns these pairs."""
    DATASETS.pop("mine", None)

    @from_torch("mine", **options)
    def mine(part: bool) -> Pairs:  # noqa: FBT001
        return train if part else test or train

    made: Dataset = mine()
    return made


def picture(mode: str = "RGB", side: int = 8, level: int = 7) -> Image.Image:
    return Image.new(mode, (side, side), level if mode == "L" else (level, 0, 1))


def test_images_of_pil_and_tensors() -> None:
    source = np.random.default_rng(1)
    pixels = source.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    labels = [0, 1, 2, 0, 1, 0]
    made = dataset(
        [(Image.fromarray(one), label) for one, label in zip(pixels, labels, strict=True)],
        [(torch.from_numpy(one).permute(2, 0, 1), torch.tensor(2)) for one in pixels[:4]],
        mean=(0.5,),
        flip=True,
    )
    assert made.info() == DatasetInfo(
        train_counts=(3, 2, 1), test_count=4, side=8, channels=3, test_counts=(0, 0, 4)
    )
    images = made.load()
    assert (images.train_images.permute(0, 2, 3, 1).numpy() == pixels).all()
    assert (images.test_images.permute(0, 2, 3, 1).numpy() == pixels[:4]).all()
    assert images.train_labels.tolist() == labels
    assert made.preprocessing == Preprocessing(
        mean=(0.5,) * 3, std=(1.0,) * 3, padding=1, flip=True
    )


def test_grey_images_keep_one_channel() -> None:
    pairs = [(picture("L"), 0), (torch.full((8, 8), 9, dtype=torch.uint8), 1)]
    images = dataset(pairs).load()
    assert images.train_images.shape == (2, 1, 8, 8)
    assert images.train_images[:, 0, 0, 0].tolist() == [7, 9]


def test_identity_is_the_content() -> None:
    first = dataset([(picture(), 0), (picture(), 1)]).identity()
    assert dataset([(picture(), 0), (picture(), 1)]).identity() == first
    assert dataset([(picture(level=8), 0), (picture(), 1)]).identity() != first
    assert dataset([(picture(), 1), (picture(), 0)]).identity() != first


def test_a_random_split_is_the_same_in_each_process() -> None:
    def split() -> list[int]:
        DATASETS.pop("drawn", None)

        @from_torch("drawn")
        def drawn(train: bool) -> Pairs:  # noqa: FBT001
            del train
            order = [*torch.randperm(20).tolist()]
            return [(picture(), place % 2) for place in order]

        return drawn().load().train_labels.tolist()

    torch.manual_seed(1)
    first = split()
    torch.manual_seed(2)
    assert split() == first


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "mine: there are no images in the train part"),
        ([(torch.zeros(3, 8, 8), 0)], "got float32 [3, 8, 8]; leave out transforms like ToTensor"),
        ([(np.zeros((8, 8, 3)), 0)], "got ndarray"),
        (
            [(picture(), 0), (picture(side=9), 1)],
            '9 × 9 pixels; all are square and alike: let your dataset do image.convert("RGB")',
        ),
        ([(picture(), 0), (picture("L"), 1)], "image 1 of train has 1 channels"),
        ([(picture(), 1), (picture(), 2)], "labels that start at 1 become so by labels - 1"),
        ([(picture(), "cat")], "mine: the train part raises ValueError: invalid literal"),
    ],
)
def test_what_is_no_dataset(pairs: Pairs, message: str) -> None:
    with pytest.raises(DatasetError) as error:
        dataset(pairs).info()
    assert message in str(error.value)
    assert str(error.value).startswith("mine: ")


def test_normalisation_for_other_channels() -> None:
    made = dataset([(picture("L"), 0), (picture("L"), 1)], mean=(0.1, 0.2, 0.3))
    with pytest.raises(DatasetError, match="mean has 3 numbers, and the images have 1 channel"):
        made.info()


def architecture(make: Callable[..., Any]) -> Architecture:
    ARCHITECTURES.pop("net", None)

    @from_function("net")
    def net(classes: int, channels: int, side: int) -> Any:
        return make(classes, channels, side)

    made: Architecture = net()
    return made


class HeadFirst(nn.Module):
    """Its last layer is registered first, and depends on the size in its name."""

    def __init__(self, classes: int, channels: int, side: int) -> None:
        super().__init__()
        setattr(self, f"out_{side}", nn.Linear(5, classes))
        self.body = nn.Linear(channels * side**2, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = next(layer for name, layer in self.named_children() if name.startswith("out"))
        scores: Tensor = out(self.body(x.flatten(1)).relu())
        return scores


def test_the_last_layer_is_found_by_what_it_returns() -> None:
    made = architecture(HeadFirst)
    assert made.head_for(classes=4, channels=1, side=6) == "out_6"
    assert made.head_for(classes=5, channels=3, side=8) == "out_8"
    preprocessing = Preprocessing(mean=(0.5,), std=(0.5,), padding=1, flip=False)
    spec = ModelSpec(architecture=made, classes=5, channels=1, side=6, preprocessing=preprocessing)
    cpu = torch.device("cpu")
    one, same, other = (initialise(spec, Generator().manual_seed(s), cpu) for s in (1, 1, 2))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    weights = one.weights()
    assert torch.equal(weights.head, one.head.weight)
    images = torch.randint(0, 256, (7, 1, 6, 6), dtype=torch.uint8)
    assert torch.equal(restore(weights, cpu).logits(images), one.logits(images))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _k, _c, _s: nn.Conv2d(3, 4, 3), "net does not work for 4 classes of images [1, 8"),
        (lambda _k, _c, _s: "text", "'str' object has no attribute 'eval'"),
        (
            lambda k, _c, _s: nn.Sequential(nn.Flatten(), nn.LazyLinear(k)),
            "it has lazy layers; give their sizes",
        ),
        (
            lambda _k, c, s: nn.Sequential(nn.Flatten(), nn.Linear(c * s * s, 10)),
            "net gives [2, 4] for two images of 4 classes; got [2, 10]",
        ),
        (
            lambda k, c, s: nn.Sequential(nn.Flatten(), nn.Linear(c * s * s, k), nn.Softmax(1)),
            "net returns the output of an nn.Linear inside it, with a row per class; it returns",
        ),
    ],
)
def test_what_is_no_network(make: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^net ") as error:
        architecture(make).check(classes=4, channels=1, side=8)
    assert message in str(error.value)
