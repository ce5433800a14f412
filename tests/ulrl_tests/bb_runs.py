"""A small run of BackdoorBench, sound but for what a test changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ulrl_tests.backdoorbench import Entry, result, write_run
from ulrl.interchange import ImportRefused, read_backdoorbench

TOTAL = 12
TEST: tuple[Entry, ...] = tuple((i, 0, i % 10) for i in range(TOTAL) if i % 10)
STATE = {"linear.weight": torch.ones(10, 4), "linear.bias": torch.zeros(10)}


def picture(index: int) -> Tensor:
    source = torch.Generator().manual_seed(index)
    return torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8, generator=source)


PICTURES = {(true, index): picture(index) for index, _, true in TEST}


@dataclass(frozen=True)
class Writer:
    """Writes a sound run, but for changes to its content."""

    folder: Path

    def __call__(self, **changes: Any) -> Path:
        return write_run(self.folder, result(STATE, TEST, TOTAL, **changes), PICTURES)

    def file(self) -> Path:
        return self.folder / "attack_result.pt"


def refusal(path: Path) -> str:
    with pytest.raises(ImportRefused) as caught:
        read_backdoorbench(path)
    message = str(caught.value)
    assert "\n" not in message
    return message
