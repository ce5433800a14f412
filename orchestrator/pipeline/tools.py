"""What stages of a chain are computed with: the store, keys, and what is loaded."""

import ctypes
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch

from orchestrator.pipeline.cached import CachedStages, Making, Point
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.pipeline.victims import VictimStages
from orchestrator.plan.jobs import Job, Site, StageRun
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import Findings, RepairResult, StageResults
from orchestrator.store.schema import narrowed
from orchestrator.store.serialization import (
    EVALUATION,
    RELEARNING,
    REPAIRED,
    StoredEvaluation,
    StoredRelearning,
    StoredWeights,
)
from ulrl.edits import compare
from ulrl.evaluation import Evaluation, evaluate
from ulrl.metrics import measure, measure_clean
from ulrl.models import Classifier, Weights
from ulrl.poisoning import TestSets, example_pairs
from ulrl.recipes import VictimRecipe

UNUSED_MEMORY = 2**31 - 1  # bytes of unused memory that a process may hold on to; the most there is
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def keep_memory() -> bool:
    """Keep freed memory for the next batch, for the life of the process.

    By default glibc returns a large buffer to the kernel as soon as it is free and asks for
    it again, so that on a CPU every batch of activations is faulted in page by page. Numbers
    do not change. Returns whether the C library has such a switch; others than glibc have none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, UNUSED_MEMORY))


Steps: TypeAlias = Making[None]


class StageTools:
    """The store, and what the last scenarios left loaded in this process.

    Torch's number of threads is set here, for the life of the process, because sums
    depend on it, and on a CPU how memory is reused, because speed does.

    Attributes:
        site: What every worker knows.
        device: Where to compute.
        keys: Of results.
        cached: The store, as one job's work sees it.
    """

    def __init__(self, site: Site, victim: VictimRecipe) -> None:
        torch.set_num_threads(site.threads)
        if site.device == "cpu":
            keep_memory()
        self.site = site
        self._recipe = victim
        self.device = torch.device(site.device)
        self.keys = CacheKeys(victim, Compute(device=site.device, threads=site.threads))
        self.cached = CachedStages(site, self.keys)
        self._weights_wanted = False
        self.forget()

    def forget(self) -> None:
        """Drop all that is loaded: it is loaded again when it is needed."""
        self.inputs = StageInputs()
        self.victims = VictimStages(self.cached, self.keys, self._recipe, self.inputs, self.device)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @property
    def executed(self) -> tuple[StageRun, ...]:
        """The stages executed for the present job so far."""
        return tuple(self.cached.runs)

    def evaluate(
        self,
        scenario: Scenario,
        model: str,
        weights: Weights,
        shown: int = 0,
        victim: Weights | None = None,
    ) -> Steps:
        """Evaluate the model of a key, unless its evaluation is there.

        Args:
            scenario: Of the model.
            model: Its key.
            weights: Its weights.
            shown: How many triggered test images to store with the result.
            victim: What the model was made from, if it is a repaired one: what differs is stored
                with the result.
        """
        key = self.keys.evaluation(model)
        find = partial(EVALUATION.read, self.cached.store, key)
        if find() is None:
            tests = yield from self.victims.tests(scenario)
            make = partial(self._evaluated, scenario, key, weights, tests, shown, victim)
            yield from self.cached.once(EVALUATION.name, key, find, make)

    def _evaluated(
        self,
        scenario: Scenario,
        key: str,
        weights: Weights,
        tests: TestSets,
        shown: int,
        victim: Weights | None,
    ) -> Making[Any]:
        yield from ()
        started = time.perf_counter()
        result = evaluate(weights, tests, self.device)
        seconds = time.perf_counter() - started
        pictures = example_pairs(scenario.poison, tests.selection, shown)
        edits = None if victim is None else compare(victim, weights)
        content = StoredEvaluation.of(result, pictures, edits)
        return self.cached.keep(EVALUATION, key, scenario, seconds, content)

    def repaired(self, scenario: Scenario, key: str) -> Weights | Evaluation | None:
        """Return the repaired weights of a key, or their evaluation if there is one."""
        if RELEARNING.read(self.cached.store, key) is None:
            return None
        if self._weights_wanted and REPAIRED.peek(self.cached.store, key) is None:
            return None
        evaluated = EVALUATION.read(self.cached.store, self.keys.evaluation(key))
        if evaluated is not None:
            return narrowed(Evaluation, evaluated.content)
        found = REPAIRED.read(self.cached.store, key, self.inputs.model_spec(scenario))
        return None if found is None else found.content.of(self.inputs.model_spec(scenario))

    @contextmanager
    def weights_wanted(self) -> Iterator[None]:
        """Let a model whose weights are gone count as not repaired, though it was evaluated."""
        self._weights_wanted = True
        try:
            yield
        finally:
            self._weights_wanted = False

    def repair(
        self,
        scenario: Scenario,
        key: str,
        make: Callable[[Weights, TestSets], Making[Weights | Evaluation]],
    ) -> Steps:
        """Repair a victim by `make` unless that is done, and evaluate the repaired model.

        Its weights are deleted afterwards if the study stores none.
        """
        find = partial(self.repaired, scenario, key)
        model = find()
        if model is None:
            victim = yield from self.victims.victim(scenario)
            tests = yield from self.victims.tests(scenario)
            made = partial(make, victim, tests)
            model = yield from self.cached.once(RELEARNING.name, key, find, made)
        if not isinstance(model, Weights):
            return
        victim = yield from self.victims.victim(scenario)  # at hand, if it was repaired just now
        yield from self.evaluate(scenario, key, model, victim=victim)
        evaluation = self.keys.evaluation(key)
        if not self.site.keep_repaired and any(run.key == evaluation for run in self.executed):
            self.cached.store.delete(REPAIRED.name, key)

    def keep_repaired(
        self,
        scenario: Scenario,
        key: str,
        seconds: float,
        weights: Weights,
        content: StoredRelearning,
    ) -> None:
        """Store a repaired model, then the result that says that it is there."""
        stored = StoredWeights(state=weights.state)
        REPAIRED.write(self.cached.store, key, stored, model_spec=weights.model_spec)
        self.cached.keep(RELEARNING, key, scenario, seconds, content)


class ChainStage(ABC):
    """A stage of a repair method, as the scheduler and a worker see it.

    Attributes:
        noun: What its jobs are called.
    """

    noun: str

    @abstractmethod
    def shared(self, trial: Trial) -> Hashable:
        """Return what trials have in common that share it; asked of a first stage only."""

    @abstractmethod
    def begun(self, results: StageResults, trial: Trial) -> Findings:
        """Return what there is before a first stage: nothing but its key."""

    @abstractmethod
    def found(self, results: StageResults, trial: Trial, before: Findings) -> Findings | None:
        """Return what the store has of the chain up to here; asked of all but the last."""

    def repaired(
        self, results: StageResults, trial: Trial, before: Findings
    ) -> RepairResult | None:
        """Return the repaired model as evaluated, if the store has it; asked of the last."""
        return results.repair(trial, before.relearn_key)

    @abstractmethod
    def work(self, tools: StageTools, job: Job) -> Steps:
        """Compute it, and what of the chain before it is missing."""


def monitored(classifier: Classifier, tests: TestSets) -> Point:
    """Return ACC, ASR and RA on the monitor subset; without an attack ACC alone."""
    if tests.monitor.benign:
        return measure_clean(classifier.predict, tests.monitor).acc, None, None
    found = measure(classifier.predict, tests.monitor)
    return found.acc, found.asr, found.ra
