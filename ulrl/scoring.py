"""Stage 3 of 5: rank the head's rows by how far unlearning moved them."""

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ulrl.unlearning import Ascent

VERSION = 1

NORMAL_MAD = 1.4826  # MAD × this estimates a normal distribution's standard deviation
NORMAL_MEAN_AD = 1.253314  # so does the mean absolute deviation × this: sqrt(pi / 2)


class SuspectOrder(StrEnum):
    """Which flagged rows stay when there are more than the cap admits."""

    SCORE = "score"  # the largest scores
    INDEX = "index"  # the lowest classes: the official code, by oversight


class ZeroMAD(StrEnum):
    """What happens when more than half of the scores are equal."""

    MEAN_DEVIATION = "mean_deviation"  # Iglewicz and Hoaglin's fallback for that case
    INFINITE = "infinite"  # the official code: any row above the median is flagged


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The rule that makes a neuron suspicious.

    Attributes:
        unlearn_threshold: Phase 1 stops after the first epoch whose running accuracy on
            the clean samples is at most this; 0.20 in the official code.
        z_threshold: A suspect's modified z-score is above this; 3.5 in the official code.
        max_suspects: At most so many suspects; 2 in the official code.
        suspect_order: Which suspects stay when there are more.
        zero_mad: What to do when the median absolute deviation is 0.
    """

    unlearn_threshold: float = 0.20
    z_threshold: float = 3.5
    max_suspects: int = 2
    suspect_order: SuspectOrder = SuspectOrder.SCORE
    zero_mad: ZeroMAD = ZeroMAD.MEAN_DEVIATION

    def __post_init__(self) -> None:
        if not 0 <= self.unlearn_threshold <= 1:
            raise ValueError(
                f"unlearn_threshold is an accuracy, in [0, 1]; got {self.unlearn_threshold}"
            )
        if not 0 < self.z_threshold <= 1e6:
            raise ValueError(f"z_threshold is above 0 and at most 1e6; got {self.z_threshold}")
        if self.max_suspects < 0:
            raise ValueError(f"max_suspects is at least 0; got {self.max_suspects}")


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronScores:
    """One score per neuron, and the suspects.

    Attributes:
        shift: L1 change of each row's incoming weights during the ascent.
        z: Modified z-score of `shift`; NaN where none is defined.
        suspects: Flagged rows in increasing order.
        movement: Absolute change of each incoming weight of each suspect.
        stop_epoch: Epoch at whose end the rows were read, from 1.
        threshold_reached: Whether the accuracy had fallen to the threshold there.
        diverged: Whether the ascent left the finite numbers before it reached the threshold.
    """

    shift: Float[Tensor, " classes"]
    z: Float[Tensor, " classes"]
    suspects: tuple[int, ...]
    movement: Float[Tensor, "suspects fan_in"]
    stop_epoch: int
    threshold_reached: bool
    diverged: bool


def score_neurons(config: ScoreConfig, ascent: Ascent) -> NeuronScores:
    """Score each row by the L1 change of its weights (bias left out), and flag outliers."""
    epoch = ascent.stop_epoch(config.unlearn_threshold)
    after = ascent.heads[ascent.kept.index(epoch)]
    movement = (after - ascent.before).abs()
    shift = movement.sum(dim=1)
    z = modified_z(shift, config.zero_mad)
    suspects = pick_suspects(config, shift, z)
    reached = ascent.reaches(config.unlearn_threshold)
    return NeuronScores(
        shift=shift,
        z=z,
        suspects=suspects,
        movement=movement[list(suspects)],
        stop_epoch=epoch,
        threshold_reached=reached,
        diverged=ascent.diverged and not reached,
    )


def modified_z(shift: Float[Tensor, " classes"], zero_mad: ZeroMAD) -> Float[Tensor, " classes"]:
    """Return ``|c - m| / (1.4826 MAD)`` with the sign of ``c - m`` (Iglewicz, Hoaglin 1993).

    Both medians are torch's: the lower middle of an even count. With MAD 0 and
    ``mean_deviation``, the mean absolute deviation times 1.253314 takes its place; if that
    is 0 too, nothing stands out and every score is 0.
    """
    deviation = shift - shift.median()
    mad = deviation.abs().median()
    if mad == 0 and zero_mad is ZeroMAD.MEAN_DEVIATION:
        spread = NORMAL_MEAN_AD * deviation.abs().mean()
        return deviation / spread if spread > 0 else torch.zeros_like(deviation)
    return deviation / (NORMAL_MAD * mad)


def pick_suspects(
    config: ScoreConfig, shift: Float[Tensor, " classes"], z: Float[Tensor, " classes"]
) -> tuple[int, ...]:
    """Return the flagged rows that the cap leaves, in increasing order.

    A row is flagged if its z is above the limit and its shift above the median. NaN is
    never flagged. Equal scores keep the order of the rows.
    """
    flagged = ((z > config.z_threshold) & (shift > shift.median())).nonzero().flatten()
    if config.suspect_order is SuspectOrder.SCORE:
        flagged = flagged[z[flagged].sort(descending=True, stable=True).indices]
    return tuple(sorted(flagged[: config.max_suspects].tolist()))


def weights_to_reset(
    movement: Float[Tensor, "suspects fan_in"], ratio: float
) -> Bool[Tensor, "suspects fan_in"]:
    """Mark the `ratio` of each suspect's incoming weights that moved most.

    That is the round-half-up(ratio × fan-in) largest movements of the row, ties by index.
    """
    fan_in = movement.shape[1]
    exact = Decimal(str(ratio)) * fan_in
    count = int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    order = movement.sort(dim=1, descending=True, stable=True).indices
    chosen = torch.zeros(movement.shape, dtype=torch.bool)
    return chosen.scatter(1, order[:, :count], value=True)
