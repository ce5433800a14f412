"""What tests of imported state dicts share."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ulrl.interchange import ImportRefused

State = dict[str, Tensor]


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ImportRefused) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
