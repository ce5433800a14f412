"""The chain of stages of a trial: ULRL's own, or that of another repair method."""

import time
from collections.abc import Hashable, Mapping
from functools import lru_cache, partial
from typing import TypeAlias

from torch import Tensor

from orchestrator.pipeline.cached import Making, Point, reported
from orchestrator.pipeline.tools import ChainStage, StageTools, Steps, monitored
from orchestrator.pipeline.ulrl_chain import ULRL_CHAIN
from orchestrator.plan.jobs import Job
from orchestrator.plan.plan import Trial
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import Findings, StageResults
from orchestrator.store.serialization import (
    Stage,
    StoredRelearning,
    StoredTensors,
    stage_of_method,
)
from orchestrator.store.store import Store
from ulrl.evaluation import Evaluation
from ulrl.methods import RepairContext, RepairMethod, RepairStage
from ulrl.metrics import measure
from ulrl.models import Classifier, Weights, restore
from ulrl.poisoning import TestHalf, TestSets

Tensors: TypeAlias = Mapping[str, Tensor]


def chain_of(trial: Trial) -> tuple[ChainStage, ...]:
    """Return the stages of a trial's repair method, in order."""
    return ULRL_CHAIN if trial.method is None else _chain_of_method(trial.method)


@lru_cache(maxsize=64)
def _chain_of_method(method: RepairMethod) -> tuple[ChainStage, ...]:
    return tuple(MethodStage(method, position) for position in range(len(method.stages)))


def reached(results: StageResults, trial: Trial) -> list[Findings]:
    """Return what there is before each stage of a trial's chain, as far as the store has it."""
    stages = chain_of(trial)
    found: Findings | None = stages[0].begun(results, trial)
    befores: list[Findings] = []
    while found is not None:
        befores.append(found)
        if len(befores) == len(stages):
            break
        found = stages[len(befores) - 1].found(results, trial, found)
    return befores


def repaired_key(results: StageResults, trial: Trial) -> str:
    """Return the key of a trial's repaired model; "" where a stage before it is missing."""
    befores = reached(results, trial)
    return befores[-1].relearn_key if len(befores) == len(chain_of(trial)) else ""


class MethodStage(ChainStage):
    """A stage of a repair method that `ulrl.methods` knows."""

    def __init__(self, method: RepairMethod, position: int) -> None:
        self._stages = method.stages
        self._kinds = [stage_of_method(stage.name) for stage in self._stages]
        self._position = position
        last = position == len(self._stages) - 1
        self.noun = "trial" if last else self._kinds[position].name

    def shared(self, trial: Trial) -> Hashable:
        clean = trial.hyperparameters.clean
        return (trial.scenario.number, trial.defence_seed, clean, self._stages[0])

    def begun(self, results: StageResults, trial: Trial) -> Findings:
        return Findings(relearn_key=self._key(results.keys, trial, 0, "", {}))

    def found(self, results: StageResults, trial: Trial, before: Findings) -> Findings | None:
        kind, following = self._kinds[self._position], self._stages[self._position + 1]
        reads_all = type(following).reads is RepairStage.reads
        read = kind.peek if reads_all else kind.read
        found = read(results.store, before.relearn_key)
        if found is None:
            return None
        run = results.run(kind, before.relearn_key, trial.scenario, found)
        tensors = {} if reads_all else found.content.tensors
        return Findings(
            relearn_key=self._key(
                results.keys, trial, self._position + 1, before.relearn_key, tensors
            ),
            seconds=before.seconds + found.seconds,
            runs=(*before.runs, run),
        )

    def work(self, tools: StageTools, job: Job) -> Steps:
        trial = job.trial
        key = self._key(tools.keys, trial, 0, "", {})
        before: Tensors = {}
        for position in range(min(self._position + 1, len(self._stages) - 1)):
            kind = self._kinds[position]
            find = partial(_tensors, kind, tools.cached.store, key)
            made = find()
            if made is None:
                victim = yield from tools.victims.victim(trial.scenario)
                tests = None
                if self._stages[position].looks:
                    tests = yield from tools.victims.tests(trial.scenario)
                make = partial(self._make, tools, trial, position, key, victim, before, tests)
                made = yield from tools.cached.once(kind.name, key, find, make)
            before = made
            key = self._key(tools.keys, trial, position + 1, key, before)
        if self._position == len(self._stages) - 1:
            yield from tools.repair(
                trial.scenario, key, partial(self._end, tools, trial, key, before)
            )

    def _key(
        self, keys: CacheKeys, trial: Trial, position: int, before: str, tensors: Tensors
    ) -> str:
        """Return the key of a stage, which depends on what it reads of the stage before."""
        stage = self._stages[position]
        reads = stage.reads(tensors) if position else None
        if reads is not None and not reads:
            before = ""  # it reads nothing, as a first stage does: the two share their result
        return keys.repair(trial, self._kinds[position].name, stage, before, reads)

    def _make(
        self,
        tools: StageTools,
        trial: Trial,
        position: int,
        key: str,
        victim: Weights,
        before: Tensors,
        tests: TestSets | None,
    ) -> Making[Tensors]:
        kind = self._kinds[position]
        context = _context(tools, trial, self._stages[position], victim, tests, [])
        started = time.perf_counter()
        steps = self._stages[position].checked(context, before)
        tensors = yield from reported(steps, kind.name)
        seconds = time.perf_counter() - started
        content = StoredTensors(tensors=tensors)
        tools.cached.keep(kind, key, trial.scenario, seconds, content)
        return content.tensors

    def _end(
        self,
        tools: StageTools,
        trial: Trial,
        key: str,
        before: Tensors,
        victim: Weights,
        tests: TestSets,
    ) -> Making[Weights | Evaluation]:
        curve: list[Point] = []
        context = _context(tools, trial, self._stages[-1], victim, tests, curve)
        started = time.perf_counter()
        steps = self._stages[-1].checked(context, before)
        state = yield from reported(steps, self._stages[-1].name, curve)
        weights = Weights(model_spec=victim.model_spec, state=dict(state))
        seconds = time.perf_counter() - started
        if not curve:
            curve.append(monitored(restore(weights, tools.device), tests))
        content = StoredRelearning(curve=tuple(curve))
        tools.keep_repaired(trial.scenario, key, seconds, weights, content)
        return weights


def _context(
    tools: StageTools,
    trial: Trial,
    stage: RepairStage,
    victim: Weights,
    tests: TestSets | None,
    curve: list[Point],
) -> RepairContext:
    def observe(classifier: Classifier) -> None:
        if tests is not None:
            curve.append(monitored(classifier, tests))

    shown = stage.looks and tests is not None and len(tests.selection.triggered)
    return RepairContext(
        victim=victim,
        clean=tools.inputs.clean(trial),
        device=tools.device,
        observe=observe,
        oracle=partial(_oracle, tests.selection) if tests is not None and shown else None,
    )


def _oracle(half: TestHalf, classifier: Classifier) -> tuple[float, float]:
    """Return ASR and ACC on a half of the test set: what published scripts choose by."""
    found = measure(classifier.predict, half)
    return found.asr, found.acc


def _tensors(kind: Stage[StoredTensors], store: Store, key: str) -> Tensors | None:
    found = kind.read(store, key)
    return None if found is None else found.content.tensors
