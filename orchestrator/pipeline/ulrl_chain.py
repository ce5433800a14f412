"""ULRL's chain: the ascent with its scores, then the relearning with its evaluation."""

import time
from collections.abc import Hashable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from orchestrator.pipeline.cached import Making, Point
from orchestrator.pipeline.tools import ChainStage, StageTools, Steps, monitored
from orchestrator.plan.jobs import Job, Progress, StageRun
from orchestrator.plan.plan import Trial
from orchestrator.spec.space import Range
from orchestrator.store.lookup import Findings, StageResults
from orchestrator.store.schema import narrowed, widened
from orchestrator.store.serialization import (
    ASCENT,
    RELEARNING,
    SCORES,
    StoredAscent,
    StoredRelearning,
    StoredScores,
)
from orchestrator.store.store import Store
from ulrl.evaluation import Evaluation
from ulrl.models import Weights
from ulrl.poisoning import TestSets
from ulrl.relearning import relearn
from ulrl.scoring import NeuronScores, ScoreConfig, score_neurons
from ulrl.unlearning import Ascent, unlearn
from ulrl.weight_selection import Suspects, select_weights

FoundAscent: TypeAlias = tuple[Ascent, StageRun]
Rules: TypeAlias = tuple[ScoreConfig, ...]


class AscentStage(ChainStage):
    """One ascent, and the scores by the rule of every trial that reads it."""

    noun = "ascent"

    def shared(self, trial: Trial) -> Hashable:
        parts = trial.hyperparameters
        return (trial.scenario.number, trial.defence_seed, parts.clean, parts.unlearn)

    def begun(self, results: StageResults, trial: Trial) -> Findings:
        return Findings(relearn_key=results.keys.ascent(trial))

    def found(self, results: StageResults, trial: Trial, before: Findings) -> Findings | None:
        del before
        return results.scores(trial)

    def work(self, tools: StageTools, job: Job) -> Steps:
        rules = rules_of(job)
        for rule in rules:
            yield from _scores(tools, job.trial, rule, rules)


class RelearningStage(AscentStage):
    """Relearning from reinitialised weights, and the evaluation of the repaired model."""

    noun = "trial"

    def work(self, tools: StageTools, job: Job) -> Steps:
        trial, parts = job.trial, job.trial.hyperparameters
        scores = yield from _scores(tools, trial, parts.score, rules_of(job))
        suspects = select_weights(parts.reset, scores)
        key = tools.keys.relearn(trial, suspects)
        make = partial(_relearn, tools, trial, suspects, key)
        yield from tools.repair(trial.scenario, key, make)


ULRL_CHAIN: tuple[ChainStage, ...] = (AscentStage(), RelearningStage())


def rules_of(job: Job) -> Rules:
    """Return the scoring rules of the trials that share an ascent.

    Where settings are drawn, a later one may ask for any threshold of the axis, so that the
    ascent goes down to the lowest.
    """
    rules = {trial.hyperparameters.score: None for trial in job.trials}
    axis = job.axes.get("unlearn_threshold")
    if axis is not None:
        lowest = axis.low if isinstance(axis, Range) else min(axis)
        rules |= {replace(rule, unlearn_threshold=lowest): None for rule in rules}
    return tuple(rules)


def _scores(
    tools: StageTools, trial: Trial, config: ScoreConfig, rules: Rules
) -> Making[NeuronScores]:
    key = tools.keys.scores(trial, config)
    find = partial(_scored, tools.cached.store, key)
    found = find()
    if found is None:
        yield from tools.inputs.fetch(trial.scenario.dataset)
        classes = tools.inputs.images(trial.scenario.dataset).classes
        threshold = min(rule.stop_at(classes) for rule in (config, *rules))
        ascent = yield from _ascent(tools, trial, threshold)
        make = partial(_score, tools, trial, config, key, ascent)
        found = yield from tools.cached.once(SCORES.name, key, find, make)
    return found


def _scored(store: Store, key: str) -> NeuronScores | None:
    found = SCORES.read(store, key)
    return None if found is None else narrowed(NeuronScores, found.content)


def _score(
    tools: StageTools, trial: Trial, config: ScoreConfig, key: str, found: FoundAscent
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
    tools.cached.keep(SCORES, key, trial.scenario, seconds, content)
    yield from ()
    return scores


def _ascent(tools: StageTools, trial: Trial, threshold: float) -> Making[FoundAscent]:
    """Return an ascent that goes down to `threshold`, its key, and what it took."""
    ascent = tools.keys.ascent(trial)
    find = partial(find_ascent, tools.cached.store, ascent, trial, threshold)
    found = find()
    if found is None:
        victim = yield from tools.victims.victim(trial.scenario)
        tests = yield from tools.victims.tests(trial.scenario)
        make = partial(_unlearn, tools, trial, threshold, victim, tests)
        key = ascent_entry(ascent, threshold)
        found = yield from tools.cached.once(ASCENT.name, key, find, make)
    return found


def _unlearn(
    tools: StageTools, trial: Trial, threshold: float, victim: Weights, tests: TestSets
) -> Making[FoundAscent]:
    ascent: Ascent | None = None
    scenario, config = trial.scenario, trial.hyperparameters.unlearn
    started = time.perf_counter()
    curve: list[Point] = []
    steps = unlearn(
        config,
        victim,
        tools.inputs.clean(trial),
        threshold,
        tools.device,
        observe=lambda classifier: curve.append(monitored(classifier, tests)),
    )
    for ascent in steps:
        done = len(ascent.accuracy)
        yield Progress(stage=ASCENT.name, epoch=done, epochs=config.unlearn_epochs)
    if ascent is None:
        raise RuntimeError("an ascent has at least one epoch")
    key = ascent_entry(tools.keys.ascent(trial), threshold)
    seconds = time.perf_counter() - started
    content = widened(StoredAscent, ascent, curve=tuple(curve))
    return ascent, tools.cached.keep(ASCENT, key, scenario, seconds, content)


def _relearn(
    tools: StageTools,
    trial: Trial,
    suspects: Suspects,
    key: str,
    victim: Weights,
    tests: TestSets,
) -> Making[Weights | Evaluation]:
    config = trial.hyperparameters.relearn
    started = time.perf_counter()
    curve: list[Point] = []
    run = relearn(
        config,
        victim,
        suspects,
        tools.inputs.clean(trial),
        tools.device,
        observe=lambda classifier: curve.append(monitored(classifier, tests)),
    )
    training = []
    for epoch in run.epochs:
        training.append((epoch.loss, epoch.accuracy))
        yield Progress(
            stage=RELEARNING.name,
            epoch=epoch.number,
            epochs=config.relearn_epochs,
            curve=tuple(curve),
        )
    weights = run.classifier.weights()
    seconds = time.perf_counter() - started
    content = StoredRelearning(curve=tuple(curve), training=tuple(training))
    tools.keep_repaired(trial.scenario, key, seconds, weights, content)
    return weights


def ascent_entry(ascent: str, floor: float) -> str:
    """Return the key of an ascent that went down to `floor`."""
    return f"{ascent}-{floor!r}"


def find_ascent(store: Store, ascent: str, trial: Trial, threshold: float) -> FoundAscent | None:
    """Return a stored ascent that passed `threshold`, its key, and what it took.

    The epochs of two ascents that differ in nothing but the floor are the same, so a
    deeper one answers for a shallower.
    """
    exact = ascent_entry(ascent, threshold)
    others = [name for name in store.names(ASCENT.name, ascent) if name != exact]
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
