"""Decoded images on disk: a folder that is complete or absent, mapped into memory by all."""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from jaxtyping import Int64, UInt8

from ulrl.datasets._base import DatasetError, DatasetInfo, Fetched, ImageSet

Split: TypeAlias = Literal["train", "test"]
Shapes: TypeAlias = dict[str, tuple[int, ...]]

SPLITS: tuple[Split, ...] = ("train", "test")
STEP = 500  # images between two reports
WAIT = 0.2  # seconds between two looks at a lock
RECORD = "decoded.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Some images of a split, with their classes and their place in it."""

    split: Split
    start: int
    images: UInt8[np.ndarray, "n c h w"]
    labels: Int64[np.ndarray, " n"]


class UnsoundError(Exception):
    """A decoded folder is damaged; the text says how."""


def locked(path: Path, what: str) -> Generator[Fetched, None, contextlib.ExitStack]:
    """Wait until no other process holds a lock, then return what frees it when it is left.

    Workers start together: without this, the second would find the first one's files half
    written and call them damaged.

    Raises:
        OSError: The folder cannot be written.
    """
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield Fetched(what=f"waiting for another process to fetch {what}", done=0, total=0)
            time.sleep(WAIT)
        else:
            held = contextlib.ExitStack()
            held.callback(lock.release)
            return held


def open_decoded(folder: Path, info: DatasetInfo) -> ImageSet:
    """Map a decoded folder into memory: processes of one machine share its pages.

    Sizes, types and labels are looked at; pixels are not read. Who writes to a tensor
    writes to a copy of his own.

    Raises:
        FileNotFoundError: It is absent.
        UnsoundError: It is damaged.
    """
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    if not (folder / RECORD).is_file():
        raise UnsoundError(f"{RECORD} is missing")
    arrays = {name: _mapped(folder / f"{name}.npy", shape) for name, shape in _shapes(info)}
    _check_labels(arrays["train_labels"], arrays["test_labels"], info)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return ImageSet(**tensors, classes=info.classes)


def write_decoded(
    folder: Path, name: str, info: DatasetInfo, rows: Iterator[Rows]
) -> Iterator[Fetched]:
    """Write all images and labels aside, then give them the name `folder` at once.

    Who still maps an earlier folder of that name keeps it. The caller holds the lock.

    Raises:
        DatasetError: `rows` are not what the facts promise.
        OSError: The disk is full, or cannot be written.
    """
    aside, old = (folder.with_name(f".{folder.name}.{end}") for end in ("part", "old"))
    for left in (aside, old):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield from _write(aside, name, info, rows)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _write(aside: Path, name: str, info: DatasetInfo, rows: Iterator[Rows]) -> Iterator[Fetched]:
    shapes = dict(_shapes(info))
    labels = {split: np.full(shapes[f"{split}_labels"], -1, np.int64) for split in SPLITS}
    total = info.train_count + info.test_count
    with contextlib.ExitStack() as stack:
        files = {split: _images_file(aside, split, shapes, stack) for split in SPLITS}
        starts = {split: file.tell() for split, file in files.items()}
        done = reported = 0
        yield Fetched(what=f"decoding {name}", done=0, total=total, unit="images")
        for some in rows:
            end = some.start + len(some.labels)
            if end > len(labels[some.split]):
                raise DatasetError(f"{name}: {some.split} has more images than it should")
            file = files[some.split]
            file.seek(starts[some.split] + some.start * some.images[0].nbytes)
            file.write(some.images.tobytes())  # plain writing: a full disk is an exception
            labels[some.split][some.start : end] = some.labels
            done += len(some.labels)
            if done - reported >= STEP or done == total:
                reported = done
                yield Fetched(what=f"decoding {name}", done=done, total=total, unit="images")
    try:
        _check_labels(labels["train"], labels["test"], info)
    except UnsoundError as error:
        raise DatasetError(f"{name} is not the published set: {error}") from error
    for split in SPLITS:
        np.save(aside / f"{split}_labels.npy", labels[split])
    sums = {f"{part}.npy": _flushed_digest(aside / f"{part}.npy") for part in shapes}
    (aside / RECORD).write_text(json.dumps({"sha256": sums}, indent=1) + "\n")


def _images_file(
    aside: Path, split: Split, shapes: Shapes, stack: contextlib.ExitStack
) -> IO[bytes]:
    """Start an ``.npy`` of images: its header, and room for its content."""
    shape = shapes[f"{split}_images"]
    file = stack.enter_context((aside / f"{split}_images.npy").open("wb"))
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.truncate(file.tell() + int(np.prod(shape)))
    return file


def _flushed_digest(path: Path) -> str:
    """Return the SHA-256 of a file that has reached the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shapes(info: DatasetInfo) -> Iterator[tuple[str, tuple[int, ...]]]:
    picture = (info.channels, info.side, info.side)
    for split, count in zip(SPLITS, (info.train_count, info.test_count), strict=True):
        yield f"{split}_images", (count, *picture)
        yield f"{split}_labels", (count,)


def _mapped(path: Path, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    kind = np.dtype(np.uint8 if len(shape) == 4 else np.int64)
    try:
        # Mode "c" is for torch, which warns of arrays that cannot be written.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        size = path.stat().st_size
    except (OSError, ValueError, EOFError) as error:
        raise UnsoundError(f"{path.name} is damaged: {error}") from error
    whole = isinstance(array, np.memmap) and array.offset + array.nbytes == size
    if not whole or array.dtype != kind or array.shape != shape or not array.flags.c_contiguous:
        raise UnsoundError(f"{path.name} is not {kind} {list(shape)}")
    return np.asarray(array)


def _check_labels(
    train: npt.NDArray[np.int64], test: npt.NDArray[np.int64], info: DatasetInfo
) -> None:
    classes = info.classes
    for split, labels in (("train", train), ("test", test)):
        if not ((labels >= 0) & (labels < classes)).all():
            raise UnsoundError(f"labels of {split} are missing, or outside 0 to {classes - 1}")
    counts = tuple(int(count) for count in np.bincount(train, minlength=classes))
    if counts != info.train_counts:
        odd = next(k for k in range(classes) if counts[k] != info.train_counts[k])
        raise UnsoundError(
            f"class {odd} has {counts[odd]} training images, not {info.train_counts[odd]}"
        )
