"""Rows of the last layer that unlearning moves out of proportion are cut: ULRL's finder."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ulrl.attacks import Step
from ulrl.layers import bias_name
from ulrl.methods._ascent import Ascents, unlearned
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._cuts import Cut, Edit, Rule, findings, scores_of
from ulrl.methods._options import cut_of
from ulrl.methods._tuning import CuttingMethod, Tune
from ulrl.methods.fine_tuning import FineTuning
from ulrl.scoring import (
    ScoreConfig,
    SuspectRule,
    ZeroMAD,
    modified_z,
    pick_suspects,
    rounded_share,
)
from ulrl.weight_selection import weights_to_reset


@register("head_neurons")
@dataclass(frozen=True, kw_only=True)
class HeadNeurons(CuttingMethod):
    """Unlearn the clean samples, zero the rows of the head that stand out, and fine-tune.

    The first half is ULRL's (arXiv:2405.14781): the same ascent, the same score of a row (the sum
    of its weights' absolute changes) and the same rules. The second is any tuner, where ULRL
    reinitialises a row and keeps it from where it was. Where no row stands out, only the tuner
    works.

    Attributes:
        rule: ``outlier`` cuts the rows whose modified z-score is above `z_threshold`; ``largest`` a
            `share` of all rows, those that moved most. By default the one whose option is given,
            else ``outlier``.
        z_threshold: Modified z-score above which a row is cut, in (0, 1000], by default ULRL's 3.5.
        share: Of the rows, at least half a row and at most 1, by default 0.15.
        max_suspects: Rows at most, those that stand out most; ULRL's 2. ``null`` is no limit.
        weights: Share of each such row's weights that are cut, those that moved most, in [0, 1].
            Above 0 the row's bias is cut with them.
        ascent: Whose ascent it is.
        unlearn_threshold: Accuracy at which the ascent stops, in [0, 1].
        unlearn_lr: Learning rate of the ascent, above 0.
        unlearn_epochs: Of the ascent at most, from 1 to 1000.
        batch_size: Samples per step of the ascent.
        tune: What trains the cut network, by default ``fine_tuning``.
    """

    rule: Rule | None = None
    z_threshold: float | None = None
    share: float | None = None
    max_suspects: int | None = 2
    weights: float = 1.0
    ascent: Ascents = Ascents.ULRL
    unlearn_threshold: float = 0.2
    unlearn_lr: float = 0.01
    unlearn_epochs: int = 20
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.weights <= 1:
            raise ValueError(f"weights is a share, in [0, 1]; got {self.weights}")
        self.stages  # noqa: B018 - for the rules of their fields

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the rule cannot tell so few rows apart."""
        super().check(network, head, classes)
        cut = self._cut
        if cut.rule is Rule.OUTLIER and classes == 2:
            raise ValueError(
                f"{self.name} with rule: outlier cannot answer for 2 classes, of which the larger "
                f"has the same z always; rule: largest with share: 0.5 cuts the larger"
            )
        if cut.rule is Rule.LARGEST and not rounded_share(cut.strength, classes):
            raise ValueError(
                f"{self.name} with share: {cut.strength} of {classes} rows cuts none; it is at "
                f"least half a row"
            )

    @property
    def _cut(self) -> Cut:
        return cut_of(self, {Rule.OUTLIER: ("z_threshold", 3.5), Rule.LARGEST: ("share", 0.15)})

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The ascent, the changes, then the cut and fine-tuning."""
        cut = RowCut(
            rule=self._cut.rule,
            strength=self._cut.strength,
            max_suspects=self.max_suspects,
            weights=self.weights,
        )
        tuner = self.tuner_or(FineTuning().tuner)
        return unlearned(self), FindHeadChanges(), Tune(cut=cut, tuner=tuner)


@dataclass(frozen=True, kw_only=True)
class FindHeadChanges(RepairStage):
    """Score each weight of the head, and each bias, by how far the stage before changed it."""

    name = "head_changes"

    def cost(self, samples: int) -> float:
        """Return 0: it only subtracts."""
        del samples
        return 0.0

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores: ``[classes, fan_in]`` and ``[classes]``."""
        victim = context.victim.state
        weight = f"{context.victim.model_spec.head}.weight"
        names = [name for name in (weight, bias_name(weight)) if name in victim]
        yield Step(1, 1)
        return findings({name: (before[name] - victim[name]).abs() for name in names})


@dataclass(frozen=True, kw_only=True)
class RowCut(Cut):
    """Cut rows of the head by ULRL's rules.

    Attributes:
        max_suspects: Rows at most; None is no limit.
        weights: Share of each row's weights, in [0, 1].
    """

    max_suspects: int | None
    weights: float

    def __post_init__(self) -> None:
        self._config  # noqa: B018 - for its rules

    @property
    def _config(self) -> ScoreConfig:
        option = "z_threshold" if self.rule is Rule.OUTLIER else "suspect_share"
        strength: dict[str, Any] = {option: self.strength}
        return ScoreConfig(
            suspect_rule=SuspectRule(self.rule.value),
            max_suspects=self.max_suspects,
            **strength,
        )

    def choose(self, found: Tensors) -> Edit:
        """Return which entries are cut, by the changes of the head."""
        changes = scores_of(found)
        weight = next(name for name, change in changes.items() if change.ndim == 2)
        shift = changes[weight].sum(dim=1)
        z = modified_z(shift, ZeroMAD.MEAN_DEVIATION)
        rows = list(pick_suspects(self._config, shift, z))
        if not rows or not self.weights:
            return {}
        edit = {name: torch.zeros(c.shape, dtype=torch.bool) for name, c in changes.items()}
        for name, mask in edit.items():
            moved = changes[name][rows]
            mask[rows] = weights_to_reset(moved, self.weights) if name == weight else True
        return {name: mask for name, mask in edit.items() if bool(mask.any())}
