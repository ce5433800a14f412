"""Files of ``torch.save``, read without running anything that stands in them.

torch's own reader of tensors and plain values does the work. BackdoorBench's files also
hold NumPy arrays and numbers; the names that NumPy gives their parts are read as the
stand-ins below, which check every byte, so that not even NumPy's own code follows the
file's orders (its dtype would let a file declare integers to be pointers).
"""

import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    safe_globals,
)

from ulrl.interchange._refusal import ImportRefused, shown, told

NATIVE = (3, "<", None, None, None, -1, -1, 0)  # NumPy's state of a plain little-endian dtype
_LOCK = threading.Lock()


class _Unfit(ValueError):  # noqa: N818 - its text is the middle of a sentence
    """A part of the file is no plain array or number of int64 or float64."""


class _Kind:
    """Stands for ``numpy.dtype``: int64 or float64, little-endian."""

    codes: ClassVar[tuple[str, ...]] = ("i8", "f8")
    code = ""

    def __init__(self, code: object = None, *_flags: object) -> None:
        if not isinstance(code, str) or code not in self.codes:
            raise _Unfit(f"a NumPy dtype {shown(code)}")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if state != NATIVE:
            raise _Unfit(f"a NumPy dtype with the state {shown(state)}")

    def read(self, data: bytes) -> list[int | float]:
        numbers: list[int | float] = np.frombuffer(data, f"<{self.code}").tolist()
        return numbers


class PlainArray:
    """Stands for ``numpy.ndarray``: one axis of int64 or float64.

    Attributes:
        numbers: The content; None in an array that the file left unfilled.
    """

    numbers: list[int | float] | None = None

    def __init__(self, *arguments: object) -> None:
        if arguments:
            raise _Unfit("a NumPy array that is made from a buffer")

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, (int(length),), _Kind(code="i8" | "f8") as kind, False, bytes(data)) if (
                len(data) == 8 * length
            ):
                self.numbers = kind.read(data)
            case _:
                raise _Unfit("a NumPy array of other than one axis of int64 or float64")


def _array(kind: object = None, shape: object = None, code: object = None) -> PlainArray:
    """Stand for NumPy's ``_reconstruct``, which pickles call before they fill an array."""
    if kind is not PlainArray or shape != (0,) or code != b"b":
        raise _Unfit("a NumPy array of an unusual kind")
    return PlainArray()


def _number(kind: object = None, data: object = None) -> int | float:
    """Stand for NumPy's ``scalar``."""
    if not isinstance(kind, _Kind) or not isinstance(data, bytes) or len(data) != 8:
        raise _Unfit("a NumPy number of other than int64 or float64")
    return kind.read(data)[0]


Names = list[Callable[..., Any] | tuple[Callable[..., Any], str]]

# NumPy 2 has moved two of them; files that NumPy 1 wrote have them under the old name.
NUMPY_NAMES: Names = [
    (_array, "numpy.core.multiarray._reconstruct"),
    (_array, "numpy._core.multiarray._reconstruct"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (PlainArray, "numpy.ndarray"),
    (_Kind, "numpy.dtype"),
]


def read_torch(path: Path) -> object:
    """Return what a file of ``torch.save`` holds: tensors, plain values, `PlainArray`.

    Raises:
        ImportRefused: It cannot be read, or asks for anything else; nothing was executed.
    """
    try:
        with _LOCK, _nothing_but(NUMPY_NAMES), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything
        raise ImportRefused(_explained(path, error)) from error


@contextmanager
def _nothing_but(names: Names) -> Iterator[None]:
    """Let torch's reader resolve `names` only, whatever other libraries have allowed it."""
    others = get_safe_globals()
    clear_safe_globals()
    try:
        with safe_globals(names):
            yield
    finally:
        add_safe_globals(others)


def _explained(path: Path, error: Exception) -> str:
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"{path} asks for {shown(named[1])}, which was not run: a file from outside holds "
            f"tensors, plain values and NumPy numbers only; save the state dict alone"
        )
    if isinstance(error, _Unfit):
        return f"{path} holds {error}, not plain int64 or float64; save the state dict alone"
    if isinstance(error, FileNotFoundError):
        return f"{path} is not there; check the path"
    before, _, after = str(error).partition("WeightsUnpickler error: ")
    reason = told(after) or f"{type(error).__name__}: {told(before)}"
    return (
        f"{path} cannot be read as a file of torch.save ({reason}); it is damaged or of another "
        f"format: fetch it again, or save the state dict alone"
    )
