"""GTSRB, from its archives or from local folders."""

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ulrl.datasets._base import DatasetError, DatasetInfo, Preprocessing, register
from ulrl.datasets._decoded import Rows
from ulrl.datasets._download import Archive
from ulrl.datasets._members import Members
from ulrl.datasets._pictures import Picture, picture_rows, size_of
from ulrl.datasets._public import Part, PublicDataset, Source

OFFICIAL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"
TRAIN_NAME = re.compile(r"\d{5}_\d{5}\.ppm")
TEST_NAME = re.compile(r"\d{5}\.ppm")

# The final edition of 39,209 training images, which the field uses; torchvision's archive
# of training images is an earlier one of 26,640. The two checksums of test files are
# torchvision's; that of the training images is in several public loaders.
SOURCE = Source(
    parts={
        "train": Part(
            archive=Archive(
                file="GTSRB_Final_Training_Images.zip",
                url=f"{OFFICIAL}/GTSRB_Final_Training_Images.zip",
                md5="f33fd80ac59bff73c82d25ab499e03a3",
                size=276_294_756,
            ),
            inside="GTSRB/Final_Training/Images/",
            folders=(
                "GTSRB/Final_Training/Images",
                "gtsrb/GTSRB/Final_Training/Images",
                "gtsrb/GTSRB/Training",
                "Final_Training/Images",
                "Train",
                "gtsrb/Train",
            ),
            marker="00000/GT-00000.csv",
        ),
        "test": Part(
            archive=Archive(
                file="GTSRB_Final_Test_Images.zip",
                url=f"{OFFICIAL}/GTSRB_Final_Test_Images.zip",
                md5="c7e4e6327067d32654124b0fe9e82185",
                size=88_978_620,
            ),
            inside="GTSRB/Final_Test/Images/",
            folders=(
                "GTSRB/Final_Test/Images",
                "gtsrb/GTSRB/Final_Test/Images",
                "Final_Test/Images",
                "Test",
                "gtsrb/Test",
            ),
            marker="00000.ppm",
        ),
        "truth": Part(
            archive=Archive(
                file="GTSRB_Final_Test_GT.zip",
                url=f"{OFFICIAL}/GTSRB_Final_Test_GT.zip",
                md5="fe31e9c9270bbcd7b84b7f21a9d9d9e5",
                size=99_620,
            ),
            inside="",
            folders=(
                "",
                "GTSRB",
                "GTSRB/Final_Test",
                "GTSRB/Final_Test/Images",
                "gtsrb",
                "gtsrb/GTSRB/Final_Test/Images",
                "Final_Test/Images",
                "Test",
                "gtsrb/Test",
            ),
            marker="GT-final_test.csv",
        ),
    },
    info=DatasetInfo(
        train_counts=(
            *(210, 2220, 2250, 1410, 1980, 1860, 420, 1440, 1410, 1470, 2010, 1320, 2100, 2160),
            *(780, 630, 420, 1110, 1200, 210, 360, 330, 390, 510, 270, 1500, 600, 240, 540, 270),
            *(450, 780, 240, 689, 420, 1200, 390, 210, 2070, 300, 360, 240, 240),
        ),
        test_count=12_630,
        side=32,
    ),
)


@register("gtsrb")
@dataclass(frozen=True, kw_only=True)
class Gtsrb(PublicDataset):
    """The German Traffic Sign Recognition Benchmark of Stallkamp et al. (2012): 43 signs.

    Photographs of 15 to 250 pixels, enlarged or reduced to 32×32 as a whole (bilinear,
    antialiased, by Pillow), in the order of their names. The root holds, or shall hold, the
    three archives of the final edition or what they unpack to.
    """

    @property
    def source(self) -> Source:
        return SOURCE

    @property
    def preprocessing(self) -> Preprocessing:
        # The benchmarks leave GTSRB's pixels as they are; a mirrored sign is another sign.
        return Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), padding=4, flip=False)

    def identity(self) -> dict[str, Any]:
        return {"decoded": self.source.version}

    def _verify(self, role: str, members: Members) -> None:
        if role == "train":
            for label, count in enumerate(self.source.info.train_counts):
                _check_class(members, label, count)
        elif role == "test":
            _listing(members, "", TEST_NAME, self.source.info.test_count)
        else:
            self._truth(members)

    def _rows(self, places: Mapping[str, Members]) -> Iterator[Rows]:
        train = [
            Picture(name=f"{label:05d}/{name}", label=label)
            for label, count in enumerate(self.source.info.train_counts)
            for name in _listing(places["train"], f"{label:05d}", TRAIN_NAME, count)
        ]
        labels = self._truth(places["truth"])
        names = _listing(places["test"], "", TEST_NAME, self.source.info.test_count)
        unknown = [name for name in names if name not in labels]
        if unknown:
            raise DatasetError(f"{places['truth'].place} has no class of {unknown[0]}")
        test = [Picture(name=name, label=labels[name]) for name in names]
        side = self.source.info.side
        yield from picture_rows(places["train"], "train", train, "PPM", side)
        yield from picture_rows(places["test"], "test", test, "PPM", side)

    def _truth(self, members: Members) -> dict[str, int]:
        """Return the class of each test image."""
        rows = _table(members, "GT-final_test.csv")
        count = self.source.info.test_count
        if len(rows) != count:
            raise DatasetError(
                f"GT-final_test.csv of {members.place} has {len(rows)} rows, not {count}"
            )
        try:
            return {row["Filename"]: int(row["ClassId"]) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"GT-final_test.csv of {members.place} has no classes") from error


def _listing(members: Members, folder: str, pattern: re.Pattern[str], count: int) -> list[str]:
    names = [name for name in members.names(folder) if pattern.fullmatch(name)]
    if len(names) != count:
        where = f"{members.place}/{folder}".rstrip("/")
        raise DatasetError(
            f"{where} has {len(names)} images, not {count}: it is incomplete, or another edition"
        )
    return names


def _check_class(members: Members, label: int, count: int) -> None:
    """Compare a folder with its table, and its first image with the size that it names."""
    folder = f"{label:05d}"
    names = _listing(members, folder, TRAIN_NAME, count)
    table = f"{folder}/GT-{folder}.csv"
    rows = _table(members, table)
    if sorted(row.get("Filename", "") for row in rows) != names:
        raise DatasetError(f"{table} of {members.place} does not name the images there")
    first = f"{folder}/{rows[0]['Filename']}"
    size = size_of(members.read(first), first, "PPM")
    if [str(side) for side in size] != [rows[0].get("Width"), rows[0].get("Height")]:
        raise DatasetError(f"{first} of {members.place} has been resized")


def _table(members: Members, name: str) -> list[dict[str, str]]:
    text = members.read(name).decode("latin1")
    return list(csv.DictReader(io.StringIO(text, newline=""), delimiter=";"))
