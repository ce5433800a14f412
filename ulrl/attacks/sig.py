"""SIG: a faint sinusoidal strip over the whole image."""

from dataclasses import dataclass
from math import pi
from typing import ClassVar

import torch
from torch import Generator

from ulrl.attacks._base import register
from ulrl.poison import DIRTY_LABELS, FixedAttack, Images, LabelRule


@register("sig")
@dataclass(frozen=True, kw_only=True)
class SIG(FixedAttack):
    """Sinusoidal-signal backdoor of Barni, Kallas and Tondi (arXiv:1902.11237).

    Adds ``delta * sin(2 pi f j / W)`` to column ``j`` of every row and channel. The paper
    stamps only images of the target class and leaves their labels alone, which is the
    default here too; ``labels: all_to_one`` is a benchmark's variant. Where the sine is 0 in
    the middle of a row, BackdoorBench is one grey level lower: 3 % of the values of 32 pixels.

    Attributes:
        delta: Amplitude, in [0, 1] pixel units. 40/255 is BackdoorBench's default.
        frequency: Periods across the image's width, ``f`` in the paper.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (
        LabelRule.CLEAN_LABEL,
        *DIRTY_LABELS,
    )

    delta: float = 40 / 255
    frequency: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.delta <= 1:
            raise ValueError(f"delta is in [0, 1] pixel units, so 0 < delta <= 1; got {self.delta}")
        if self.frequency < 1:
            raise ValueError(f"frequency is in periods, at least 1; got {self.frequency}")

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        width = images.shape[-1]
        phase = 2 * pi * self.frequency * torch.arange(width, device=images.device) / width
        return (images + self.delta * phase.sin()).clamp(0, 1)
