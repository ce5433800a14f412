"""Files of trained weights that a user has: read without running anything in them."""

import hashlib
import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from struct import error as StructError  # noqa: N812 - as the exceptions beside it are called
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ulrl.models._base import WeightsError

SUFFIXES = (".safetensors", ".pth", ".pt")
WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights
DAMAGE = (
    *(OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(MemoryError, AssertionError, StructError, UnpicklingError, SafetensorError),
)


def digest(path: str) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        WeightsError: There is no such file, or it cannot be read.
    """
    try:
        state = Path(path).stat()
        return _digest(path, (state.st_mtime_ns, state.st_size))
    except OSError as error:
        raise _unreadable(path, error) from error


def read_weights(path: str) -> dict[str, Tensor]:
    """Return the weights of a file by name, as float32 on the CPU.

    A ``.pth`` or ``.pt`` file holds a state dict, or one under ``state_dict`` or ``model``.
    It is unpickled with nothing allowed but tensors and plain containers.

    Raises:
        WeightsError: The file is missing, damaged, or holds something else.
    """
    try:
        content = _content(path)
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path} holds no weights by name; it should be a state dict")
    return {str(name): _checked(path, str(name), value) for name, value in content.items()}


def _content(path: str) -> Any:
    if path.endswith(".safetensors"):
        return load_file(path)
    with Path(path).open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on files that are refused or load anyway
        return torch.load(file, map_location="cpu", weights_only=True)


def _checked(path: str, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.layout is not torch.strided:
        raise WeightsError(f"{path}: {name} is {type(value).__name__}, not a dense tensor")
    if value.is_quantized or value.is_complex():
        raise WeightsError(f"{path}: {name} is {value.dtype}; ULRL needs plain numbers")
    if not value.is_floating_point():
        return value  # a counter
    if not bool(value.isfinite().all()):
        raise WeightsError(f"{path}: {name} has numbers that are not finite")
    return value.float()


@lru_cache(maxsize=64)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    del stamp  # tells two states of a file apart, so that no cached answer is a stale one
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: str, error: BaseException) -> WeightsError:
    if not Path(path).is_file():
        return WeightsError(f"{path} is not there; weights: names a file ({', '.join(SUFFIXES)})")
    # torch's reasons are pages of advice, among them to allow what the file wants to run.
    kind = "plain tensors" if isinstance(error, UnpicklingError) else "weights"
    return WeightsError(f"{path} cannot be read as a file of {kind} ({type(error).__name__})")
