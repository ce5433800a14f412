"""Tiny-ImageNet, from its archive or from a local folder."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

import torch

from ulrl.datasets._base import DatasetError, DatasetInfo, ImageSet, Preprocessing, register
from ulrl.datasets._decoded import Rows
from ulrl.datasets._download import Archive
from ulrl.datasets._members import Members
from ulrl.datasets._pictures import Picture, picture_rows, size_of
from ulrl.datasets._public import Part, PublicDataset, Source

CLASS_NAME = re.compile(r"n\d{8}")
TEST_NAME = re.compile(r"val_(\d+)\.JPEG")
ANNOTATIONS = "val/val_annotations.txt"

SOURCE = Source(  # the checksum is in many public loaders; the authors published none
    parts={
        "images": Part(
            archive=Archive(
                file="tiny-imagenet-200.zip",
                url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                md5="90528d7ca1a48142e341f4ef8d21d0de",
                size=248_100_043,
            ),
            inside="tiny-imagenet-200/",
            folders=("tiny-imagenet-200", ""),
            marker="wnids.txt",
        )
    },
    info=DatasetInfo(train_counts=(500,) * 200, test_count=10_000, side=64),
)


@register("tiny_imagenet")
@dataclass(frozen=True, kw_only=True)
class TinyImageNet(PublicDataset):
    """Stanford's excerpt of ImageNet (2015): 110,000 images of 200 classes, 64×64.

    Classes are numbered in the order of their WordNet ids; training images are in the order
    of their names, class by class. The validation set, in the order of its numbers, is the
    test set, as everywhere: labels of the real one were never published. Grey images become
    RGB. The root holds, or shall hold, ``tiny-imagenet-200.zip`` or what it unpacks to, as
    published or sorted into a folder per class (``val/<wnid>/``) for ``ImageFolder``, as
    BackdoorBench does. The order of the images is the same for both.
    """

    @property
    def source(self) -> Source:
        return SOURCE

    @property
    def preprocessing(self) -> Preprocessing:
        # No flip: the benchmarks mirror CIFAR-10 only.
        return Preprocessing(
            mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262), padding=4, flip=False
        )

    def identity(self) -> dict[str, Any]:
        return {"decoded": self.source.version}

    def load(self) -> ImageSet:
        images = super().load()
        labels = images.test_labels.tolist()
        order = sorted(range(len(labels)), key=lambda n: (labels[n], f"val_{n}.JPEG"))
        return replace(images, folder_order=torch.tensor(order))

    def _verify(self, role: str, members: Members) -> None:
        del role  # there is but one archive
        listed = {"train": self._train(members), "test": self._test(members)}
        side = self.source.info.side
        for pictures in listed.values():
            name = pictures[0].name
            if size_of(members.read(name), name, "JPEG") != (side, side):
                raise DatasetError(f"{name} of {members.place} has been resized")

    def _rows(self, places: Mapping[str, Members]) -> Iterator[Rows]:
        (members,) = places.values()
        side = self.source.info.side
        yield from picture_rows(members, "train", self._train(members), "JPEG", side)
        yield from picture_rows(members, "test", self._test(members), "JPEG", side)

    def _classes(self, members: Members) -> list[str]:
        names = sorted(members.read("wnids.txt").decode("latin1").split())
        count = self.source.info.classes
        if len(set(names)) != count or not all(CLASS_NAME.fullmatch(name) for name in names):
            raise DatasetError(f"wnids.txt of {members.place} does not name {count} classes")
        return names

    def _train(self, members: Members) -> list[Picture]:
        pictures = []
        for label, wnid in enumerate(self._classes(members)):
            folder, names = _images(members, f"train/{wnid}", re.compile(rf"{wnid}_\d+\.JPEG"))
            count = self.source.info.train_counts[label]
            if len(names) != count:
                raise DatasetError(
                    f"{members.place}/{folder} has {len(names)} images, not {count}: it is "
                    f"incomplete, or another edition"
                )
            pictures += [Picture(name=f"{folder}/{name}", label=label) for name in names]
        return pictures

    def _test(self, members: Members) -> list[Picture]:
        classes = self._classes(members)
        try:
            pictures = self._annotated(members, classes)
        except DatasetError as error:
            pictures = _sorted_into_classes(members, classes)
            if not pictures:
                raise error from None
        count = self.source.info.test_count
        if sorted(pictures) != list(range(count)):
            raise DatasetError(
                f"val of {members.place} has {len(pictures)} images, not val_0.JPEG to "
                f"val_{count - 1}.JPEG: it is incomplete, or another edition"
            )
        return [pictures[number] for number in range(count)]

    def _annotated(self, members: Members, classes: list[str]) -> dict[int, Picture]:
        """Return the test images by number, as published: in one folder, with a table."""
        labels = {wnid: label for label, wnid in enumerate(classes)}
        numbered: dict[int, Picture] = {}
        for line in members.read(ANNOTATIONS).decode("latin1").splitlines():
            name, _, rest = line.partition("\t")
            number, wnid = TEST_NAME.fullmatch(name), rest.partition("\t")[0]
            if number is None or wnid not in labels:
                raise DatasetError(f"{ANNOTATIONS} of {members.place} has a line {line[:60]!r}")
            picture = Picture(name=f"val/images/{name}", label=labels[wnid])
            numbered[int(number[1])] = picture
        count = self.source.info.test_count
        if sorted(numbered) != list(range(count)):
            raise DatasetError(f"{ANNOTATIONS} of {members.place} does not name {count} images")
        there = set(members.names("val/images"))
        missing = [one.name for one in numbered.values() if PurePath(one.name).name not in there]
        if missing:
            raise DatasetError(f"{missing[0]} of {members.place} is missing")
        return numbered


def _sorted_into_classes(members: Members, classes: list[str]) -> dict[int, Picture]:
    """Return the test images by number, of a validation set with a folder per class."""
    numbered: dict[int, Picture] = {}
    for label, wnid in enumerate(classes):
        folder, names = _images(members, f"val/{wnid}", TEST_NAME)
        for name in names:
            number = int(name.removeprefix("val_").removesuffix(".JPEG"))
            if number in numbered:
                raise DatasetError(f"{name} of {members.place} is there in two folders of val")
            numbered[number] = Picture(name=f"{folder}/{name}", label=label)
    return numbered


def _images(members: Members, folder: str, pattern: re.Pattern[str]) -> tuple[str, list[str]]:
    """Return where a class has its images, and their sorted names.

    They lie in ``images`` below the class's folder, or in that folder itself.
    """
    below = f"{folder}/images"
    for place in (below, folder):
        with contextlib.suppress(DatasetError):
            names = [name for name in members.names(place) if pattern.fullmatch(name)]
            if names:
                return place, names
    return below, []
