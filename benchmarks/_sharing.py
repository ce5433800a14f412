"""What sharing spares, counted from what phase 1 found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.plan.plan import Trial
from orchestrator.store.lookup import ScoreResult, StageResults
from ulrl.weight_selection import select_weights

SURFACE = (  # 300 settings
    "grid.unlearn_threshold=[0.5, 0.4, 0.3, 0.2, 0.1]",
    "grid.reinit_ratio=[0.0, 0.25, 0.5, 0.75, 1.0]",
    "grid.alpha=[0.1, 0.4, 0.7, 1.0]",
    "grid.defence_seed=[0, 1, 2]",
)


@dataclass(frozen=True, kw_only=True)
class Count:
    """Work of phase 1 and phase 2.

    Attributes:
        ascents: Ascents.
        ascent: Epochs of all of them.
        relearnings: Relearnings, each followed by an evaluation.
        relearn: Epochs of all of them.
    """

    ascents: int
    ascent: int
    relearnings: int
    relearn: int

    @property
    def epochs(self) -> int:
        """Epochs of both phases."""
        return self.ascent + self.relearn


def scored(findings: StageResults, trials: Iterable[Trial]) -> list[ScoreResult]:
    """Return what phase 1 of each trial found.

    Raises:
        RuntimeError: One of them has not been done.
    """
    found = []
    for trial in trials:
        finding = findings.scores(trial)
        if finding is None:
            raise RuntimeError(f"{trial.name} has no scores")
        found.append(finding)
    return found


def distinct_relearnings(trials: Sequence[Trial], found: Sequence[ScoreResult]) -> int:
    """Return how many relearnings of one victim differ, by what they are.

    Not by the store's keys, which this is to check: a relearning is told by the defence seed,
    the suspects with their marked weights and whether their bias is reset, and by alpha where
    anything is suspected at all.
    """
    differ = set()
    for trial, finding in zip(trials, found, strict=True):
        suspects = select_weights(trial.hyperparameters.reset, finding.scores)
        marks = tuple(
            (layer.weight, layer.rows, tuple(layer.reset.flatten().tolist()))
            for layer in suspects.layers
        )
        alpha = trial.hyperparameters.relearn.alpha if marks else None
        differ.add((trial.defence_seed, marks, suspects.reset_bias, alpha))
    return len(differ)
