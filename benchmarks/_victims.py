"""The stored victims of a finished study, and what they are tested on."""

from collections.abc import Generator
from typing import Any, TypeVar

import torch

from orchestrator.pipeline.cached import CachedStages
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.pipeline.victims import VictimStages
from orchestrator.plan.jobs import Site
from orchestrator.plan.plan import Plan, Scenario
from orchestrator.plan.resources import compute_here
from orchestrator.store.keys import CacheKeys
from orchestrator.store.serialization import VICTIM
from ulrl.models import Weights
from ulrl.poisoning import TestSets

T = TypeVar("T")


class StudyVictims:
    """Reads victims from a study's store. Torch then computes with one thread, as the study did."""

    def __init__(self, plan: Plan) -> None:
        study = plan.study
        compute = compute_here(study)
        torch.set_num_threads(1)
        self.plan = plan
        self.keys = CacheKeys(study.victim, compute)
        self.inputs = StageInputs()
        site = Site(store=study.store, study="table", device=compute.device)
        cached = CachedStages(site, self.keys)
        self.store = cached.store
        self.device = torch.device(compute.device)
        self._victims = VictimStages(cached, self.keys, study.victim, self.inputs, self.device)

    def victim(self, scenario: Scenario) -> Weights | None:
        """Return a scenario's victim; None where the store does not have it."""
        key, model_spec = self.keys.victim(scenario), self.inputs.model_spec(scenario)
        if VICTIM.read(self.store, key, model_spec) is None:
            return None  # it would be trained now
        return _last(self._victims.victim(scenario))

    def tests(self, scenario: Scenario) -> TestSets:
        """Return what a scenario's victim is tested on."""
        return _last(self._victims.tests(scenario))


def _last(steps: Generator[Any, None, T]) -> T:
    """Return what a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found
