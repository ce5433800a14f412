"""What a worker needs of a GPU's memory: an estimate, for studies that do not say a share."""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ulrl.models import Architecture
from ulrl.replay import SPARE

CONTEXT = 600_000_000  # bytes that CUDA and its libraries take in a process
STATES = 5  # a model's weights, gradients, momentum, and two copies: the victim's, the result's
KINDS_OF_SLACK = 1.5  # gradients of activations, workspaces, fragments
MOST_PER_GPU = 8  # workers on one GPU: with more, each only waits for the others
USABLE = 0.9  # of a GPU's memory


def worker_bytes(
    architecture: Architecture,
    *,
    classes: int,
    channels: int,
    side: int,
    images: int,
    batch: int,
) -> float:
    """Return the bytes of GPU memory that a worker of this architecture is taken to need.

    ``context + spare + 4 states parameters + 1.5 batch kept + 2 images channels side²``, where
    `spare` is what torch keeps besides a recorded step's memory, `kept` what autograd keeps of one
    image for the backward pass (counted, in 32 bits, on a network without storage), and the
    set's `images` lie there as bytes, once clean and once poisoned.
    """
    parameters, kept = _network(architecture, classes, channels, side)
    pixels = 2 * images * channels * side**2
    return CONTEXT + SPARE + 4 * STATES * parameters + KINDS_OF_SLACK * batch * kept + pixels


def share_of(need: float, memory: float) -> float:
    """Return the share of a GPU with so much memory: 1, 1/2 and so on to 1/8.

    Rounded down to four digits, which is what Ray counts in: three thirds fit on one GPU.
    """
    count = max(1, min(MOST_PER_GPU, int(USABLE * memory / need)))
    return int(10_000 / count) / 10_000


@lru_cache
def _network(
    architecture: Architecture, classes: int, channels: int, side: int
) -> tuple[int, float]:
    """Return a network's parameters, and the bytes that autograd keeps of one image."""
    batch = 2  # of one image, BatchNorm cannot be trained
    with torch.device("meta"):
        network = architecture.build(classes=classes, channels=channels, side=side).train()
        images = torch.empty(batch, channels, side, side)
    own = set(map(_storage, network.parameters()))
    kept: dict[int, Tensor] = {}  # the tensors stay alive, so that their storages do

    def keep(tensor: Tensor) -> Any:
        if _storage(tensor) not in own:
            kept[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images)
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return sum(p.numel() for p in network.parameters()), size / batch


def _storage(tensor: Tensor) -> int:
    """Return what tensors that share memory have in common, also where there is none."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]  # noqa: SLF001
