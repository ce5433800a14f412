"""Audits of victims and of repaired models: chains of stages, as repair methods are."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from torch import Tensor

from orchestrator.errors import StoreError
from orchestrator.pipeline.cached import Making, reported
from orchestrator.pipeline.chain import chain_of, repaired_key
from orchestrator.pipeline.tools import StageTools, Steps
from orchestrator.plan.jobs import AuditTarget, StageRun, trial_job
from orchestrator.plan.plan import Trial
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.serialization import REPAIRED, StoredTensors, stage_of_method
from ulrl.audits import AuditResult, audit_context
from ulrl.methods import RepairStage
from ulrl.models import Weights

Tensors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundAudit:
    """What an audit found in a model.

    Attributes:
        model: Key of the model.
        seconds: Of all stages of the audit.
        runs: These stages.
    """

    model: str
    result: AuditResult
    seconds: float
    runs: tuple[StageRun, ...]


def find_audit(results: StageResults, target: AuditTarget) -> FoundAudit | None:
    """Return what an audit found, if the store has all of it."""
    audit = target.audit
    model = results.keys.victim(target.trial.scenario)
    if target.repaired:
        model = repaired_key(results, target.trial)
    if not model:
        return None
    chain = _Chain(results.keys, target, model)
    before: Tensors = {}
    key, runs = "", list[StageRun]()
    for position, stage in enumerate(audit.stages):
        key = chain.key(position, key, before)
        kind = stage_of_method(stage.name)
        found = kind.read(results.store, key)
        if found is None:
            return None
        before = found.content.tensors
        runs.append(results.run(kind, key, target.trial.scenario, found))
    seconds = sum(run.seconds for run in runs)
    result = audit.result(before, _sample_count(target))
    return FoundAudit(model=model, result=result, seconds=seconds, runs=tuple(runs))


def work_on_audit(tools: StageTools, target: AuditTarget) -> Steps:
    """Compute what an audit's chain lacks, the model included if its weights are gone."""
    scenario = target.trial.scenario
    yield from tools.inputs.fetch(scenario.dataset)
    if target.repaired:
        model, weights = yield from _repaired(tools, target.trial)
    else:
        model = tools.keys.victim(scenario)
        weights = yield from tools.victims.victim(scenario)
    chain = _Chain(tools.keys, target, model)
    before: Tensors = {}
    key = ""
    for position, stage in enumerate(target.audit.stages):
        key = chain.key(position, key, before)
        kind = stage_of_method(stage.name)
        find = partial(_tensors, tools, stage.name, key)
        made = find()
        if made is None:
            make = partial(_make, tools, target, stage, key, weights, before)
            made = yield from tools.cached.once(kind.name, key, find, make)
        before = made


def _sample_count(target: AuditTarget) -> int:
    """Return how many clean samples an audit has, about: of a share per class, it is rounded."""
    facts = target.trial.scenario.dataset.info()
    if facts is None or not target.audit.needs_samples:
        return 0
    return max(1, int(facts.train_count * target.trial.hyperparameters.clean.clean_ratio))


class _Chain:
    """Keys of an audit's stages."""

    def __init__(self, keys: CacheKeys, target: AuditTarget, model: str) -> None:
        self._keys, self._audit, self._trial, self._model = keys, target.audit, target.trial, model

    def key(self, position: int, before: str, tensors: Tensors) -> str:
        stage = self._audit.stages[position]
        return self._keys.repair(
            self._trial,
            stage_of_method(stage.name).name,
            stage,
            before,
            stage.reads(tensors) if position else None,
            model=self._model,
            samples=self._audit.needs_samples,
        )


def _repaired(tools: StageTools, trial: Trial) -> Making[tuple[str, Weights]]:
    """Return a trial's repaired model and its key; it is made again if its weights are gone."""
    results = StageResults(tools.cached.store, tools.keys)
    model_spec = tools.inputs.model_spec(trial.scenario)
    found = REPAIRED.read(tools.cached.store, repaired_key(results, trial), model_spec)
    if found is None:
        place = len(chain_of(trial)) - 1
        with tools.weights_wanted():
            yield from chain_of(trial)[place].work(tools, trial_job(trial, place))
        found = REPAIRED.read(tools.cached.store, repaired_key(results, trial), model_spec)
    if found is None:
        raise StoreError(trial.name)
    return repaired_key(results, trial), found.content.of(model_spec)


def _make(
    tools: StageTools,
    target: AuditTarget,
    stage: RepairStage,
    key: str,
    weights: Weights,
    before: Tensors,
) -> Making[Tensors]:
    kind, trial = stage_of_method(stage.name), target.trial
    clean = tools.inputs.clean(trial) if target.audit.needs_samples else None
    context = audit_context(weights, clean, tools.device)
    started = time.perf_counter()
    tensors = yield from reported(stage.checked(context, before), kind.name)
    seconds = time.perf_counter() - started
    tools.cached.keep(kind, key, trial.scenario, seconds, StoredTensors(tensors=tensors))
    return tensors


def _tensors(tools: StageTools, stage: str, key: str) -> Tensors | None:
    found = stage_of_method(stage).read(tools.cached.store, key)
    return None if found is None else found.content.tensors
