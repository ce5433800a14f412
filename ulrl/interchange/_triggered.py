"""Triggered test images from outside: an ``.npz`` of plain arrays, or a folder of PNG files."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int64, UInt8
from numpy.lib.npyio import NpzFile
from torch import Tensor

from ulrl.datasets.arrays import DAMAGE
from ulrl.interchange._pictures import read_pngs
from ulrl.interchange._refusal import ImportRefused, inside, reason_of, shown

NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")  # one way to write each number
LAYOUT = "the layout is <true label>/<number of the test image>.png and nothing else"
LARGEST = 2**31  # bound of a label or an index, far from what 64 bits hold


@dataclass(frozen=True, kw_only=True, eq=False)
class TriggeredImages:
    """Test images with the attacker's trigger.

    Attributes:
        images: Pixels as stored.
        true_labels: Class of what is shown.
        target_labels: Class that the attacker wants, where the file says it.
        index: Number of the test image each was made from, where the file says it; no two
            are the same. In the dataset's own order, or in that of ``ImageFolder``.
        by_folder: Whether the order of ``ImageFolder`` is the more likely one.
        source: File or folder, for messages.
    """

    images: UInt8[Tensor, "n c h w"]
    true_labels: Int64[Tensor, " n"]
    target_labels: Int64[Tensor, " n"] | None
    index: Int64[Tensor, " n"] | None
    source: str
    by_folder: bool = False


def read_triggered(path: str | Path) -> TriggeredImages:
    """Return the triggered images of an ``.npz`` file or of a folder of PNG files.

    The file has ``images`` (uint8 ``[N, H, W, C]``, square, C 1 or 3), ``labels`` (true
    class, ``[N]``), and if known ``wanted`` (the attacker's class, ``[N]``) and ``index``
    (number of the test image, from 0, ``[N]``). The folder has
    ``<true label>/<index>.png``, which is BackdoorBench's layout.

    Raises:
        ImportRefused: It is missing, damaged or of another form, or leads elsewhere.
    """
    path = Path(path)
    if path.is_dir():
        return _from_folder(path)
    if path.suffix == ".npz" and path.is_file():
        return _from_arrays(path)
    raise ImportRefused(f"{path} is neither an .npz file nor a folder of PNG files; {LAYOUT}")


def places_in(folder: Path) -> list[tuple[int, int]]:
    """Return label and index of each picture of a folder, by index.

    Raises:
        ImportRefused: It holds anything else, the same index twice, or a link out of it.
    """
    places = [
        (_number(kind, kind.name), _number(file, file.name.removesuffix(".png")))
        for kind in _visible(folder, folder)
        for file in _visible(inside(folder, kind.name), kind)
        if _is_png(file)
    ]
    places.sort(key=lambda place: place[1])
    for (_, before), (label, index) in pairwise(places):
        if before == index:
            raise ImportRefused(
                f"{folder}/{label}/{index}.png is there under another label too; remove one"
            )
    if not places:
        raise ImportRefused(f"{folder} holds no picture; {LAYOUT}")
    return places


def _from_folder(folder: Path) -> TriggeredImages:
    places = places_in(folder)
    return TriggeredImages(
        images=read_pngs(folder, "", places),
        true_labels=torch.tensor([label for label, _ in places]),
        target_labels=None,
        index=torch.tensor([index for _, index in places]),
        source=str(folder),
    )


def _visible(real: Path, path: Path) -> Iterator[Path]:
    """Yield what is in a folder, but for what systems leave in it (``.DS_Store``)."""
    if not real.is_dir():
        raise ImportRefused(f"{path} is no folder; {LAYOUT}")
    yield from sorted(path / entry.name for entry in real.iterdir() if entry.name[0] != ".")


def _is_png(path: Path) -> bool:
    if path.suffix != ".png":
        raise ImportRefused(f"{path.parent / shown(path.name)} is no PNG file; {LAYOUT}")
    return True


def _number(path: Path, text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise ImportRefused(
            f"{path.parent} has {shown(path.name)}, whose name is no number; {LAYOUT}"
        )
    return int(text)


def _from_arrays(path: Path) -> TriggeredImages:
    arrays = _read(path)
    images = arrays["images"]
    square = images.ndim == 4 and images.shape[1] == images.shape[2] > 0
    if not square or images.shape[3] not in (1, 3) or images.dtype != np.uint8 or not len(images):
        raise ImportRefused(
            f"{path}: images is uint8 [N, H, W, C] with N above 0, H = W and C 1 or 3; got "
            f"{images.dtype} {list(images.shape)}"
        )
    numbers = {name: _numbers(path, arrays, name) for name in ("labels", "wanted", "index")}
    labels, index = numbers["labels"], numbers["index"]
    if labels is None:
        raise ImportRefused(f"{path} lacks labels, the true class of each image; add them")
    if index is not None and len(set(index.tolist())) < len(index):
        raise ImportRefused(f"{path}: index names a test image once; got one of them twice")
    return TriggeredImages(
        images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
        true_labels=labels,
        target_labels=numbers["wanted"],
        index=index,
        source=str(path),
    )


def _numbers(
    path: Path, arrays: dict[str, npt.NDArray[Any]], name: str
) -> Int64[Tensor, " n"] | None:
    if name not in arrays:
        return None
    found, count = arrays[name], len(arrays["images"])
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise ImportRefused(
            f"{path}: {name} is one integer for each of {count} images; got {found.dtype} "
            f"{list(found.shape)}"
        )
    if found.min() < 0 or found.max() >= LARGEST:
        raise ImportRefused(f"{path}: {name} counts from 0; got {found.min()} to {found.max()}")
    return torch.from_numpy(found.astype(np.int64))


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        # Opened here, since numpy leaves a file open that it opens itself and cannot read.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, NpzFile):
                raise ImportRefused(f"{path} is a single array; save images and labels by name")
            arrays: dict[str, npt.NDArray[Any]] = {
                name: archive[name]
                for name in ("images", "labels", "wanted", "index")
                if name in archive.files
            }
    except (*DAMAGE, OSError, ValueError) as error:
        raise ImportRefused(
            f"{path} cannot be read as an .npz of plain arrays ({reason_of(error)}); write it again"
        ) from error
    if "images" not in arrays:
        raise ImportRefused(f"{path} lacks images, uint8 [N, H, W, C]; add them")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy hands out what is no array as bytes
            raise ImportRefused(f"{path}: {name} is no array; write it with numpy.savez")
    return arrays
