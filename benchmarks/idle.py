"""A workshop where nothing is trained: every stage is a small made-up result in the store.

Keys, reads, writes and the decisions that follow are those of a real study, so what such a study
takes is what orchestration costs. No two trials share a result.
"""

from collections.abc import Generator
from functools import partial

import torch

from orchestrator.plan import Scenario, Trial
from orchestrator.store import Entry
from orchestrator.work import Item, Progress, StageRun, VictimItem
from orchestrator.workshop import Workshop, ascent_entry
from ulrl.datasets import Treatment
from ulrl.models import Blueprint, Weights
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.resetting import Suspects
from ulrl.scoring import NeuronScores, ScoreConfig

EPOCHS = 20  # points of a made-up curve
NOTHING = Weights(
    blueprint=Blueprint(
        architecture=PreActResNet18(),
        classes=10,
        channels=3,
        side=32,
        treatment=Treatment(mean=(0.5,), std=(0.5,), padding=0, flip=False),
    ),
    state={},
)


class Idle(Workshop):
    """Does each item at once."""

    def work(self, item: Item) -> Generator[Progress, None, tuple[StageRun, ...]]:
        if not isinstance(item, VictimItem):
            return (yield from super().work(item))
        self._shelf.begin()
        key = self._keys.victim(item.scenario)
        values = {"training": [[0.5, 0.9]] * EPOCHS}
        self._shelf.keep("train_victim", key, item.scenario, 0.0, values, {})
        yield from self._evaluate(item.scenario, key, NOTHING)
        return self.executed

    def _scores(
        self, trial: Trial, config: ScoreConfig, rules: tuple[ScoreConfig, ...]
    ) -> Generator[Progress, None, NeuronScores]:
        key = self._keys.scores(trial, config)
        if self._store.read("score_neurons", key) is None:
            floor = min(rule.stop_at(10) for rule in rules)
            ascent = ascent_entry(self._keys.ascent(trial), floor)
            values = {"curve": [[0.9, 0.5, 0.5]] * 5, "accuracy": [0.5] * 5}
            run = self._shelf.keep("unlearn", ascent, trial.scenario, 0.0, values, {})
            values = {
                "suspects": [0],
                "layers": ["linear"],
                "sizes": [10],
                "movement": ["linear.weight"],
                "stop_epoch": 2,
                "stop_accuracy": 0.125,
                "threshold_reached": True,
                "diverged": False,
                "ascent_key": run.key,
                "ascent_seconds": 0.0,
                "ascent_study": run.study,
            }
            tensors = {
                "shift": torch.ones(10),
                "predicted": torch.full((10,), 5),
                "z": torch.arange(10.0),
                "movement/linear.weight": torch.arange(8.0).repeat(1, 1),
            }
            self._shelf.keep("score_neurons", key, trial.scenario, 0.0, values, tensors)
        return (yield from super()._scores(trial, config, rules))

    def _repaired(
        self, trial: Trial, suspects: Suspects, key: str
    ) -> Generator[Progress, None, Weights | Entry]:
        del suspects
        find = partial(self._relearned, trial.scenario, key)
        make = partial(self._relearn_at_once, trial.scenario, key)
        return (yield from self._shelf.once("relearn", key, find, make))

    def _relearn_at_once(
        self, scenario: Scenario, key: str
    ) -> Generator[Progress, None, Weights | Entry]:
        values = {"curve": [[0.9, 0.5, 0.5]] * EPOCHS, "training": [[0.5, 0.9]] * EPOCHS}
        self._shelf.keep("relearn", key, scenario, 0.0, values, {})
        yield Progress(stage="relearn", epoch=EPOCHS, epochs=EPOCHS)
        return NOTHING

    def _evaluate(
        self, scenario: Scenario, model: str, weights: Weights, shown: int = 0
    ) -> Generator[Progress, None, None]:
        del weights, shown
        key = self._keys.evaluation(model)
        find = partial(self._store.read, "evaluate", key)
        if find() is None:
            make = partial(self._judge_at_once, scenario, model, key)
            yield from self._shelf.once("evaluate", key, find, make)

    def _judge_at_once(
        self, scenario: Scenario, model: str, key: str
    ) -> Generator[Progress, None, StageRun]:
        asr = 0.9 if model == self._keys.victim(scenario) else 0.1 * int(model[:6], 16) / 16**6
        half = {"acc": 0.9, "asr": asr, "ra": 0.9 * (1 - asr)}
        values = {"selection": half, "report": half}
        yield from ()
        return self._shelf.keep("evaluate", key, scenario, 0.0, values, {})
