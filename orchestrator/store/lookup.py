"""What the store knows of a study, in the terms of decisions and results."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from orchestrator.plan.jobs import AscentJob, HelperJob, Item, StageRun, VictimJob
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.spec.model import Objective
from orchestrator.store.keys import CacheKeys
from orchestrator.store.schema import narrowed
from orchestrator.store.serialization import (
    ASCENT,
    EVALUATION,
    HELPER,
    RELEARNING,
    SCORES,
    VICTIM,
    Stage,
    Stored,
)
from orchestrator.store.store import Store
from ulrl.attacks import Helper
from ulrl.evaluation import Evaluation
from ulrl.metrics import Metrics, der
from ulrl.scoring import NeuronScores
from ulrl.weight_selection import select_weights

T = TypeVar("T")
Counts: TypeAlias = Mapping[str, Tensor]  # as `StoredEvaluation` has them
PhaseOne: TypeAlias = tuple[NeuronScores, tuple[StageRun, StageRun]]

LATELY = 64  # results of phase 1 at hand: those of a scenario's trials are asked for together
CURVES = ("curve", "accuracy", "loss")  # of an ascent, for who shows it


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
class ScoreResult:
    """Phase 1 of a trial, and the key of the relearning that it leads to.

    Attributes:
        relearn_key: "" where phase 1 diverged, so that it leads to none.
    """

    scores: NeuronScores
    relearn_key: str
    seconds: float  # of the ascent and the scores
    runs: tuple[StageRun, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class RepairResult:
    """A repaired model, measured."""

    evaluation: Evaluation
    counts: Counts
    curve: tuple[tuple[float, float, float], ...]  # ACC, ASR, RA on the monitor subset
    training: tuple[tuple[float, float], ...]  # loss and accuracy of each epoch
    seconds: float
    runs: tuple[StageRun, ...]


class _AbsentError(Exception):
    """The store has no such result, yet."""


class StageResults:
    """Reads results of stages; every answer is None until the store has it."""

    def __init__(self, store: Store, keys: CacheKeys) -> None:
        self._store = store
        self._keys = keys
        self._victims: dict[int, VictimResult] = {}
        self._ascents: dict[str, dict[str, Any]] = {}
        self._phase_one = lru_cache(maxsize=LATELY)(self._read_phase_one)
        self._suspects = lru_cache(maxsize=LATELY)(select_weights)

    def helper(self, scenario: Scenario, helper: Helper) -> StageRun | None:
        """Return what it took to train what a scenario's attack needs first."""
        key = self._keys.helper(scenario, helper)
        found = HELPER.peek(self._store, key)
        return None if found is None else _run(HELPER, key, scenario.text, found)

    def victim(self, scenario: Scenario) -> VictimResult | None:
        """Return a scenario's victim as evaluated."""
        if scenario.number not in self._victims:
            key = self._keys.victim(scenario)
            evaluated = self._read(EVALUATION, self._keys.evaluation(key), scenario)
            trained = VICTIM.peek(self._store, key)
            if evaluated is None or trained is None:
                return None
            run = _run(VICTIM, key, scenario.text, trained)
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
        key = self._keys.scores(trial, parts.score)
        try:
            scores, runs = self._phase_one(key, trial.scenario.text)
        except _AbsentError:
            return None
        relearn_key = ""
        if not scores.diverged:
            relearn_key = self._keys.relearn(trial, self._suspects(parts.reset, scores))
        return ScoreResult(
            scores=scores,
            relearn_key=relearn_key,
            seconds=sum(run.seconds for run in runs),
            runs=runs,
        )

    def _read_phase_one(self, key: str, scenario: str) -> PhaseOne:
        """Return the scores behind a key, which many settings share.

        Raises:
            _AbsentError: The store has none; the next call asks again.
        """
        found = SCORES.read(self._store, key)
        if found is None:
            raise _AbsentError
        scores = found.content
        ascent = StageRun(
            stage=ASCENT.name,
            key=scores.ascent_key,
            scenario=scenario,
            seconds=scores.ascent_seconds,
            study=scores.ascent_study,
        )
        return narrowed(NeuronScores, scores), (ascent, _run(SCORES, key, scenario, found))

    def repair(self, trial: Trial, relearn_key: str) -> RepairResult | None:
        """Return a trial's repaired model as evaluated."""
        if not relearn_key:
            return None
        relearned = self._read(RELEARNING, relearn_key, trial.scenario)
        evaluated = self._read(EVALUATION, self._keys.evaluation(relearn_key), trial.scenario)
        if relearned is None or evaluated is None:
            return None
        return RepairResult(
            evaluation=narrowed(Evaluation, evaluated[0].content),
            counts=evaluated[0].content.counts,
            curve=relearned[0].content.curve,
            training=relearned[0].content.training,
            seconds=relearned[0].seconds + evaluated[0].seconds,
            runs=(relearned[1], evaluated[1]),
        )

    def has(self, item: Item) -> bool:
        """Whether the store has all that an item makes."""
        if isinstance(item, HelperJob):
            return self.helper(item.scenario, item.helper) is not None
        if isinstance(item, VictimJob):
            return self.victim(item.scenario) is not None
        if isinstance(item, AscentJob):
            keys = [self._keys.scores(item.trial, rule) for rule in item.rules]
            return all(SCORES.read(self._store, key) is not None for key in keys)
        finding = self.scores(item.trial)
        return finding is not None and self.repair(item.trial, finding.relearn_key) is not None

    def elsewhere(self, item: Item) -> bool:
        """Whether another study makes what would keep a worker long: a helper or a victim."""
        if isinstance(item, HelperJob):
            return self._store.being_made(item.stage, self._keys.helper(item.scenario, item.helper))
        if isinstance(item, VictimJob):
            return self._store.being_made(item.stage, self._keys.victim(item.scenario))
        return False

    def ascent(self, finding: ScoreResult) -> dict[str, Any]:
        """Return the curves of an ascent: its accuracy, its loss, and the monitor's."""
        key = finding.runs[0].key
        if key not in self._ascents:
            found = ASCENT.peek(self._store, key)
            if found is None:
                return {}
            self._ascents[key] = {name: getattr(found.content, name) for name in CURVES}
        return self._ascents[key]

    def _read(
        self, stage: Stage[T], key: str, scenario: Scenario
    ) -> tuple[Stored[T], StageRun] | None:
        found = stage.read(self._store, key)
        return None if found is None else (found, _run(stage, key, scenario.text, found))


def objective_value(objective: Objective, before: Metrics, after: Metrics) -> float:
    """Return what a study seeks, from a victim's and a repaired model's metrics."""
    if objective is Objective.DER:
        return der(before, after)
    return float(getattr(after, objective.value))


def _run(stage: Stage[Any], key: str, scenario: str, found: Stored[Any]) -> StageRun:
    return StageRun(
        stage=stage.name, key=key, scenario=scenario, seconds=found.seconds, study=found.study
    )
