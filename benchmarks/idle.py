"""A workshop where nothing is trained: every stage is a small made-up result in the store.

Keys, reads, writes and the decisions that follow are those of a real study, so what such a study
takes is what orchestration costs. No two trials share a result.
"""

from collections.abc import Generator
from functools import partial

import torch

from orchestrator.pipeline.stages import StageRunner, ascent_entry
from orchestrator.plan.jobs import Item, Progress, StageRun, VictimJob
from orchestrator.plan.plan import Scenario, Trial
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
from ulrl.weight_selection import Suspects

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
    """Does each item at once."""

    def work(self, item: Item) -> Generator[Progress, None, tuple[StageRun, ...]]:
        if not isinstance(item, VictimJob):
            return (yield from super().work(item))
        self._shelf.begin()
        key = self._keys.victim(item.scenario)
        content = StoredVictim(training=TRAINING)
        self._shelf.keep(VICTIM, key, item.scenario, 0.0, content)
        yield from self._evaluate(item.scenario, key, NOTHING)
        return self.executed

    def _scores(
        self, trial: Trial, config: ScoreConfig, rules: tuple[ScoreConfig, ...]
    ) -> Generator[Progress, None, NeuronScores]:
        key = self._keys.scores(trial, config)
        if SCORES.read(self._store, key) is None:
            floor = min(rule.stop_at(10) for rule in rules)
            name = ascent_entry(self._keys.ascent(trial), floor)
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
            run = self._shelf.keep(ASCENT, name, trial.scenario, 0.0, ascent)
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
            self._shelf.keep(SCORES, key, trial.scenario, 0.0, scores)
        return (yield from super()._scores(trial, config, rules))

    def _repaired(
        self, trial: Trial, suspects: Suspects, key: str
    ) -> Generator[Progress, None, Weights | Evaluation]:
        del suspects
        find = partial(self._relearned, trial.scenario, key)
        make = partial(self._relearn_at_once, trial.scenario, key)
        return (yield from self._shelf.once("relearn", key, find, make))

    def _relearn_at_once(
        self, scenario: Scenario, key: str
    ) -> Generator[Progress, None, Weights | Evaluation]:
        content = StoredRelearning(curve=((0.9, 0.5, 0.5),) * EPOCHS, training=TRAINING)
        self._shelf.keep(RELEARNING, key, scenario, 0.0, content)
        yield Progress(stage="relearn", epoch=EPOCHS, epochs=EPOCHS)
        return NOTHING

    def _evaluate(
        self, scenario: Scenario, model: str, weights: Weights, shown: int = 0
    ) -> Generator[Progress, None, None]:
        del weights, shown
        key = self._keys.evaluation(model)
        find = partial(EVALUATION.read, self._store, key)
        if find() is None:
            make = partial(self._judge_at_once, scenario, model, key)
            yield from self._shelf.once("evaluate", key, find, make)

    def _judge_at_once(
        self, scenario: Scenario, model: str, key: str
    ) -> Generator[Progress, None, StageRun]:
        asr = 0.9 if model == self._keys.victim(scenario) else 0.1 * int(model[:6], 16) / 16**6
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
        return self._shelf.keep(EVALUATION, key, scenario, 0.0, content)


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
