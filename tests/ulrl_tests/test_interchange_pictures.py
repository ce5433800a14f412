"""The pictures of BackdoorBench's run folders: where they may lie and what they may be."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.ulrl_tests.bb_runs import TEST, Writer, refusal
from ulrl.interchange import read_backdoorbench

CONTENTS = (b"", b"no picture", b"GIF89a" + bytes(60))


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    return Writer(tmp_path / "badnet_0_1")


def first(folder: Path) -> Path:
    return folder / "bd_test_dataset/1/1.png"


def test_a_missing_picture(write: Writer) -> None:
    folder = write()
    first(folder).unlink()
    assert refusal(folder) == f"{first(folder)} is not there; copy the folder as a whole"


@pytest.mark.parametrize("what", ["picture", "class", "all"])
def test_a_link_out_of_the_folder(write: Writer, tmp_path: Path, what: str) -> None:
    folder = write()
    inside = {
        "picture": first(folder),
        "class": first(folder).parent,
        "all": folder / "bd_test_dataset",
    }
    moved = tmp_path / "elsewhere"
    inside[what].rename(moved)
    inside[what].symlink_to(moved)
    assert refusal(folder) == (
        f"{first(folder)} leads out of {folder}, and only what lies in the folder is read; copy "
        f"the file to where the link is"
    )


def test_a_link_that_stays_in_the_folder(write: Writer) -> None:
    folder = write()
    (folder / "bd_test_dataset").rename(folder / "pictures")
    (folder / "bd_test_dataset").symlink_to("pictures")
    assert len(read_backdoorbench(folder).triggered.images) == len(TEST)


def _link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_link_to_itself, " is not there"),
        (_pipe, " is no regular file"),
        *((lambda path, c=c: path.write_bytes(c), " cannot be read as PNG (") for c in CONTENTS),
        *(
            (lambda path, k=k: path.write_bytes(path.read_bytes()[:k]), " cannot be read as PNG (")
            for k in (20, 60, 400)
        ),
    ],
)
def test_what_is_no_picture(write: Writer, change: Callable[[Path], object], message: str) -> None:
    folder = write()
    change(first(folder))
    assert refusal(folder).startswith(f"{first(folder)}{message}")


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (Image.new("RGB", (32, 32)), "32×32 RGB"),
        (Image.new("RGB", (16, 8)), "16×8 RGB"),
        (Image.new("L", (16, 16)), "16×16 L"),
        (Image.new("RGBA", (16, 16)), "16×16 RGBA"),
        (Image.new("P", (16, 16)), "16×16 P"),
        (Image.new("1", (20_000, 20_000)), "20000×20000 1"),  # more than Pillow likes to open
    ],
)
def test_a_picture_of_another_form(write: Writer, image: Image.Image, found: str) -> None:
    folder = write()
    image.save(first(folder))
    message = refusal(folder)
    assert message.startswith(f"{first(folder)} is {found}, not 16×16 RGB; all triggered") or (
        "decompression bomb" in message
    )
