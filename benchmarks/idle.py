"""A stage runner where nothing is trained: every stage is a small made-up result in the store.

Keys, reads, writes and the decisions that follow are those of a real study, so what such a study
takes is what orchestration costs. No two trials share a result.
"""

from collections.abc import Generator
from functools import partial

import torch

from orchestrator.pipeline.stages import StageRunner
from orchestrator.pipeline.ulrl_chain import ascent_entry, rules_of
from orchestrator.plan.jobs import Job, JobKind, Progress, StageRun
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.store.schema import narrowed
from orchestrator.store.serialization import (
    ASCENT,
    EVALUATION,
    RELEARNING,
    SCORES,
    VICTIM,
    StoredAscent,
    StoredEvaluation,
    StoredRelearning,
    StoredScores,
    StoredVictim,
)
from ulrl.datasets import Preprocessing
from ulrl.evaluation import CountedEvaluation, Evaluation
from ulrl.metrics import Confusion
from ulrl.models import ModelSpec, Weights
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.scoring import NeuronScores, ScoreConfig
from ulrl.weight_selection import select_weights

EPOCHS = 20  # points of a made-up curve
TRAINING = ((0.5, 0.9),) * EPOCHS
CLASSES, EACH = 10, 10_000  # images of each class that a made-up evaluation counts
NOTHING = Weights(
    model_spec=ModelSpec(
        architecture=PreActResNet18(),
        classes=10,
        channels=3,
        side=32,
        preprocessing=Preprocessing(mean=(0.5,), std=(0.5,), padding=0, flip=False),
    ),
    state={},
)


class Idle(StageRunner):
    """Does each job at once."""

    def work(self, job: Job) -> Generator[Progress, None, tuple[StageRun, ...]]:
        self.cached.runs.clear()
        if job.kind is JobKind.VICTIM:
            key = self.keys.victim(job.scenario)
            self.cached.keep(VICTIM, key, job.scenario, 0.0, StoredVictim(training=TRAINING))
            yield from self.evaluate(job.scenario, key, NOTHING)
        elif job.kind is JobKind.STAGE:
            for rule in rules_of(job):
                self._score(job, rule)
        else:
            yield from self._relearn(job.trial)
        return self.executed

    def _score(self, job: Job, rule: ScoreConfig) -> None:
        trial, key = job.trial, self.keys.scores(job.trial, rule)
        if SCORES.read(self.cached.store, key) is not None:
            return
        floor = min(rule.stop_at(10) for rule in rules_of(job))
        name = ascent_entry(self.keys.ascent(trial), floor)
        ascent = StoredAscent(
            before={},
            after={},
            kept=(),
            predicted=torch.full((0, 10), 5),
            accuracy=(0.5,) * 5,
            loss=(1.0,) * 5,
            diverged=False,
            curve=((0.9, 0.5, 0.5),) * 5,
        )
        run = self.cached.keep(ASCENT, name, trial.scenario, 0.0, ascent)
        scores = StoredScores(
            layers=("linear",),
            sizes=(10,),
            shift=torch.ones(10),
            z=torch.arange(10.0),
            suspects=(0,),
            movement={"linear.weight": torch.arange(8.0).repeat(1, 1)},
            stop_epoch=2,
            stop_accuracy=0.125,
            predicted=torch.full((10,), 5),
            threshold_reached=True,
            diverged=False,
            ascent_key=run.key,
            ascent_seconds=0.0,
            ascent_study=run.study,
        )
        self.cached.keep(SCORES, key, trial.scenario, 0.0, scores)

    def _relearn(self, trial: Trial) -> Generator[Progress, None, None]:
        parts = trial.hyperparameters
        found = SCORES.read(self.cached.store, self.keys.scores(trial, parts.score))
        if found is None:
            raise RuntimeError("the scores are there before the trial is handed out")
        scores = narrowed(NeuronScores, found.content)
        key = self.keys.relearn(trial, select_weights(parts.reset, scores))
        find = partial(self.repaired, trial.scenario, key)
        make = partial(self._relearn_at_once, trial.scenario, key)
        yield from self.cached.once("relearn", key, find, make)
        yield from self.evaluate(trial.scenario, key, NOTHING)

    def _relearn_at_once(
        self, scenario: Scenario, key: str
    ) -> Generator[Progress, None, Weights | Evaluation]:
        content = StoredRelearning(curve=((0.9, 0.5, 0.5),) * EPOCHS, training=TRAINING)
        self.cached.keep(RELEARNING, key, scenario, 0.0, content)
        yield Progress(stage="relearn", epoch=EPOCHS, epochs=EPOCHS)
        return NOTHING

    def evaluate(
        self,
        scenario: Scenario,
        model: str,
        weights: Weights,
        shown: int = 0,
        victim: Weights | None = None,
    ) -> Generator[Progress, None, None]:
        del weights, shown, victim
        key = self.keys.evaluation(model)
        find = partial(EVALUATION.read, self.cached.store, key)
        if find() is None:
            make = partial(self._evaluate_at_once, scenario, model, key)
            yield from self.cached.once("evaluate", key, find, make)

    def _evaluate_at_once(
        self, scenario: Scenario, model: str, key: str
    ) -> Generator[Progress, None, StageRun]:
        asr = 0.9 if model == self.keys.victim(scenario) else 0.1 * int(model[:6], 16) / 16**6
        half = _half(asr)
        yield from ()
        content = StoredEvaluation.of(
            CountedEvaluation(
                selection=half.metrics,
                report=half.metrics,
                selection_confusion=half,
                report_confusion=half,
            )
        )
        return self.cached.keep(EVALUATION, key, scenario, 0.0, content)


def _half(asr: float) -> Confusion:
    """Return counts with about this ASR, in which no cell is zero that may be another number."""
    clean = torch.full((CLASSES, CLASSES), EACH // 100) + torch.eye(CLASSES).long() * EACH // 10 * 9
    triggered = clean.clone()
    obeyed = round(asr * EACH * 0.9)
    triggered.diagonal().sub_(obeyed)
    triggered[:, 0] += obeyed
    triggered[0] = 0
    wanted = torch.tensor([-1, *[0] * (CLASSES - 1)])
    return Confusion(clean=clean, triggered=triggered, targets=wanted)
