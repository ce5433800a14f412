"""What tests of attacks share: a generator, and what an attacker has at hand."""

from typing import Any

import torch
from torch import Generator

from ulrl.attacks import AttackContext
from ulrl.datasets import ImageSet
from ulrl.models import ModelSpec
from ulrl.supervised import VictimConfig


def source(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def context_of(images: ImageSet, model_spec: ModelSpec, **recipe: Any) -> AttackContext:
    """Return a context on the CPU, of seed 0, in which nothing is learned yet."""
    return AttackContext(
        model_spec=model_spec,
        recipe=VictimConfig(**recipe),
        images=images,
        seed=0,
        device=torch.device("cpu"),
        learned={},
    )
