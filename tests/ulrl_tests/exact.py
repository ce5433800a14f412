"""Arithmetic whose results are the same on every kind of CPU, for tests of an effect.

Each kind rounds otherwise, and a hundred steps of training make of a difference of 1e-7 another
network. Of one of 1e-16 they make none that counts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.naive import in_double
from ulrl.models import Weights


@contextmanager
def exactly() -> Iterator[None]:
    """Compute in double precision throughout: losses, too, which the library takes in float32."""
    with pytest.MonkeyPatch.context() as patch, in_double():
        patch.setattr(Tensor, "float", Tensor.double)
        yield


def in_single(weights: Weights) -> Weights:
    """Return what was trained in double precision as the library has it."""
    state = {
        name: value.to(torch.float32) if value.is_floating_point() else value
        for name, value in weights.state.items()
    }
    return replace(weights, state=state)
