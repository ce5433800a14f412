"""GTSRB and Tiny-ImageNet as people keep them, and editions that are not the field's."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.ulrl_tests.dataset_files import WNIDS, Sample, gtsrb, tiny_imagenet
from tests.ulrl_tests.dataset_formats import encoded
from ulrl.datasets import DatasetError
from ulrl.datasets.gtsrb import SOURCE as GTSRB

TRAIN, TEST = "GTSRB/Final_Training/Images", "GTSRB/Final_Test/Images"
TINY = "tiny-imagenet-200"
BLACK = np.zeros((40, 30, 3), np.uint8)


@pytest.fixture
def signs(published: Callable[[Sample], Sample]) -> Sample:
    return published(gtsrb())


@pytest.fixture
def tiny(published: Callable[[Sample], Sample]) -> Sample:
    return published(tiny_imagenet())


def load(sample: Sample, root: Path) -> None:
    sample.check(sample.dataset(root, download=False).load())


def complaint(sample: Sample, root: Path) -> str:
    """Return what a folder that is not the field's is refused for."""
    with pytest.raises(DatasetError) as error:
        sample.dataset(root, download=False).load()
    head, _, rest = str(error.value).partition("could not be fetched (")
    assert head == f"{sample.name} is not in {root} and "
    return rest.partition("; download is false)")[0]


LAYOUTS = {
    "as unpacked side by side": (TRAIN, TEST, ""),
    "torchvision's": ("gtsrb/GTSRB/Training", "gtsrb/GTSRB/Final_Test/Images", "gtsrb"),
    "Train and Test": ("Train", "Test", "Test"),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_folders_of_signs(signs: Sample, tmp_path: Path, layout: tuple[str, str, str]) -> None:
    train, test, truth = layout
    files = {}
    for name, content in signs.files.items():
        moved = name.replace(TRAIN, train).replace(TEST, test)
        files[moved if "/" in name else f"{truth}/{name}".lstrip("/")] = content
    replace(signs, files=files).unpack(tmp_path)
    load(signs, tmp_path)


SPOILT_SIGNS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a class is missing": (
        lambda root: shutil.rmtree(root / TRAIN / "00001"),
        "00001 of {root}/GTSRB/Final_Training/Images cannot be read: No such file or directory",
    ),
    "another image than the table says": (
        lambda root: (root / TRAIN / "00001/00000_00000.ppm").rename(
            root / TRAIN / "00001/00009_00000.ppm"
        ),
        "00001/GT-00001.csv of {root}/GTSRB/Final_Training/Images does not name the images",
    ),
    "resized": (
        lambda root: (root / TRAIN / "00000/00000_00000.ppm").write_bytes(encoded(BLACK, "PPM")),
        "00000/00000_00000.ppm of {root}/GTSRB/Final_Training/Images has been resized",
    ),
    "no image": (
        lambda root: (root / TRAIN / "00000/00000_00000.ppm").write_bytes(b"P6 none"),
        "00000/00000_00000.ppm is no PPM image",
    ),
    "a table without classes": (
        lambda root: (root / "GT-final_test.csv").write_bytes(
            b"Filename;Width\r\n" + b"a;1\r\n" * 5
        ),
        "GT-final_test.csv of {root} has no classes",
    ),
}


@pytest.mark.parametrize("case", SPOILT_SIGNS)
def test_folders_of_signs_that_are_refused(signs: Sample, tmp_path: Path, case: str) -> None:
    signs.unpack(tmp_path)
    spoil, expected = SPOILT_SIGNS[case]
    spoil(tmp_path)
    assert complaint(signs, tmp_path).startswith(expected.format(root=tmp_path))


def test_a_table_cannot_lead_out_of_the_folder(signs: Sample, tmp_path: Path) -> None:
    signs.unpack(tmp_path / "root")
    (tmp_path / "outside.ppm").write_bytes(encoded(BLACK, "PPM"))
    table = tmp_path / "root/GT-final_test.csv"
    table.write_text(table.read_text().replace("00002.ppm", "../../../../outside.ppm"))
    with pytest.raises(DatasetError, match=r"has no class of 00002\.ppm"):
        signs.dataset(tmp_path / "root", download=False).load()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (encoded(BLACK, "PPM")[:-1], "cannot be decoded"),
        (encoded(BLACK, "PNG"), "is no PPM image"),
        (b"P6 30000 30000 255\n", "is no PPM image"),
        (b"P6 2000 20 255\n", "has 2000x20 pixels; at most 1024 are expected"),
    ],
    ids=["truncated", "another format", "enormous", "large"],
)
def test_an_image_that_turns_out_to_be_none(
    signs: Sample, tmp_path: Path, content: bytes, reason: str
) -> None:
    signs.unpack(tmp_path)
    (tmp_path / TRAIN / "00001/00000_00001.ppm").write_bytes(content)
    with pytest.raises(DatasetError) as error:
        signs.dataset(tmp_path, download=False).load()
    name = f"00001/00000_00001.ppm of {tmp_path}/{TRAIN}"
    assert str(error.value).startswith(f"{name} {reason}")
    assert not (tmp_path / "decoded/gtsrb-1").exists()


def test_checksums_of_the_test_signs_are_those_of_torchvision() -> None:
    from pathlib import PurePath

    import torchvision.datasets.gtsrb as theirs  # type: ignore[import-untyped]

    text = Path(theirs.__file__).read_text()
    for role in ("test", "truth"):
        archive = GTSRB.parts[role].archive
        assert f'"{archive.md5}"' in text
        assert PurePath(archive.url).name == archive.file
    assert GTSRB.parts["train"].archive.md5 not in text


# Tiny-ImageNet.


def sort_into_folders(root: Path, inside: str = "", *, keep_table: bool = False) -> None:
    """Give each class of the validation set its folder, as BackdoorBench does for ImageFolder."""
    table = root / "val/val_annotations.txt"
    for line in table.read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        folder = root / "val" / wnid / inside
        folder.mkdir(parents=True, exist_ok=True)
        (root / "val/images" / name).rename(folder / name)
    (root / "val/images").rmdir()
    if not keep_table:
        table.unlink()


@pytest.mark.parametrize("inside", ["", "images"])
@pytest.mark.parametrize("keep_table", [True, False])
def test_a_validation_set_that_is_sorted_into_folders(
    *, tiny: Sample, tmp_path: Path, inside: str, keep_table: bool
) -> None:
    """The images come in the order of the published set."""
    tiny.unpack(tmp_path)
    sort_into_folders(tmp_path / TINY, inside, keep_table=keep_table)
    load(tiny, tmp_path)


def test_the_order_of_image_folder(tiny: Sample, tmp_path: Path) -> None:
    """Torchvision's own listing of the sorted folders names the same pictures."""
    from torchvision.datasets import ImageFolder

    tiny.unpack(tmp_path)
    sort_into_folders(tmp_path / TINY)
    images = tiny.dataset(tmp_path, download=False).load()
    listed = ImageFolder(str(tmp_path / TINY / "val")).samples
    assert images.folder_order is not None
    numbers = [int(Path(path).stem.removeprefix("val_")) for path, _ in listed]
    assert images.folder_order.tolist() == numbers
    assert images.test_labels[images.folder_order].tolist() == [label for _, label in listed]
    assert numbers != sorted(numbers)


def lose_one(root: Path) -> None:
    sort_into_folders(root)
    next(root.glob("val/*/val_3.JPEG")).unlink()


def copy_one(root: Path) -> None:
    sort_into_folders(root)
    for wnid in WNIDS:
        (root / f"val/{wnid}/val_3.JPEG").touch()


SPOILT_TINY: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image is missing": (
        lambda root: (root / "train/n01629819/images/n01629819_2.JPEG").unlink(),
        "{root}/train/n01629819/images has 3 images, not 4: it is incomplete, or another edition",
    ),
    "a path in the table": (
        lambda root: (root / "val/val_annotations.txt").write_text("../val_0.JPEG\tn01629819\n"),
        "val/val_annotations.txt of {root} has a line '../val_0.JPEG\\tn01629819'",
    ),
    "a picture that the table names is gone": (
        lambda root: (root / "val/images/val_3.JPEG").unlink(),
        "val/images/val_3.JPEG of {root} is missing",
    ),
    "sorted into folders, and one is gone": (
        lose_one,
        (
            "val of {root} has 11 images, not val_0.JPEG to val_11.JPEG: it is incomplete, or "
            "another edition"
        ),
    ),
    "sorted into folders, and one is in two": (
        copy_one,
        "val_3.JPEG of {root} is there in two folders of val",
    ),
    "a path for a class": (
        lambda root: (root / "wnids.txt").write_text("n01629819\nn01443537\n../../etc\n"),
        "wnids.txt of {root} does not name 3 classes",
    ),
    "resized": (
        lambda root: (root / "val/images/val_0.JPEG").write_bytes(encoded(BLACK, "JPEG")),
        "val/images/val_0.JPEG of {root} has been resized",
    ),
}


@pytest.mark.parametrize("case", SPOILT_TINY)
def test_folders_of_tiny_imagenet_that_are_refused(tiny: Sample, tmp_path: Path, case: str) -> None:
    tiny.unpack(tmp_path)
    spoil, expected = SPOILT_TINY[case]
    spoil(tmp_path / TINY)
    assert complaint(tiny, tmp_path) == expected.format(root=tmp_path / TINY)
