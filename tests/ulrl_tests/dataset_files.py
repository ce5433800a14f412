"""Small datasets in the formats of the published ones: folders, archives, and what is in them."""

import importlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torchvision.transforms import Resize  # type: ignore[import-untyped]

from tests.ulrl_tests.dataset_formats import Pixels, encoded, md5, python2_pickle, tar_of, zip_of
from ulrl.datasets import DATASETS, DatasetInfo, ImageSet
from ulrl.datasets._cifar import Batch, CifarSource
from ulrl.datasets._public import PublicDataset, Source

BATCH = 20
WNIDS = ("n01443537", "n01629819", "n01641577")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A dataset that is small and otherwise as published.

    Attributes:
        name: Of the dataset.
        source: What replaces the published one.
        files: Its unpacked files, by their paths below the root.
        archives: Its archives, by name.
        truth: The four arrays that shall come out.
    """

    name: str
    source: Source
    files: Mapping[str, bytes]
    archives: Mapping[str, bytes]
    truth: Mapping[str, npt.NDArray[Any]]

    def dataset(self, root: Path, **options: Any) -> PublicDataset:
        made = DATASETS[self.name](root=str(root), **options)  # type: ignore[call-arg]
        assert isinstance(made, PublicDataset)
        return made

    def unpack(self, root: Path) -> None:
        for name, content in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def put(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        for name, content in self.archives.items():
            (root / name).write_bytes(content)

    def install(self) -> None:
        """Make this process take the sample for the published set."""
        importlib.import_module(self.module).SOURCE = self.source  # type: ignore[attr-defined]

    @property
    def module(self) -> str:
        return f"ulrl.datasets.{self.name}"

    def with_archives(self, archives: Mapping[str, bytes]) -> "Sample":
        """Return the sample with other archives, whose checksums count as the published ones."""
        return replace(self, archives=archives, source=_publish(self.source, archives))

    def check(self, images: ImageSet) -> None:
        """Compare all pixels and labels with the truth."""
        for name, expected in self.truth.items():
            got = getattr(images, name)
            assert got.shape == expected.shape, name
            assert (got.numpy() == expected).all(), name
        assert images.classes == self.source.info.classes


def _publish(source: Source, archives: Mapping[str, bytes]) -> Source:
    parts = {}
    for role, part in source.parts.items():
        content = archives[part.archive.file]
        archive = replace(part.archive, md5=md5(content), size=len(content))
        parts[role] = replace(part, archive=replace(archive, url="http://127.0.0.1:9/none"))
    return replace(source, parts=parts)


def _source_of(name: str) -> Source:
    source = importlib.import_module(f"ulrl.datasets.{name}").SOURCE
    assert isinstance(source, Source)
    return source


def _info(train: npt.NDArray[Any], test: npt.NDArray[Any], classes: int, side: int) -> DatasetInfo:
    counts = np.bincount(train, minlength=classes)
    return DatasetInfo(train_counts=tuple(map(int, counts)), test_count=len(test), side=side)


# CIFAR.


def _cifar(name: str, classes: int, label_key: str, other: str) -> Sample:
    source = _source_of(name)
    assert isinstance(source, CifarSource)
    draw = np.random.default_rng(classes)
    files: dict[str, bytes] = {}
    pixels: dict[str, list[Pixels]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    batches = []
    inside = source.parts["images"].inside
    for batch in source.batches:
        rows = draw.integers(0, 256, (BATCH, 3072), dtype=np.uint8)
        found = [int(label) for label in draw.integers(0, classes, BATCH)]
        entry: dict[str, Any] = {"data": rows, label_key: found, other: [0] * BATCH}
        entry |= {"batch_label": batch.file, "filenames": [f"{i}.png" for i in range(BATCH)]}
        content = python2_pickle(entry)
        files[inside + batch.file] = content
        pixels[batch.split].append(rows)
        labels[batch.split] += found
        batches.append(Batch(file=batch.file, md5=md5(content), split=batch.split))
    files[inside + "readme.html"] = b"<html>"
    truth: dict[str, npt.NDArray[Any]] = {}
    for split in ("train", "test"):
        # A row of the file is 1024 red, 1024 green and 1024 blue pixels, row by row.
        truth[f"{split}_images"] = np.concatenate(pixels[split]).reshape(-1, 3, 32, 32)
        truth[f"{split}_labels"] = np.array(labels[split])
    info = _info(truth["train_labels"], truth["test_labels"], classes, 32)
    small = replace(source, info=info, batches=tuple(batches))
    archives = {small.parts["images"].archive.file: tar_of(dict(reversed(files.items())))}
    return Sample(
        name=name, source=_publish(small, archives), files=files, archives=archives, truth=truth
    )


def cifar10() -> Sample:
    return _cifar("cifar10", 10, "labels", "unused")


def cifar100() -> Sample:
    return _cifar("cifar100", 100, "fine_labels", "coarse_labels")


# GTSRB: portable pixmaps of any size and tables with semicolons.


def _photograph(draw: np.random.Generator, width: int, height: int) -> Pixels:
    coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _resized(pixels: Pixels) -> Pixels:
    """Resize as the field's transform does."""
    return np.asarray(Resize((32, 32))(Image.fromarray(pixels))).transpose(2, 0, 1)


def _table(rows: list[tuple[str, Pixels, int]]) -> bytes:
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for name, pixels, label in rows:
        height, width = pixels.shape[:2]
        lines.append(f"{name};{width};{height};1;1;{width - 2};{height - 2};{label}")
    return ("\r\n".join(lines) + "\r\n").encode()


def gtsrb(counts: tuple[int, ...] = (4, 2, 3), test_count: int = 5) -> Sample:
    draw = np.random.default_rng(43)
    train_files: dict[str, bytes] = {}
    test_files: dict[str, bytes] = {}
    images: dict[str, list[Pixels]] = {"train": [], "test": []}
    for label, count in enumerate(counts):
        rows = []
        for number in range(count):
            width, height = (int(side) for side in draw.integers(15, 100, 2))
            pixels = _photograph(draw, width, height)
            name = f"{number // 2:05d}_{number % 2:05d}.ppm"
            folder = f"GTSRB/Final_Training/Images/{label:05d}"
            train_files[f"{folder}/{name}"] = encoded(pixels, "PPM")
            rows.append((name, pixels, label))
            images["train"].append(_resized(pixels))
        train_files[f"{folder}/GT-{label:05d}.csv"] = _table(rows)
    labels = [int(label) for label in draw.integers(0, len(counts), test_count)]
    rows = []
    for number, label in enumerate(labels):
        pixels = _photograph(draw, 40 + number, 30)
        test_files[f"GTSRB/Final_Test/Images/{number:05d}.ppm"] = encoded(pixels, "PPM")
        rows.append((f"{number:05d}.ppm", pixels, label))
        images["test"].append(_resized(pixels))
    test_files["GTSRB/Final_Test/Images/GT-final_test.test.csv"] = b"Filename;Width\r\n"
    truth_file = {"GT-final_test.csv": _table(rows[::-1])}  # their order is of no account
    truth: dict[str, npt.NDArray[Any]] = {
        "train_images": np.stack(images["train"]),
        "train_labels": np.repeat(np.arange(len(counts)), counts),
        "test_images": np.stack(images["test"]),
        "test_labels": np.array(labels),
    }
    info = _info(truth["train_labels"], truth["test_labels"], len(counts), 32)
    archives = {
        "GTSRB_Final_Training_Images.zip": zip_of(train_files),
        "GTSRB_Final_Test_Images.zip": zip_of(test_files),
        "GTSRB_Final_Test_GT.zip": zip_of(truth_file),
    }
    return Sample(
        name="gtsrb",
        source=_publish(replace(_source_of("gtsrb"), info=info), archives),
        files=train_files | test_files | truth_file,
        archives=archives,
        truth=truth,
    )


# Tiny-ImageNet: JPEGs, some of them grey.


def tiny_imagenet() -> Sample:
    draw = np.random.default_rng(200)
    files: dict[str, bytes] = {}
    images: dict[str, list[Pixels]] = {"train": [], "test": []}

    def add(split: str, path: str, *, grey: bool) -> None:
        pixels = _photograph(draw, 64, 64)
        content = encoded(pixels[:, :, 0] if grey else pixels, "JPEG", quality=90)
        files[f"tiny-imagenet-200/{path}"] = content
        decoded = np.asarray(Image.open(io.BytesIO(content)))
        colours = np.stack([decoded] * 3) if grey else decoded.transpose(2, 0, 1)
        images[split].append(colours)

    for wnid in WNIDS:
        for number in (0, 1, 10, 2):  # as names are sorted
            add("train", f"train/{wnid}/images/{wnid}_{number}.JPEG", grey=number == 10)
        files[f"tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt"] = b""
    labels = [int(label) for label in draw.integers(0, 3, 12)]
    lines = []
    for number, label in enumerate(labels):
        add("test", f"val/images/val_{number}.JPEG", grey=number == 4)
        lines.append(f"val_{number}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n")
    files["tiny-imagenet-200/val/val_annotations.txt"] = "".join(lines).encode()
    files["tiny-imagenet-200/wnids.txt"] = "\n".join(reversed(WNIDS)).encode() + b"\n"
    truth: dict[str, npt.NDArray[Any]] = {
        "train_images": np.stack(images["train"]),
        "train_labels": np.repeat(np.arange(3), 4),
        "test_images": np.stack(images["test"]),
        "test_labels": np.array(labels),
    }
    info = _info(truth["train_labels"], truth["test_labels"], 3, 64)
    archives = {"tiny-imagenet-200.zip": zip_of(files)}
    return Sample(
        name="tiny_imagenet",
        source=_publish(replace(_source_of("tiny_imagenet"), info=info), archives),
        files=files,
        archives=archives,
        truth=truth,
    )


SAMPLES: dict[str, Callable[[], Sample]] = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "gtsrb": gtsrb,
    "tiny_imagenet": tiny_imagenet,
}
