"""Victims, trained or imported, and what they are tested on."""

import time
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from orchestrator.errors import SpecError
from orchestrator.pipeline.cached import CachedStages, Making, reported
from orchestrator.pipeline.inputs import StageInputs, import_victim
from orchestrator.plan.jobs import Progress
from orchestrator.plan.plan import Plan, Scenario
from orchestrator.store.keys import CacheKeys
from orchestrator.store.serialization import (
    HELPER,
    TRIGGER,
    VICTIM,
    StoredHelper,
    StoredTensors,
    StoredVictim,
)
from ulrl.attacks import AttackContext, Helper, Learned
from ulrl.interchange import ImportRefused
from ulrl.models import ModelSpec, Weights
from ulrl.poisoning import TestSets
from ulrl.recipes import VictimRecipe
from ulrl.victim import train_victim


def check_imports(plan: Plan, *, absent: bool = True) -> None:
    """Read every victim that is to be imported, and say what is wrong with any of them.

    Args:
        plan: Of the study.
        absent: Whether one that is not there is wrong; a plan can do without.

    Raises:
        SpecError: Some are not there, not sound, or not of the scenarios they are for.
    """
    seen: dict[str, None] = {}
    for scenario in plan.scenarios:
        model_spec = model_spec_from_info(scenario)
        if scenario.source is None or model_spec is None:
            continue
        if not absent and not Path(scenario.source).exists():
            continue
        try:
            import_victim(scenario, model_spec)
        except ImportRefused as error:
            seen[f"{plan.study.source}: victim.import: {error}"] = None
    if seen:
        raise SpecError(list(seen))


def model_spec_from_info(scenario: Scenario) -> ModelSpec | None:
    """Return what a scenario's network is built from, without an image; None if unknown."""
    info = scenario.dataset.info()
    if info is None:
        return None
    return ModelSpec(
        architecture=scenario.architecture,
        classes=info.classes,
        channels=info.channels,
        side=info.side,
        preprocessing=scenario.preprocessing,
    )


T = TypeVar("T")

AT_HAND = 2  # scenarios whose victims and test sets stay loaded


class VictimStages:
    """The victims of a study, as a worker needs them."""

    def __init__(
        self,
        cached: CachedStages,
        keys: CacheKeys,
        recipe: VictimRecipe,
        inputs: StageInputs,
        device: torch.device,
    ) -> None:
        self._cached = cached
        self._keys = keys
        self._recipe = recipe
        self._inputs = inputs
        self._device = device
        self._at_hand: dict[str, tuple[Weights, Learned]] = {}
        self._tests: dict[str, TestSets] = {}

    def victim(self, scenario: Scenario) -> Making[Weights]:
        """Return a scenario's victim."""
        weights, _ = yield from self._armed(scenario)
        return weights

    def tests(self, scenario: Scenario) -> Making[TestSets]:
        """Return a scenario's test sets, with the trigger that its victim knows."""
        key = self._keys.victim(scenario)
        if key not in self._tests:
            yield from self._inputs.fetch(scenario.dataset)
            learned: Learned = {}
            if scenario.source is None:
                before = yield from self.helped(scenario)
                _, along = yield from self._armed(scenario)
                learned = {**before, **along}
            _keep_few(self._tests, key, self._inputs.tests(scenario, learned))
        return self._tests[key]

    def helped(self, scenario: Scenario, until: Helper | None = None) -> Making[dict[str, Tensor]]:
        """Return what a scenario's attack had trained before its victim, or up to one helper."""
        learned: dict[str, Tensor] = {}
        for helper in scenario.helpers:
            learned = yield from self._helper(scenario, helper, learned)
            if helper == until:
                break
        return learned

    def _helper(
        self, scenario: Scenario, helper: Helper, learned: Learned
    ) -> Making[dict[str, Tensor]]:
        """Return the result of a helper of a scenario, which needs what is `learned`."""
        key = self._keys.helper(scenario, helper)
        found = self._trained(key)
        if found is not None:
            return found
        yield from self._inputs.fetch(scenario.dataset)
        find = partial(self._trained, key)
        make = partial(self._train_helper, scenario, helper, learned, key)
        return (yield from self._cached.once("train_helper", key, find, make))

    def _trained(self, key: str) -> dict[str, Tensor] | None:
        found = HELPER.read(self._cached.store, key)
        return None if found is None else dict(found.content.tensors)

    def _train_helper(
        self, scenario: Scenario, helper: Helper, learned: Learned, key: str
    ) -> Making[dict[str, Tensor]]:
        started = time.perf_counter()
        context = AttackContext(
            model_spec=self._inputs.model_spec(scenario),
            recipe=self._recipe.config(scenario.dataset.name, scenario.poison.attack.name),
            images=self._inputs.images(scenario.dataset),
            seed=scenario.seed,
            device=self._device,
            learned=learned,
        )
        name = type(helper).__name__
        tensors = yield from reported(helper.trained(context), name)
        seconds = time.perf_counter() - started
        content = StoredHelper(helper=name, tensors=tensors)
        self._cached.keep(HELPER, key, scenario, seconds, content)
        return tensors

    def _armed(self, scenario: Scenario) -> Making[tuple[Weights, Learned]]:
        """Return a scenario's victim, and what its trigger learned along with it."""
        key = self._keys.victim(scenario)
        yield from self._inputs.fetch(scenario.dataset)
        if key not in self._at_hand:
            find = partial(self._stored, scenario, key)
            found = find()
            if found is None:
                if scenario.source is None:
                    learned = yield from self.helped(scenario)
                    make = partial(self._train, scenario, key, learned)
                else:
                    make = partial(self._import, scenario, key)
                found = yield from self._cached.once("train_victim", key, find, make)
            _keep_few(self._at_hand, key, found)
        return self._at_hand[key]

    def _stored(self, scenario: Scenario, key: str) -> tuple[Weights, Learned] | None:
        model_spec = self._inputs.model_spec(scenario)
        found = VICTIM.read(self._cached.store, key, model_spec)
        if found is None:
            return None
        along: Learned = {}
        if found.content.learned:
            trigger = TRIGGER.read(self._cached.store, key)
            if trigger is None:
                return None  # without its trigger, the victim cannot be judged
            along = trigger.content.tensors
        return found.content.of(model_spec), along

    def _import(self, scenario: Scenario, key: str) -> Making[tuple[Weights, Learned]]:
        started = time.perf_counter()
        weights = self._inputs.imported(scenario).weights
        seconds = time.perf_counter() - started
        content = StoredVictim(training=(), learned=False, state=weights.state)
        self._cached.keep(VICTIM, key, scenario, seconds, content, weights.model_spec)
        yield from ()
        return weights, {}

    def _train(
        self, scenario: Scenario, key: str, learned: Learned
    ) -> Making[tuple[Weights, Learned]]:
        started = time.perf_counter()
        config = self._recipe.config(scenario.dataset.name, scenario.poison.attack.name)
        run = train_victim(
            config,
            self._inputs.model_spec(scenario),
            scenario.poison,
            self._inputs.images(scenario.dataset),
            scenario.seed,
            self._device,
            learned,
        )
        training = []
        for epoch in run.epochs:
            training.append((epoch.loss, epoch.accuracy))
            yield Progress(stage="train_victim", epoch=epoch.number, epochs=config.epochs)
        weights, along = run.classifier.weights(), dict(run.learned())
        seconds = time.perf_counter() - started
        if along:  # before the victim, which is of no use without
            TRIGGER.write(self._cached.store, key, StoredTensors(tensors=along))
        content = StoredVictim(training=tuple(training), learned=bool(along), state=weights.state)
        self._cached.keep(VICTIM, key, scenario, seconds, content, weights.model_spec)
        return weights, along


def _keep_few(held: dict[str, T], key: str, value: T) -> None:
    while len(held) >= AT_HAND:
        held.pop(next(iter(held)))
    held[key] = value
