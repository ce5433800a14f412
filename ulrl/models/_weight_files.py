"""Files of trained weights that a user has: read without running anything in them."""

import hashlib
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from ulrl.models._base import WeightsError

SUFFIXES = (".safetensors", ".pth", ".pt")


def digest(path: str) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        WeightsError: There is no such file, or it cannot be read.
    """
    rule = f"weights: names a file ({', '.join(SUFFIXES)})"
    if not Path(path).is_file():
        raise WeightsError(f"{path} is not there; {rule}")
    try:
        state = Path(path).stat()
        return _digest(path, (state.st_mtime_ns, state.st_size))
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); {rule}") from error


def read_weights(path: str) -> dict[str, Tensor]:
    """Return the weights of a file by name, as float32 on the CPU.

    The file is read as a victim's is, see `ulrl.interchange.read_state`.

    Raises:
        WeightsError: The file is missing, damaged, or holds something else.
    """
    from ulrl.interchange import ImportRefused, read_state  # it imports this package

    try:
        state = read_state(path)
    except ImportRefused as error:
        raise WeightsError(str(error)) from error
    return {n: v.float() if v.is_floating_point() else v for n, v in state.items()}


@lru_cache(maxsize=64)
def _digest(path: str, stamp: tuple[int, int]) -> str:
    del stamp  # tells two states of a file apart, so that no cached answer is a stale one
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
