"""What attacks with networks of their own share: drawing, keeping and running them."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ulrl.randomness import generator, preserved_default_rng, seeded_default_rng

CHUNK = 32  # images at once: little to fill up where few come
Network = TypeVar("Network", bound=nn.Module)


def drawn(build: Callable[[], Network], seed: int, *purpose: str) -> Network:
    """Return a new network whose weights depend on `seed` and `purpose` alone."""
    with seeded_default_rng(generator(seed, *purpose)):
        return build()


def kept(network: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a copy of a network's state on the CPU, each name behind `prefix`."""
    return {
        f"{prefix}/{name}": value.detach().to("cpu", copy=True).contiguous()
        for name, value in network.state_dict().items()
    }


def restored(
    build: Callable[[], Network], learned: Mapping[str, Tensor], prefix: str, device: torch.device
) -> Network:
    """Return the network that `kept` kept, in eval mode and without gradients."""
    with preserved_default_rng():
        network = build()
    start = f"{prefix}/"
    state = {n.removeprefix(start): v for n, v in learned.items() if n.startswith(start)}
    network.load_state_dict(state)
    return network.to(device).eval().requires_grad_(False)  # noqa: FBT003 - torch's way


@torch.no_grad()
def in_chunks(
    function: Callable[[Tensor], Tensor], images: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """Return `function` of images, some at a time and always as many.

    The last portion is filled up: the bits of a convolution may depend on how many images
    come at once, and an image alone shall get the trigger that it gets in a batch.
    """
    parts = []
    for part in torch.split(images, CHUNK):
        filled = torch.cat([part, part[:1].expand(CHUNK - len(part), -1, -1, -1)])
        parts.append(function(filled)[: len(part)])
    return torch.cat(parts) if parts else images.clone()
