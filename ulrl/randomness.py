"""Named random generators: every use of chance has its own, derived from one seed."""

import hashlib
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
    """
    text = "\x1f".join((str(int(seed)), *purpose))
    digest = hashlib.sha256(text.encode()).digest()
    # torch keeps 64 bits of a seed; the top bit is left out because it reads signed ones.
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def seeded_default(source: Generator) -> Iterator[None]:
    """Let code that draws from torch's default generator draw from `source` instead.

    Layers initialise themselves from the default generator and take no other.
    """
    with spared_default():
        torch.default_generator.set_state(source.get_state())
        yield


@contextmanager
def default_draws(source: Generator, device: torch.device) -> Iterator[None]:
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
def spared_default() -> Iterator[None]:
    """Put the state of torch's default generator back on leaving, so nothing notices.

    One thread at a time: another that builds a network meanwhile would draw from it too.
    """
    with _DEFAULT, torch.random.fork_rng(devices=[]):
        yield
