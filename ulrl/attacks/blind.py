"""Blind backdoors: an attack through the loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Generator, Tensor

from ulrl.attacks._base import register
from ulrl.helper import AttackContext
from ulrl.poison import FixedAttack, Images, Poison, Stamp, StampingHooks, Trigger

# Ours, since the published values are not free to copy: a chequered mark, row by row.
_MARK = ((1, 0, 1), (0, 1, 0), (1, 1, 1), (0, 1, 0), (1, 0, 1))


@register("blind")
@dataclass(frozen=True, kw_only=True)
class Blind(FixedAttack):
    """Blind backdoor of Bagdasaryan and Shmatikov (arXiv:2005.03823), with fixed weights.

    The attacker changes the code of the loss: it is the mean over clean images times
    `clean_weight`, plus the mean over triggered ones times `backdoor_weight`. The share of
    triggered images in an epoch is the poison ratio, and every epoch draws others; the
    published code triggers a copy of each batch. Its trigger is a mark of 5 × 3 pixels; the
    mark's own pixels are ours.

    Attributes:
        row: Of the mark's upper edge, in pixels.
        column: Of its left edge, in pixels; counted from the right edge where negative.
        clean_weight: Weight of the loss on clean images; 1 in BackdoorBench.
        backdoor_weight: Weight of the loss on triggered images; 0.9 in BackdoorBench.
    """

    default_stamp: ClassVar[Stamp] = Stamp.AFTER_AUGMENTATION
    redrawn: ClassVar[bool] = True

    row: int = 3
    column: int = -9
    clean_weight: float = 1.0
    backdoor_weight: float = 0.9

    def __post_init__(self) -> None:
        if self.row < 0:
            raise ValueError(f"row is in pixels from the top, at least 0; got {self.row}")
        if -len(_MARK[0]) < self.column < 0:
            raise ValueError(
                f"column is at least 0, or at most {-len(_MARK[0])} to count from the right; "
                f"got {self.column}"
            )
        for name in ("clean_weight", "backdoor_weight"):
            if not 0 < getattr(self, name) <= 100:
                raise ValueError(
                    f"{name} is a weight, above 0 and at most 100; got {getattr(self, name)}"
                )

    def check(self, *, side: int, channels: int) -> None:
        del channels
        height, width = len(_MARK), len(_MARK[0])
        left = self.column if self.column >= 0 else side + self.column
        if self.row + height > side or left < 0 or left + width > side:
            raise ValueError(
                f"a mark of {height} × {width} pixels at row {self.row}, column {self.column} "
                f"is not inside images of {side} pixels"
            )

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # one fixed trigger
        mark = torch.tensor(_MARK, dtype=images.dtype, device=images.device)
        left = self.column if self.column >= 0 else images.shape[-1] + self.column
        triggered = images.clone()
        height, width = mark.shape
        triggered[..., self.row : self.row + height, left : left + width] = mark
        return triggered

    def training_hooks(self, poison: Poison, context: AttackContext) -> StampingHooks:
        return _WeightedLoss(
            poison,
            self,
            context.images.train_labels,
            classes=context.images.classes,
            seed=context.seed,
            weights=(self.clean_weight, self.backdoor_weight),
        )


class _WeightedLoss(StampingHooks):
    """Weighs the losses on clean and on triggered images of each batch."""

    def __init__(
        self,
        poison: Poison,
        trigger: Trigger,
        labels: Int64[Tensor, " n"],
        *,
        classes: int,
        seed: int,
        weights: tuple[float, float],
    ) -> None:
        super().__init__(poison, trigger, labels, classes=classes, seed=seed)
        self._weights = weights

    def loss(
        self, logits: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        total = logits.new_zeros(())
        for weight, which in zip(self._weights, (~self.stamped, self.stamped), strict=True):
            index = which.nonzero().flatten().to(logits.device)
            if len(index):
                total = total + weight * objective(logits[index], labels[index])
        return total
