"""The strength of a cut as several published scripts choose it: by the backdoor in test images."""

from collections.abc import Generator
from dataclasses import dataclass

import torch

from ulrl import evaluation
from ulrl.attacks import Step
from ulrl.methods._base import RepairContext, RepairStage, Tensors
from ulrl.methods._cuts import (
    ORACLE_ACC,
    ORACLE_ASR,
    ORACLE_LEVELS,
    Cut,
    Rule,
    after_cuts,
    scores_of,
)
from ulrl.models import restore


@dataclass(frozen=True, kw_only=True)
class OracleSweep(RepairStage):
    """Measure ASR and ACC on the selection half after a cut at each level. No defender can.

    Attributes:
        levels: Scores from which on parts are cut.
    """

    levels: tuple[float, ...]

    name = "oracle_sweep"
    version = evaluation.VERSION

    @property
    def looks(self) -> int:
        """One for each level, and one at the victim."""
        return 1 + len(self.levels)

    def cost(self, samples: int) -> float:
        """Return 0: nothing is trained, and what it tests is told by `looks`."""
        del samples
        return 0.0

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with ASR and ACC at each level, the victim's first.

        Raises:
            ValueError: There are no triggered images.
        """
        if context.oracle is None:
            raise ValueError("rule oracle chooses by triggered images, and there are none")
        classifier = restore(context.victim, context.device)
        first = context.oracle(classifier)
        levels = sorted(set(self.levels), reverse=True)
        measured = yield from after_cuts(
            scores_of(before), levels, classifier, context.oracle, first
        )
        asr, acc = zip(first, *measured, strict=True)
        return {
            **before,
            ORACLE_LEVELS: torch.tensor(levels, dtype=torch.float64),
            ORACLE_ASR: torch.tensor(asr, dtype=torch.float64),
            ORACLE_ACC: torch.tensor(acc, dtype=torch.float64),
        }


def looks_of(cut: Cut, levels: tuple[float, ...]) -> tuple[RepairStage, ...]:
    """Return the stage that a cut by the rule ``oracle`` needs; none by other rules.

    Args:
        cut: With its rule.
        levels: That the published scripts try.
    """
    return (OracleSweep(levels=levels),) if cut.rule is Rule.ORACLE else ()
