"""Files of ``torch.save``, read without running anything that stands in them.

torch's own reader of tensors and plain values does the work. BackdoorBench's files also
hold NumPy arrays and numbers; the names that NumPy gives their parts are read as the
stand-ins below, which check every byte, so that not even NumPy's own code follows the
file's orders (its dtype would let a file declare integers to be pointers). Another stand-in
drops the settings that training scripts save beside the weights.
"""

import re
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.serialization import (
    add_safe_globals,
    clear_safe_globals,
    get_safe_globals,
    safe_globals,
)

from ulrl.interchange._refusal import ImportRefused, reason_of, shown

# NumPy's names of plain numbers; integers are of 32 bits where NumPy 1 ran on Windows.
KINDS = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
PLAIN = "plain integers, floats or booleans"
# NumPy's state of a plain dtype: little-endian, or of a single byte.
NATIVE = tuple((3, order, None, None, None, -1, -1, 0) for order in "<|")
DROPPED = "argparse.Namespace"
_LOCK = threading.Lock()


class _Unfit(ValueError):  # noqa: N818 - its text is the middle of a sentence
    """A part of the file is no plain array or number of NumPy."""


class _Kind:
    """Stands for ``numpy.dtype``: a plain number, little-endian."""

    code = ""

    def __init__(self, code: object = None, *_flags: object) -> None:
        if not isinstance(code, str) or code not in KINDS:
            raise _Unfit(f"a NumPy dtype {shown(code)}")
        self.code = code

    def __setstate__(self, state: object) -> None:
        if state not in NATIVE:
            raise _Unfit(f"a NumPy dtype with the state {shown(state)}")

    @property
    def size(self) -> int:
        """Bytes of a number."""
        return int(self.code[1:])

    def read(self, data: bytes) -> list[int | float]:
        numbers: list[int | float] = np.frombuffer(data, f"<{self.code}").tolist()
        return numbers


class PlainArray:
    """Stands for ``numpy.ndarray``: one axis of plain numbers.

    Attributes:
        numbers: The content; None in an array that the file left unfilled.
    """

    numbers: list[int | float] | None = None

    def __init__(self, *arguments: object) -> None:
        if arguments:
            raise _Unfit("a NumPy array that is made from a buffer")

    def __setstate__(self, state: object) -> None:
        match state:
            case (1, (int(length),), _Kind() as kind, False, bytes(data)) if (
                kind.code and len(data) == kind.size * length
            ):
                self.numbers = kind.read(data)
            case _:
                raise _Unfit("a NumPy array of more or less than one axis of numbers")


def _array(kind: object = None, shape: object = None, code: object = None) -> PlainArray:
    """Stand for NumPy's ``_reconstruct``, which pickles call before they fill an array."""
    if kind is not PlainArray or shape != (0,) or code != b"b":
        raise _Unfit("a NumPy array of an unusual kind")
    return PlainArray()


def _number(kind: object = None, data: object = None) -> int | float:
    """Stand for NumPy's ``scalar``."""
    if not isinstance(kind, _Kind) or not kind.code or not isinstance(data, bytes):
        raise _Unfit("a NumPy number of an unusual kind")
    if len(data) != kind.size:
        raise _Unfit("a NumPy number of another size than it says")
    return kind.read(data)[0]


class _Dropped:
    """Stands for ``argparse.Namespace``, the settings of a training script: not read."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


Names = list[Callable[..., Any] | tuple[Callable[..., Any], str]]

# NumPy 2 has moved two of its names; files that NumPy 1 wrote have the old ones.
STAND_INS: Names = [
    (_array, "numpy.core.multiarray._reconstruct"),
    (_array, "numpy._core.multiarray._reconstruct"),
    (_number, "numpy.core.multiarray.scalar"),
    (_number, "numpy._core.multiarray.scalar"),
    (PlainArray, "numpy.ndarray"),
    (_Kind, "numpy.dtype"),
    (_Dropped, DROPPED),
]


def read_torch(path: Path) -> object:
    """Return what a file of ``torch.save`` holds: tensors, plain values, `PlainArray`.

    Raises:
        ImportRefused: It cannot be read, or asks for anything else; nothing was executed.
    """
    if program := _program_in(path):
        raise ImportRefused(
            f"{path} is {program}, not weights alone; load it where it was made and save "
            f"model.state_dict()"
        )
    try:
        with _LOCK, _nothing_but(STAND_INS), warnings.catch_warnings(action="ignore"):
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


def _program_in(path: Path) -> str:
    """Return which kind of exported program a file is, or nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2] for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return ""
    if "constants.pkl" in inner:
        return "a TorchScript archive"
    return "a torch.export archive" if "archive_format" in inner else ""


def _explained(path: Path, error: Exception) -> str:
    if named := re.search(r"GLOBAL (\S+)", str(error)):
        if named[1].startswith("PIL."):
            return (
                f"{path} holds pictures, as version 1 of BackdoorBench saved them, and only files "
                f"of plain values are read; save the state dict as model.pt and the triggered "
                f"images as triggered.npz (docs/interchange.md has the lines for it)"
            )
        return (
            f"{path} asks for {shown(named[1])}, which was not run: a file from outside holds "
            f"tensors, plain values and NumPy numbers only; save the state dict alone"
        )
    if isinstance(error, _Unfit):
        return f"{path} holds {error}, not {PLAIN}; save the state dict alone"
    if isinstance(error, FileNotFoundError):
        return f"{path} is not there; check the path"
    # Of torch's text the first line; advice follows, some of it to allow what was refused.
    before, _, after = (part.strip() for part in str(error).partition("WeightsUnpickler error: "))
    first = [reason_of(part.partition("\n")[0]) for part in (after, before)]
    reason = first[0] or f"{type(error).__name__}: {first[1]}"
    return (
        f"{path} cannot be read as a file of torch.save ({reason}); it is damaged or of another "
        f"format: fetch it again, or save the state dict alone"
    )
