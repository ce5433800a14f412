"""Stage 3 of 5: rank neurons by how far unlearning moved them, and flag outliers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ulrl.layers import Layers, bias_name, layer_name
from ulrl.messages import at_least
from ulrl.ranges import Proportion
from ulrl.unlearning import Ascent

VERSION = 3

NORMAL_MAD = 1.4826  # MAD × this estimates a normal distribution's standard deviation
NORMAL_MEAN_AD = 1.253314  # so does the mean absolute deviation × this: sqrt(pi / 2)

TARGET: Final = "target"  # the row of the attacker's class, which only a study knows
NamedSuspects: TypeAlias = tuple[int, ...] | Literal["target"] | None


class ThresholdScale(StrEnum):
    """What the unlearn threshold is a fraction of."""

    ABSOLUTE = "absolute"  # the official code: an accuracy, the same for any class count
    ABOVE_CHANCE = "above_chance"  # 0 is the accuracy of chance, 1 / classes, and 1 is 1


class Score(StrEnum):
    """How the change of a neuron's incoming weights becomes one number."""

    L1 = "l1"  # the official code: the sum of absolute changes
    L2 = "l2"  # the Euclidean length of the change
    RELATIVE = "relative"  # the sum of absolute changes over that of absolute weights
    PER_MASS = "per_mass"  # that sum over the share of the predictions at the stop; the head's only


class SuspectRule(StrEnum):
    """What makes a neuron suspicious."""

    OUTLIER = "outlier"  # the official code: its z within its layer is above `z_threshold`
    LARGEST = "largest"  # TSBD: it is among the `suspect_share` with the largest scores of all


class SuspectOrder(StrEnum):
    """Which flagged neurons stay when there are more than the cap admits."""

    SCORE = "score"  # the largest z for ``outlier``, the largest scores for ``largest``
    INDEX = "index"  # the lowest classes: the official code, by oversight


class ZeroMAD(StrEnum):
    """What happens when more than half of the scores are equal."""

    MEAN_DEVIATION = "mean_deviation"  # Iglewicz and Hoaglin's fallback for that case
    INFINITE = "infinite"  # the official code: any row above the median is flagged


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The rule that makes a neuron suspicious.

    Attributes:
        unlearn_threshold: Phase 1 stops after the first epoch whose accuracy on the clean
            samples is at most this; 0.20 in the official code. Below chance (1 / classes) it
            may never be reached, and then the last epoch is scored.
        threshold_scale: What `unlearn_threshold` is a fraction of.
        score: How a neuron's change becomes one number. ``per_mass`` is for `layers` ``head``: the
            sum of a row's absolute changes, over the share of the clean samples that its class
            is predicted for at the stop, or 1 / classes if that is more.
        score_bias: Whether its bias counts as one more weight.
        suspect_rule: What makes a neuron suspicious. Of 2 classes ``outlier`` can flag none
            and is refused.
        z_threshold: For ``outlier``: a suspect's z is above this; 3.5 in the official code.
        suspect_share: For ``largest``: the share of all neurons that is flagged, in [0, 1];
            at least half a neuron.
        max_suspects: At most so many suspects, 2 in the official code; None is no limit (many
            suspects want `cosine_reduction` ``mean``), and 0 makes relearning plain fine-tuning.
        suspect_order: Which suspects stay when there are more. ``index``, as in the official
            code, keeps those of lowest index, which favours a target of low index.
        zero_mad: What to do when the median absolute deviation is 0.
        mad_epsilon: Added to the median absolute deviation.
        suspects: Rows of the head that are reset whatever phase 1 finds, as ``[[0], [3, 5]]``, or
            ``target``: the row of the attacker's class. No defender knows them, so such settings
            are marked †, as ``rule: oracle`` is, and none is a best setting. The rule and the cap
            mean nothing then; null is what phase 1 flags.
    """

    unlearn_threshold: float = 0.20
    threshold_scale: ThresholdScale = ThresholdScale.ABSOLUTE
    score: Score = Score.L1
    score_bias: bool = False
    suspect_rule: SuspectRule = SuspectRule.OUTLIER
    z_threshold: float = 3.5
    suspect_share: float = 0.15
    max_suspects: int | None = 2
    suspect_order: SuspectOrder = SuspectOrder.SCORE
    zero_mad: ZeroMAD = ZeroMAD.MEAN_DEVIATION
    mad_epsilon: float = 0.0
    suspects: NamedSuspects = field(default=None, metadata={"added": True})

    def __post_init__(self) -> None:
        if not 0 <= self.unlearn_threshold <= 1:
            raise ValueError(
                f"unlearn_threshold is an accuracy, in [0, 1]; got {self.unlearn_threshold}"
            )
        if not 0 < self.z_threshold <= 1e6:
            raise ValueError(f"z_threshold is above 0 and at most 1e6; got {self.z_threshold}")
        if not 0 <= self.suspect_share <= 1:
            raise ValueError(
                f"suspect_share is a fraction of the neurons, in [0, 1]; got {self.suspect_share}"
            )
        if self.max_suspects is not None and self.max_suspects < 0:
            raise ValueError(f"max_suspects is at least 0, or null; got {self.max_suspects}")
        if not 0 <= self.mad_epsilon <= 1e6:
            raise ValueError(f"mad_epsilon is in [0, 1e6]; got {self.mad_epsilon}")
        rows = self.suspects
        if isinstance(rows, tuple) and (
            not rows or min(rows) < 0 or list(rows) != sorted(set(rows))
        ):
            raise ValueError(
                f"suspects are rows of the head from 0, in increasing order, at least one; "
                f"got {list(rows)}"
            )

    def stop_at(self, classes: int) -> float:
        """Return the accuracy that `unlearn_threshold` means for so many classes."""
        if self.threshold_scale is ThresholdScale.ABSOLUTE:
            return self.unlearn_threshold
        return (1 + self.unlearn_threshold * (classes - 1)) / classes

    def check(self, classes: int, layers: Layers) -> None:
        """Raise ``ValueError`` where the rule cannot tell the neurons of a head apart.

        Args:
            classes: Rows of the head.
            layers: Which layers are watched; with all of them a head is a small part, and
                there is nothing to check.
        """
        if self.score is Score.PER_MASS and layers is Layers.ALL:
            raise ValueError(
                "score per_mass is of rows of the head, each of which has a class; write another "
                "score with layers: all"
            )
        if self.suspects is not None:
            if self.suspects != TARGET and self.suspects[-1] >= classes:
                raise ValueError(
                    f"suspects are rows of the head, 0 to {classes - 1}; got {list(self.suspects)}"
                )
            return
        if layers is Layers.ALL or self.max_suspects == 0:
            return
        outlier = self.suspect_rule is SuspectRule.OUTLIER
        if outlier and classes == 2 and self.mad_epsilon == 0:
            raise ValueError(
                "suspect_rule outlier cannot answer for 2 classes: the larger of two scores has "
                "the same z whatever they are, 1.596 (infinite with zero_mad: infinite); write "
                "suspect_rule: largest and suspect_share: 0.5 to flag the larger"
            )
        if not outlier and rounded_share(self.suspect_share, classes) == 0:
            raise ValueError(
                f"suspect_share {self.suspect_share} of {classes} neurons is less than half of "
                f"one, so none is ever flagged; from {at_least(Fraction(1, 2 * classes))} on it "
                f"is one (max_suspects: 0 is plain fine-tuning)"
            )

    def certain(self, classes: int, layers: Layers) -> int:
        """Return how many rows of a head are flagged whatever their scores are."""
        if self.suspects is not None:
            return 1 if self.suspects == TARGET else len(self.suspects)
        if layers is Layers.ALL or self.suspect_rule is not SuspectRule.LARGEST:
            return 0
        flagged = rounded_share(self.suspect_share, classes)
        return flagged if self.max_suspects is None else min(flagged, self.max_suspects)


@dataclass(frozen=True, kw_only=True, eq=False)
class NeuronScores:
    """One score per neuron, and the suspects.

    Neurons are numbered through the layers that were watched, the head's last. When only
    the head was, a neuron's number is its row, which is its class.

    Attributes:
        layers: Names of the layers.
        sizes: Neurons of each.
        shift: How far each neuron moved during the ascent, by the chosen score.
        z: Modified z-score of `shift` among the neurons of its layer; NaN where none is
            defined.
        suspects: Flagged neurons in increasing order.
        movement: Absolute change of each incoming weight of each suspect, by the name of the
            weight: ``[suspects of that layer, fan_in]``.
        stop_epoch: Epoch at whose end the weights were read, from 1.
        stop_accuracy: The accuracy that was compared there.
        predicted: How many clean samples each class was predicted for there, in eval mode.
            All 0 where the ascent diverged.
        threshold_reached: Whether it had fallen to the threshold.
        diverged: Whether the ascent left the finite numbers before it reached the threshold.
    """

    layers: tuple[str, ...]
    sizes: tuple[int, ...]
    shift: Float[Tensor, " neurons"]
    z: Float[Tensor, " neurons"]
    suspects: tuple[int, ...]
    movement: Mapping[str, Float[Tensor, "suspects fan_in"]]
    stop_epoch: int
    stop_accuracy: Proportion
    predicted: Int64[Tensor, " classes"]
    threshold_reached: bool
    diverged: bool

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Layer and row of each suspect."""
        found = []
        for suspect in self.suspects:
            row = suspect
            for layer, size in zip(self.layers, self.sizes, strict=True):
                if row < size:
                    found.append((layer, row))
                    break
                row -= size
        return tuple(found)

    @property
    def head_z(self) -> Float[Tensor, " classes"]:
        """The z-scores of the head's rows."""
        return self.z[-self.sizes[-1] :]

    @property
    def collapse_class(self) -> int | None:
        """The class that phase 1 ended in: the one it predicts for most clean samples.

        The lowest of several; None where the ascent diverged. The row of this class moves
        most, or nearly so, whether it is the attacker's target or not.
        """
        return int(self.predicted.argmax()) if bool(self.predicted.any()) else None

    @property
    def collapse_share(self) -> float | None:
        """The share of the clean samples that `collapse_class` was predicted for."""
        total = int(self.predicted.sum())
        return int(self.predicted.max()) / total if total else None

    def rank(self, row: int) -> int | None:
        """Return the place of a row of the head among its rows, 1 being the largest shift.

        Equal shifts share the better place. None where the shift is not a number.
        """
        shifts = self.shift[-self.sizes[-1] :]
        if not bool(shifts.isfinite().all()):
            return None
        return 1 + int((shifts > shifts[row]).sum())


def score_neurons(config: ScoreConfig, ascent: Ascent) -> NeuronScores:
    """Score every watched neuron by what the ascent changed about it, and flag suspects.

    Raises:
        ValueError: The rule cannot tell the neurons of so small a head apart; suspects are named
            that the head does not have, or ``target``, which only a study knows.
    """
    weights = [name for name, values in ascent.before.items() if values.ndim == 2]
    classes = len(ascent.before[weights[-1]])
    config.check(classes, Layers.HEAD if len(weights) == 1 else Layers.ALL)
    stop = config.stop_at(classes)
    epoch = ascent.stop_epoch(stop)
    after = ascent.at(epoch)
    changes = {name: (after[name] - ascent.before[name]).abs() for name in after}
    shifts = [_shift(config, name, changes, ascent.before) for name in weights]
    if config.score is Score.PER_MASS:
        shifts = [shifts[-1] / predicted_mass(ascent.predicted_at(epoch))]
    shift = torch.cat(shifts)
    # Layers differ a hundredfold in how far their weights move, so each is its own scale.
    z = torch.cat([modified_z(part, config.zero_mad, config.mad_epsilon) for part in shifts])
    reached = ascent.reaches(stop)
    diverged = ascent.diverged and not reached
    suspects = () if diverged else _suspects(config, shift, z, classes)
    sizes = [len(changes[name]) for name in weights]
    parts = torch.zeros(len(shift), dtype=torch.bool)
    parts[list(suspects)] = True
    return NeuronScores(
        layers=tuple(layer_name(name) for name in weights),
        sizes=tuple(sizes),
        shift=shift,
        z=z,
        suspects=suspects,
        movement={
            name: changes[name][flagged]
            for name, flagged in zip(weights, torch.split(parts, sizes), strict=True)
            if bool(flagged.any())
        },
        stop_epoch=epoch,
        stop_accuracy=ascent.accuracy[epoch - 1],
        predicted=ascent.predicted_at(epoch),
        threshold_reached=reached,
        diverged=diverged,
    )


def _suspects(config: ScoreConfig, shift: Tensor, z: Tensor, classes: int) -> tuple[int, ...]:
    """Return the neurons that are named, or else those that the rule flags."""
    if config.suspects is None:
        return pick_suspects(config, shift, z)
    if config.suspects == TARGET:
        raise ValueError("suspects target is for studies, which know the target; name the rows")
    return tuple(len(shift) - classes + row for row in config.suspects)


def _shift(
    config: ScoreConfig, weight: str, changes: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> Float[Tensor, " rows"]:
    change, start = changes[weight], before[weight].abs()
    bias = bias_name(weight)
    if config.score_bias and bias in changes:
        change = torch.cat([change, changes[bias][:, None]], dim=1)
        start = torch.cat([start, before[bias].abs()[:, None]], dim=1)
    if config.score is Score.L2:
        return change.square().sum(dim=1).sqrt()
    total = change.sum(dim=1)
    return total / start.sum(dim=1) if config.score is Score.RELATIVE else total


def predicted_mass(predicted: Int64[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Return the share of the samples that each class is predicted for, at least 1 / classes.

    Without a least value a class that nothing is predicted for would have an infinite score.
    """
    total = max(1, int(predicted.sum()))
    return (predicted / total).clamp(min=1 / len(predicted))


def modified_z(
    shift: Float[Tensor, " neurons"], zero_mad: ZeroMAD, epsilon: float = 0.0
) -> Float[Tensor, " neurons"]:
    """Return ``|c - m| / (1.4826 MAD)`` with the sign of ``c - m`` (Iglewicz, Hoaglin 1993).

    Both medians are torch's: the lower middle of an even count. `epsilon` is added to the
    MAD. If it is 0 even so, with ``mean_deviation`` the mean absolute deviation times
    1.253314 takes its place; if that is 0 too, nothing stands out and every score is 0.
    """
    deviation = shift - shift.median()
    mad = deviation.abs().median() + epsilon
    if mad == 0 and zero_mad is ZeroMAD.MEAN_DEVIATION:
        spread = NORMAL_MEAN_AD * deviation.abs().mean()
        return deviation / spread if spread > 0 else torch.zeros_like(deviation)
    return deviation / (NORMAL_MAD * mad)


def pick_suspects(
    config: ScoreConfig, shift: Float[Tensor, " neurons"], z: Float[Tensor, " neurons"]
) -> tuple[int, ...]:
    """Return the flagged neurons that the cap leaves, in increasing order.

    An ``outlier`` has a z above the limit; the largest z come first, equal ones (infinite)
    by their shifts. The ``largest`` are the round-half-up(share × neurons) with the largest
    shifts of all layers. NaN is never flagged. Equal scores keep the order of the neurons.
    """
    ranked = shift.sort(descending=True, stable=True).indices
    if config.suspect_rule is SuspectRule.OUTLIER:
        ranked = ranked[z[ranked] > config.z_threshold]
        ranked = ranked[z[ranked].sort(descending=True, stable=True).indices]
    else:
        ranked = ranked[~shift[ranked].isnan()]
        ranked = ranked[: rounded_share(config.suspect_share, len(shift))]
    if config.suspect_order is SuspectOrder.INDEX:
        ranked = ranked.sort().values
    return tuple(sorted(ranked[: config.max_suspects].tolist()))


def rounded_share(share: float, total: int) -> int:
    """Return `share` of `total`, halves rounded up, in exact decimal arithmetic."""
    return int((Decimal(str(share)) * total).quantize(Decimal(1), rounding=ROUND_HALF_UP))
