"""Chance that belongs to an image, not to its place in a batch."""

import hashlib

import torch
from torch import Generator, Tensor


def image_generators(images: Tensor, generator: Generator) -> list[Generator]:
    """Return a generator for each image, that depends on its pixels and on `generator` alone.

    So a random trigger is the same whether an image comes alone, in a batch, or in another
    order. One number is drawn from `generator`, whatever the count of images. torch's CPU
    generator keeps 32 bits of a seed, so of 60,000 images about one pair in every second set
    shares its draws.

    Args:
        images: In [0, 1], shape ``n c h w``; distinguished by their grey levels of 1/255.
        generator: Of the CPU.
    """
    salt = int(torch.randint(2**62, (), generator=generator)).to_bytes(8, "little")
    levels = (images.detach() * 255).round().to(torch.uint8).cpu().contiguous().numpy()
    digests = (hashlib.blake2b(image.tobytes(), digest_size=8, salt=salt) for image in levels)
    return [Generator().manual_seed(int.from_bytes(d.digest(), "little") >> 1) for d in digests]
