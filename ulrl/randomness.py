"""Named random generators: every use of chance has its own, derived from one seed."""

import hashlib
import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Generator

_DEFAULT = threading.RLock()


def generator(seed: int, *purpose: str) -> Generator:
    """Return a CPU generator that depends on `seed` and `purpose` alone.

    Separate names give independent streams, so a new consumer of randomness moves none
    of the others, and a result does not depend on what ran before it. Draws are made on
    the CPU whatever device computes, so that a CPU and a GPU see the same samples.

    Raises:
        ValueError: The seed is negative.
    """
    text = "\x1f".join((str(checked_seed(seed)), *purpose))
    digest = hashlib.sha256(text.encode()).digest()
    # torch takes 64 bits, the top one a sign, but its CPU generator keeps the low 32: two
    # names share a stream with a probability of 2^-32.
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def checked_seed(seed: int) -> int:
    """Return `seed` as a plain integer.

    Python's ``Random`` takes -1 for 1, and a fraction would be cut off: either way two seeds
    would give one result.

    Raises:
        ValueError: It is not an integer of at least 0.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"a seed is an integer of at least 0; got {seed!r}")
    return number


@contextmanager
def seeded_default_rng(source: Generator) -> Iterator[None]:
    """Let code that draws from torch's default generator draw from `source` instead.

    Layers initialise themselves from the default generator and take no other.
    """
    with preserved_default_rng():
        torch.default_generator.set_state(source.get_state())
        yield


@contextmanager
def seeded_layer_rng(source: Generator, device: torch.device) -> Iterator[None]:
    """Let layers that draw as they run (dropout) draw what `source` decides, on `device` too.

    Layers know no generator but torch's defaults; those are put back on leaving.
    """
    seed = int(torch.randint(2**62, (), generator=source))
    with _DEFAULT, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


@contextmanager
def preserved_default_rng() -> Iterator[None]:
    """Put the state of torch's default generator back on leaving, so nothing notices.

    One thread at a time: another thread that builds a network would draw from it too.
    """
    with _DEFAULT, torch.random.fork_rng(devices=[]):
        yield
