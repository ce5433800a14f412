"""Which trials will probably share a relearning, as long as phase 1 has not said so."""

from collections.abc import Hashable
from dataclasses import replace

from orchestrator.plan import Trial
from ulrl.resetting import Suspects

NOBODY = Suspects(layers=(), reset_bias=False)


def likely_relearning(trial: Trial) -> Hashable:
    """Return what a trial's relearning hangs on if every threshold flags the same neurons.

    An ascent passes its thresholds within few epochs, mostly with the same neurons ahead.
    Which of their weights moved most does change on its way, so settings that differ by the
    threshold are taken to agree where the ratio marks all weights or none.
    """
    parts = trial.hyperparameters
    place = (trial.scenario.number, trial.defence_seed, parts.clean)
    if parts.score.max_suspects == 0:
        return (*place, parts.relearn.felt(NOBODY))
    score = parts.score
    if parts.reset.reinit_ratio in (0, 1):
        score = replace(score, unlearn_threshold=0)
    return (*place, parts.unlearn, score, parts.reset, parts.relearn)
