"""The stages of one job, each through the store."""

import ctypes
import time
from collections.abc import Generator
from functools import partial
from typing import Any, TypeAlias

import torch

from orchestrator.pipeline.cached import CachedStages, Making
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.pipeline.victims import VictimStages
from orchestrator.plan.jobs import (
    AscentJob,
    HelperJob,
    Item,
    Progress,
    Site,
    StageRun,
    TrialJob,
    VictimJob,
)
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys
from orchestrator.store.schema import narrowed, widened
from orchestrator.store.serialization import (
    ASCENT,
    EVALUATION,
    RELEARNING,
    REPAIRED,
    SCORES,
    StoredAscent,
    StoredEvaluation,
    StoredRelearning,
    StoredScores,
    StoredWeights,
)
from orchestrator.store.store import Store
from ulrl.evaluation import Evaluation, evaluate
from ulrl.metrics import measure
from ulrl.models import Classifier, Weights
from ulrl.poisoning import TestSets, example_pairs
from ulrl.recipes import VictimRecipe
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, ScoreConfig, score_neurons
from ulrl.unlearning import Ascent, unlearn
from ulrl.weight_selection import Suspects, select_weights

KEPT = 2**31 - 1  # bytes of unused memory that a process may hold on to; the most there is
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt


def keep_memory() -> bool:
    """Keep freed memory for the next batch, for the life of the process.

    By default glibc returns a large buffer to the kernel as soon as it is free and asks for
    it again, so that on a CPU every batch of activations is faulted in page by page. Numbers
    do not change. Returns whether the C library could be told; others than glibc cannot.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_MMAP_MAX, 0) and mallopt(_TRIM_THRESHOLD, KEPT))


Steps: TypeAlias = Making[None]
FoundAscent: TypeAlias = tuple[Ascent, StageRun]
Point: TypeAlias = tuple[float, float, float]  # ACC, ASR, RA on the monitor subset

SHOWN = 3  # triggered test images of each scenario, kept for the gallery


class StageRunner:
    """A worker's bench: the store, and what the last scenarios left loaded.

    Torch's number of threads is set here, for the life of the process, because sums
    depend on it, and on a CPU how memory is kept, because speed does.
    """

    def __init__(self, site: Site, victim: VictimRecipe) -> None:
        torch.set_num_threads(site.threads)
        if site.device == "cpu":
            keep_memory()
        self.site = site
        self._recipe = victim
        self._shelf = CachedStages(site)
        self._store = self._shelf.store
        self._device = torch.device(site.device)
        self._keys = CacheKeys(victim, Compute(device=site.device, threads=site.threads))
        self.forget()

    def forget(self) -> None:
        """Drop all that is loaded: it is loaded again when it is needed."""
        self._materials = StageInputs()
        self._victims = VictimStages(
            self._shelf, self._keys, self._recipe, self._materials, self._device
        )
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def work(self, item: Item) -> Generator[Progress, None, tuple[StageRun, ...]]:
        """Do an item step by step; leaving the iterator early abandons the stage in flight.

        Nothing is done twice: what the store has is taken from there, and what should
        have been there but is not (a file damaged since) is made again.
        """
        self._shelf.begin()
        if isinstance(item, HelperJob):
            yield from self._victims.helped(item.scenario, until=item.helper)
        elif isinstance(item, VictimJob):
            victim = yield from self._victims.victim(item.scenario)
            key = self._keys.victim(item.scenario)
            yield from self._evaluate(item.scenario, key, victim, shown=SHOWN)
        elif isinstance(item, AscentJob):
            for rule in item.rules:
                yield from self._scores(item.trial, rule, item.rules)
        else:
            yield from self._trial(item)
        return self.executed

    @property
    def executed(self) -> tuple[StageRun, ...]:
        """The stages executed for the present item so far."""
        return self._shelf.executed

    def _ascent(self, trial: Trial, threshold: float) -> Making[FoundAscent]:
        """Return an ascent that goes down to `threshold`, its key, and what it took."""
        ascent = self._keys.ascent(trial)
        find = partial(find_ascent, self._store, ascent, trial, threshold)
        found = find()
        if found is None:
            victim = yield from self._victims.victim(trial.scenario)
            tests = yield from self._victims.tests(trial.scenario)
            make = partial(self._unlearn, trial, threshold, victim, tests)
            key = ascent_entry(ascent, threshold)
            found = yield from self._shelf.once("unlearn", key, find, make)
        return found

    def _unlearn(
        self, trial: Trial, threshold: float, victim: Weights, tests: TestSets
    ) -> Making[FoundAscent]:
        ascent: Ascent | None = None
        scenario, config = trial.scenario, trial.hyperparameters.unlearn
        started = time.perf_counter()
        curve: list[Point] = []
        steps = unlearn(
            config,
            victim,
            self._materials.clean(trial),
            threshold,
            self._device,
            observe=lambda classifier: curve.append(_monitor(classifier, tests)),
        )
        for ascent in steps:
            done = len(ascent.accuracy)
            yield Progress(stage="unlearn", epoch=done, epochs=config.unlearn_epochs)
        if ascent is None:
            raise RuntimeError("an ascent has at least one epoch")
        key = ascent_entry(self._keys.ascent(trial), threshold)
        seconds = time.perf_counter() - started
        content = widened(StoredAscent, ascent, curve=tuple(curve))
        return ascent, self._shelf.keep(ASCENT, key, scenario, seconds, content)

    def _scores(
        self, trial: Trial, config: ScoreConfig, rules: tuple[ScoreConfig, ...]
    ) -> Making[NeuronScores]:
        key = self._keys.scores(trial, config)
        find = partial(self._scored, key)
        found = find()
        if found is None:
            yield from self._materials.fetch(trial.scenario.dataset)
            classes = self._materials.images(trial.scenario.dataset).classes
            threshold = min(rule.stop_at(classes) for rule in (config, *rules))
            ascent = yield from self._ascent(trial, threshold)
            make = partial(self._score, trial, config, key, ascent)
            found = yield from self._shelf.once("score_neurons", key, find, make)
        return found

    def _scored(self, key: str) -> NeuronScores | None:
        found = SCORES.read(self._store, key)
        return None if found is None else narrowed(NeuronScores, found.content)

    def _score(
        self, trial: Trial, config: ScoreConfig, key: str, found: FoundAscent
    ) -> Making[NeuronScores]:
        ascent, run = found
        started = time.perf_counter()
        scores = score_neurons(config, ascent)
        content = widened(
            StoredScores,
            scores,
            ascent_key=run.key,
            ascent_seconds=run.seconds,
            ascent_study=run.study,
        )
        seconds = time.perf_counter() - started
        self._shelf.keep(SCORES, key, trial.scenario, seconds, content)
        yield from ()
        return scores

    def _trial(self, item: TrialJob) -> Steps:
        trial, scenario = item.trial, item.scenario
        parts = trial.hyperparameters
        scores = yield from self._scores(trial, parts.score, item.rules)
        suspects = select_weights(parts.reset, scores)
        key = self._keys.relearn(trial, suspects)
        repaired = yield from self._repaired(trial, suspects, key)
        if not isinstance(repaired, Weights):
            return
        yield from self._evaluate(scenario, key, repaired)
        evaluation = self._keys.evaluation(key)
        if not self.site.keep_repaired and any(run.key == evaluation for run in self.executed):
            self._store.delete("repaired", key)

    def _repaired(self, trial: Trial, suspects: Suspects, key: str) -> Making[Weights | Evaluation]:
        """Return repaired weights, or their evaluation if there is one."""
        find = partial(self._relearned, trial.scenario, key)
        found = find()
        if found is None:
            victim = yield from self._victims.victim(trial.scenario)
            tests = yield from self._victims.tests(trial.scenario)
            make = partial(self._relearn, trial, suspects, key, victim, tests)
            found = yield from self._shelf.once("relearn", key, find, make)
        return found

    def _relearned(self, scenario: Scenario, key: str) -> Weights | Evaluation | None:
        if RELEARNING.read(self._store, key) is None:
            return None
        evaluated = EVALUATION.read(self._store, self._keys.evaluation(key))
        if evaluated is not None:
            return narrowed(Evaluation, evaluated.content)
        model_spec = self._materials.model_spec(scenario)
        repaired = REPAIRED.read(self._store, key, model_spec)
        return None if repaired is None else repaired.content.of(model_spec)

    def _relearn(
        self, trial: Trial, suspects: Suspects, key: str, victim: Weights, tests: TestSets
    ) -> Making[Weights | Evaluation]:
        scenario, config = trial.scenario, trial.hyperparameters.relearn
        started = time.perf_counter()
        curve: list[Point] = []
        run = relearn(
            config,
            victim,
            suspects,
            self._materials.clean(trial),
            self._device,
            observe=lambda classifier: curve.append(_monitor(classifier, tests)),
        )
        training = []
        for epoch in run.epochs:
            training.append((epoch.loss, epoch.accuracy))
            yield Progress(
                stage="relearn",
                epoch=epoch.number,
                epochs=config.relearn_epochs,
                curve=tuple(curve),
            )
        weights = run.classifier.weights()
        seconds = time.perf_counter() - started
        # Before the result that says that they are there.
        stored = StoredWeights(state=weights.state)
        REPAIRED.write(self._store, key, stored, model_spec=weights.model_spec)
        content = StoredRelearning(curve=tuple(curve), training=tuple(training))
        self._shelf.keep(RELEARNING, key, scenario, seconds, content)
        return weights

    def _evaluate(self, scenario: Scenario, model: str, weights: Weights, shown: int = 0) -> Steps:
        """Evaluate a model, and keep `shown` triggered test images with the result."""
        key = self._keys.evaluation(model)
        find = partial(EVALUATION.read, self._store, key)
        if find() is None:
            tests = yield from self._victims.tests(scenario)
            make = partial(self._judge, scenario, key, weights, tests, shown)
            yield from self._shelf.once(EVALUATION.name, key, find, make)

    def _judge(
        self, scenario: Scenario, key: str, weights: Weights, tests: TestSets, shown: int
    ) -> Making[Any]:
        started = time.perf_counter()
        result = evaluate(weights, tests, self._device)
        seconds = time.perf_counter() - started
        pictures = example_pairs(scenario.poison, tests.selection, shown)
        content = StoredEvaluation.of(result, pictures)
        yield from ()
        return self._shelf.keep(EVALUATION, key, scenario, seconds, content)


def ascent_entry(ascent: str, floor: float) -> str:
    """Return the key of an ascent that went down to `floor`."""
    return f"{ascent}-{floor!r}"


def find_ascent(store: Store, ascent: str, trial: Trial, threshold: float) -> FoundAscent | None:
    """Return a stored ascent that passed `threshold`, its key, and what it took.

    The epochs of two ascents that differ in nothing but the floor are the same, so a
    deeper one answers for a shallower.
    """
    exact = ascent_entry(ascent, threshold)
    others = [name for name in store.names("unlearn", ascent) if name != exact]
    for name in (exact, *others):
        found = ASCENT.read(store, name)
        if found is not None and found.content.covers(threshold, trial.hyperparameters.unlearn):
            run = StageRun(
                stage=ASCENT.name,
                key=name,
                scenario=trial.scenario.text,
                seconds=found.seconds,
                study=found.study,
            )
            return narrowed(Ascent, found.content), run
    return None


def _monitor(classifier: Classifier, tests: TestSets) -> Point:
    found = measure(classifier.predict, tests.monitor)
    return found.acc, found.asr, found.ra
