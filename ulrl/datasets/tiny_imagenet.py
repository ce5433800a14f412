"""Tiny-ImageNet, from its archive or from a local folder."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ulrl.datasets._base import DatasetError, Facts, Treatment, register
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
    facts=Facts(train_counts=(500,) * 200, test_count=10_000, side=64),
)


@register("tiny_imagenet")
@dataclass(frozen=True, kw_only=True)
class TinyImageNet(PublicDataset):
    """Stanford's excerpt of ImageNet (2015): 110,000 images of 200 classes, 64×64.

    Classes are numbered in the order of their WordNet ids; training images are in the order
    of their names, class by class. The validation set, in the order of its numbers, is the
    test set, as everywhere: labels of the real one were never published. Grey images become
    RGB. The root holds, or shall hold, ``tiny-imagenet-200.zip`` or what it unpacks to.
    """

    @property
    def source(self) -> Source:
        return SOURCE

    @property
    def treatment(self) -> Treatment:
        # No flip: the benchmarks mirror CIFAR-10 only.
        return Treatment(
            mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262), padding=4, flip=False
        )

    def identity(self) -> dict[str, Any]:
        return {"decoded": self.source.version}

    def _verify(self, role: str, members: Members) -> None:
        del role  # there is but one archive
        listed = {"train": self._train(members), "test": self._test(members)}
        side = self.source.facts.side
        for pictures in listed.values():
            name = pictures[0].name
            if size_of(members.read(name), name, "JPEG") != (side, side):
                raise DatasetError(f"{name} of {members.place} has been resized")

    def _rows(self, places: Mapping[str, Members]) -> Iterator[Rows]:
        (members,) = places.values()
        side = self.source.facts.side
        yield from picture_rows(members, "train", self._train(members), "JPEG", side)
        yield from picture_rows(members, "test", self._test(members), "JPEG", side)

    def _classes(self, members: Members) -> list[str]:
        names = sorted(members.read("wnids.txt").decode("latin1").split())
        count = self.source.facts.classes
        if len(set(names)) != count or not all(CLASS_NAME.fullmatch(name) for name in names):
            raise DatasetError(f"wnids.txt of {members.place} does not name {count} classes")
        return names

    def _train(self, members: Members) -> list[Picture]:
        pictures = []
        for label, wnid in enumerate(self._classes(members)):
            folder = f"train/{wnid}/images"
            pattern = re.compile(rf"{wnid}_\d+\.JPEG")
            names = [name for name in members.names(folder) if pattern.fullmatch(name)]
            count = self.source.facts.train_counts[label]
            if len(names) != count:
                raise DatasetError(
                    f"{members.place}/{folder} has {len(names)} images, not {count}: it is "
                    f"incomplete, or another edition"
                )
            pictures += [Picture(name=f"{folder}/{name}", label=label) for name in names]
        return pictures

    def _test(self, members: Members) -> list[Picture]:
        labels = {wnid: label for label, wnid in enumerate(self._classes(members))}
        numbered: dict[int, Picture] = {}
        for line in members.read(ANNOTATIONS).decode("latin1").splitlines():
            name, _, rest = line.partition("\t")
            number, wnid = TEST_NAME.fullmatch(name), rest.partition("\t")[0]
            if number is None or wnid not in labels:
                raise DatasetError(f"{ANNOTATIONS} of {members.place} has a line {line[:60]!r}")
            picture = Picture(name=f"val/images/{name}", label=labels[wnid])
            numbered[int(number[1])] = picture
        if sorted(numbered) != list(range(self.source.facts.test_count)):
            count = self.source.facts.test_count
            raise DatasetError(f"{ANNOTATIONS} of {members.place} does not name {count} images")
        return [numbered[number] for number in sorted(numbered)]
