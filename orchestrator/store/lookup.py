"""What the store knows of a study, in the terms of decisions and results."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar
from warnings import catch_warnings, simplefilter

from torch import Tensor

from orchestrator.errors import StudyError
from orchestrator.plan.jobs import Job, JobKind, StageRun
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.spec.model import Objective, OwnObjective
from orchestrator.store.keys import CacheKeys
from orchestrator.store.schema import narrowed
from orchestrator.store.serialization import (
    ASCENT,
    EVALUATION,
    HELPER,
    RELEARNING,
    REPAIRED,
    SCORES,
    VICTIM,
    Stage,
    Stored,
)
from orchestrator.store.store import Store
from ulrl.attacks import Helper
from ulrl.edits import Edits
from ulrl.evaluation import Evaluation
from ulrl.metrics import MetricError, Metrics, Predictions, der, value_of
from ulrl.scoring import NeuronScores
from ulrl.weight_selection import select_weights

T = TypeVar("T")
Counts: TypeAlias = Mapping[str, Tensor]  # as `StoredEvaluation` has them
PhaseOne: TypeAlias = tuple[NeuronScores, tuple[StageRun, StageRun]]

LATELY = 64  # results of phase 1 in memory: those of a scenario's trials are asked for together
CURVES = ("curve", "accuracy", "loss")  # of an ascent


@dataclass(frozen=True, kw_only=True, eq=False)
class VictimResult:
    """A scenario's victim, measured."""

    key: str
    evaluation: Evaluation
    counts: Counts
    training: tuple[tuple[float, float], ...]  # loss and accuracy of each epoch
    seconds: float
    runs: tuple[StageRun, ...]
    specimens: Mapping[str, Tensor]  # clean test images beside triggered ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """What the stages of a repair method found so far, and the key of the stage that follows.

    Attributes:
        relearn_key: Of the stage that follows; "" where phase 1 of ULRL diverged, so that none
            does.
        seconds: Of the stages so far.
        runs: The stages so far.
    """

    relearn_key: str
    seconds: float = 0.0
    runs: tuple[StageRun, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreResult(Findings):
    """What phase 1 of ULRL found."""

    scores: NeuronScores


@dataclass(frozen=True, kw_only=True, eq=False)
class RepairResult:
    """A repaired model, measured."""

    evaluation: Evaluation
    counts: Counts
    # ACC, ASR, RA on the monitor subset; without an attack ACC alone
    curve: tuple[tuple[float, float | None, float | None], ...]
    training: tuple[tuple[float, float], ...]  # loss and accuracy of each epoch
    seconds: float
    runs: tuple[StageRun, ...]
    edits: Edits | None = None  # older results have none


class StageResults:
    """Reads results of stages; every answer is None until the store has it.

    Attributes:
        store: Where they are.
        keys: Of results.
    """

    def __init__(self, store: Store, keys: CacheKeys) -> None:
        self.store = store
        self.keys = keys
        self._victims: dict[int, VictimResult] = {}
        self._ascents: dict[str, dict[str, Any]] = {}
        self._phase_one: dict[str, PhaseOne] = {}
        self._suspects = lru_cache(maxsize=LATELY)(select_weights)

    def helper(self, scenario: Scenario, helper: Helper) -> StageRun | None:
        """Return what it took to train what a scenario's attack needs first."""
        key = self.keys.helper(scenario, helper)
        found = HELPER.peek(self.store, key)
        return None if found is None else self.run(HELPER, key, scenario, found)

    def victim(self, scenario: Scenario) -> VictimResult | None:
        """Return a scenario's victim as evaluated."""
        if scenario.number not in self._victims:
            key = self.keys.victim(scenario)
            evaluated = self._read(EVALUATION, self.keys.evaluation(key), scenario)
            trained = VICTIM.peek(self.store, key)
            if evaluated is None or trained is None:
                return None
            run = self.run(VICTIM, key, scenario, trained)
            helpers = [self.helper(scenario, helper) for helper in scenario.helpers]
            helped = [found.seconds for found in helpers if found is not None]
            self._victims[scenario.number] = VictimResult(
                key=key,
                evaluation=narrowed(Evaluation, evaluated[0].content),
                counts=evaluated[0].content.counts,
                training=trained.content.training,
                seconds=sum(helped) + trained.seconds + evaluated[0].seconds,
                runs=(run, evaluated[1]),
                specimens=evaluated[0].content.specimens,
            )
        return self._victims[scenario.number]

    def scores(self, trial: Trial) -> ScoreResult | None:
        """Return what phase 1 of a trial found."""
        parts = trial.hyperparameters
        found = self._scored(self.keys.scores(trial, parts.score), trial.scenario)
        if found is None:
            return None
        scores, runs = found
        relearn_key = ""
        if not scores.diverged:
            relearn_key = self.keys.relearn(trial, self._suspects(parts.reset, scores))
        seconds = sum(run.seconds for run in runs)
        return ScoreResult(scores=scores, relearn_key=relearn_key, seconds=seconds, runs=runs)

    def _scored(self, key: str, scenario: Scenario) -> PhaseOne | None:
        """Return the scores of a key, which many settings share, and the stages that made them."""
        if key not in self._phase_one:
            found = SCORES.read(self.store, key)
            if found is None:
                return None
            scores = found.content
            ascent = StageRun(
                stage=ASCENT.name,
                key=scores.ascent_key,
                scenario=scenario.text,
                seconds=scores.ascent_seconds,
                study=scores.ascent_study,
            )
            if len(self._phase_one) >= LATELY:
                del self._phase_one[next(iter(self._phase_one))]
            runs = ascent, self.run(SCORES, key, scenario, found)
            self._phase_one[key] = narrowed(NeuronScores, scores), runs
        return self._phase_one[key]

    def repair(self, trial: Trial, relearn_key: str) -> RepairResult | None:
        """Return a trial's repaired model as evaluated."""
        if not relearn_key:
            return None
        relearned = self._read(RELEARNING, relearn_key, trial.scenario)
        evaluated = self._read(EVALUATION, self.keys.evaluation(relearn_key), trial.scenario)
        if relearned is None or evaluated is None:
            return None
        content = evaluated[0].content
        edits = Edits(layers=content.layers, by_layer=content.edits) if content.edits else None
        return RepairResult(
            edits=edits,
            evaluation=narrowed(Evaluation, content),
            counts=content.counts,
            curve=relearned[0].content.curve,
            training=relearned[0].content.training,
            seconds=relearned[0].seconds + evaluated[0].seconds,
            runs=(relearned[1], evaluated[1]),
        )

    def is_trained(self, scenario: Scenario) -> bool:
        """Whether the store has a scenario's victim, evaluated or not."""
        return VICTIM.peek(self.store, self.keys.victim(scenario)) is not None

    def is_relearned(self, relearn_key: str) -> bool:
        """Whether the store has a repaired model with its weights, evaluated or not."""
        parts = (RELEARNING.name, REPAIRED.name)
        there = (self.store.peek(name, relearn_key) is not None for name in parts)
        return bool(relearn_key) and all(there)

    def changed(self, scenario: Scenario) -> bool:
        """Whether a file that a scenario names has changed since this was made."""
        return self.keys.changed(scenario)

    def elsewhere(self, job: Job) -> bool:
        """Whether another study makes what would keep a worker long: a helper or a victim."""
        if job.kind is JobKind.HELPER and job.helper is not None:
            key = self.keys.helper(job.scenario, job.helper)
        elif job.kind is JobKind.VICTIM:
            key = self.keys.victim(job.scenario)
        else:
            return False
        return self.store.lock(job.stage, key).is_held_elsewhere()

    def ascent(self, finding: Findings) -> dict[str, Any]:
        """Return the curves of an ascent: its accuracy, its loss, and the monitor's."""
        key = finding.runs[0].key
        if key not in self._ascents:
            found = ASCENT.peek(self.store, key)
            if found is None:
                return {}
            self._ascents[key] = {name: getattr(found.content, name) for name in CURVES}
        return self._ascents[key]

    @staticmethod
    def run(stage: Stage[T], key: str, scenario: Scenario, found: Stored[T]) -> StageRun:
        """Return how a stored result was computed."""
        return StageRun(
            stage=stage.name,
            key=key,
            scenario=scenario.text,
            seconds=found.seconds,
            study=found.study,
        )

    def _read(
        self, stage: Stage[T], key: str, scenario: Scenario
    ) -> tuple[Stored[T], StageRun] | None:
        found = stage.read(self.store, key)
        return None if found is None else (found, self.run(stage, key, scenario, found))


def objective_value(objective: Objective, before: Metrics, after: Metrics) -> float:
    """Return what a study seeks, from a victim's and a repaired model's metrics."""
    if objective is Objective.DER:
        return der(before, after)
    return float(getattr(after, objective.value))


def reached(
    objective: Objective | OwnObjective, victim: VictimResult, repaired: RepairResult
) -> float | None:
    """Return what a study seeks of a repaired model, on the selection half.

    None is a metric of the user's that is not finite, and everything where there is no attack.

    Raises:
        StudyError: A metric of the user's cannot be computed.
    """
    before, after = victim.evaluation.selection, repaired.evaluation.selection
    if not isinstance(before, Metrics) or not isinstance(after, Metrics):
        return None
    if isinstance(objective, OwnObjective):
        return own_value(objective.value, repaired, "selection")
    return objective_value(objective, before, after)


def own_value(metric: str, result: VictimResult | RepairResult, half: str) -> float | None:
    """Return a metric of the user's of a model; None if it is not finite.

    None is also a metric that needs triggered images where there is no attack.

    Raises:
        StudyError: It cannot be computed.
    """
    predictions = predictions_of(result.counts, half)
    attacked = len(predictions.triggered) > 0
    try:
        with catch_warnings():
            if not attacked:
                simplefilter("ignore", RuntimeWarning)  # NumPy's, of the mean of no image
            return value_of(metric, predictions)
    except MetricError as error:
        if not attacked:
            return None
        text = f"{error}; results so far are stored: correct the metric and start again"
        raise StudyError(text) from error


def predictions_of(counts: Counts, half: str) -> Predictions:
    """Return the predictions behind the counts of one half, image by image."""
    clean, triggered = (counts[f"{half}_{images}"].long() for images in ("clean", "triggered"))
    labels, predicted = (column.numpy() for column in _repeated(clean))
    true, wanted, taken = (column.numpy() for column in _repeated(triggered))
    return Predictions(
        clean=predicted,
        clean_labels=labels,
        triggered=taken,
        true_labels=true,
        target_labels=wanted,
    )


def _repeated(table: Tensor) -> Iterable[Tensor]:
    """Return the columns of a table of counts but the last, each row as often as that says."""
    return table[:, :-1].repeat_interleave(table[:, -1], dim=0).unbind(dim=1)
