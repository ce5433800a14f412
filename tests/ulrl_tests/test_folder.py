"""A user's own images, from a folder of image files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder as Torchvision  # type: ignore[import-untyped]

from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.datasets.folder import ImageFolder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, 4, 3 and 2 training images and 2 test images of each, of 12 × 12 pixels."""
    source = np.random.default_rng(1)
    for part, counts in (("train", (4, 3, 2)), ("test", (2, 2, 2))):
        for name, count in zip(("Zebra", "ant", "bee 2"), counts, strict=True):
            place = tmp_path / "mine" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                levels = source.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(levels).save(place / f"{11 - number}.png")
    return tmp_path / "mine"


def save(folder: Path, name: str, side: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    Image.new(mode, side, 5 if mode[0] in "LI" else (1, 2, 3)).save(folder / name)


def greyed(folder: Path) -> None:
    for file in folder.rglob("*.png"):
        Image.open(file).convert("L").save(file)


@pytest.mark.parametrize("grey", [False, True])
def test_images_are_what_torchvision_reads(folder: Path, grey: bool) -> None:  # noqa: FBT001
    if grey:
        greyed(folder)
    dataset = ImageFolder(folder=str(folder), mean=(0.5,), flip=True)
    channels = 1 if grey else 3
    assert dataset.info() == DatasetInfo(
        train_counts=(4, 3, 2), test_count=6, side=12, channels=channels, test_counts=(2, 2, 2)
    )
    assert dataset.preprocessing.mean == (0.5,) * channels
    assert dataset.preprocessing.padding == 1
    images = dataset.load()
    for part in ("train", "test"):
        expected = Torchvision(folder / part)
        pixels = np.stack([np.asarray(image) for image, _ in expected]).transpose(0, 3, 1, 2)
        assert (getattr(images, f"{part}_images").numpy() == pixels[:, :channels]).all()
        assert getattr(images, f"{part}_labels").tolist() == expected.targets
    assert images.classes == 3


def test_a_side_resizes(folder: Path) -> None:
    save(folder / "train/ant", "wide.JPG", side=(30, 20))
    images = ImageFolder(folder=str(folder), side=8).load()
    assert images.train_images.shape == (10, 3, 8, 8)
    colour = images.train_images[images.train_labels == 1][-1]
    assert torch.equal(colour, colour[:, :1, :1].expand(3, 8, 8)), "one colour stays one"


def test_identity_is_the_content_not_the_place(folder: Path) -> None:
    dataset = ImageFolder(folder=str(folder))
    before = dataset.identity()
    (folder / "train/ant/notes.txt").write_text("no image")
    moved = folder.rename(folder.parent / "moved")
    dataset = ImageFolder(folder=str(moved))
    assert dataset.identity() == before
    assert dataset.label == "folder(moved)"
    save(moved / "test/ant", "10.png")
    assert dataset.identity() != before


def _rename(old: str, new: str) -> Callable[[Path], object]:
    return lambda folder: (folder / old).rename(folder / new)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename("test", "val"), "lacks test; it has train, val"),
        (_rename("test/ant", "test/aunt"), "test/aunt is a class that train lacks"),
        (
            lambda folder: save(folder / "train/ant", "x.png", side=(9, 12)),
            "(train/Zebra/10.png) and 9 × 12 pixels (train/ant/x.png); write side: 32",
        ),
        (
            lambda folder: [file.unlink() for file in (folder / "train/ant").iterdir()],
            "train/ant has no files that end in .png, .jpg, .jpeg",
        ),
        (lambda folder: (folder / "test/ant/x.jpg").write_text("text"), "x.jpg is no PNG or JPEG"),
        (
            lambda folder: save(folder / "test/ant", "x.png", mode="I;16"),
            "x.png has more than 8 bits per channel; save it with 8",
        ),
        (
            lambda folder: [file.unlink() for file in (folder / "test").rglob("*.png")],
            "test has no files that end in",
        ),
    ],
)
def test_a_wrong_folder(change: Callable[[Path], object], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(DatasetError) as error:
        ImageFolder(folder=str(folder)).info()
    assert "BytesIO" not in str(error.value)
    assert str(error.value).startswith(str(folder))
    assert message in str(error.value)


def test_a_place_without_a_folder(tmp_path: Path) -> None:
    dataset = ImageFolder(folder=str(tmp_path / "none"))
    assert dataset.info() is None
    with pytest.raises(DatasetError, match="none is not there; folder: names one with train/CLASS"):
        dataset.identity()


def test_a_truncated_file(folder: Path) -> None:
    file = folder / "test/ant/10.png"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DatasetError, match=r"10\.png cannot be decoded"):
        ImageFolder(folder=str(folder)).load()
