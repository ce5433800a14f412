"""Keys of all that a trial needs, and configurations that differ in one field."""

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any

import pytest
import torch

from orchestrator.plan.plan import Trial, make_plan
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys
from tests.orchestrator_tests.small_studies import BLENDED, choice, small_study
from ulrl.precision import Precision
from ulrl.recipes import VictimRecipe
from ulrl.supervised import VictimConfig
from ulrl.weight_selection import LayerSuspects, Suspects

ROW = LayerSuspects(
    weight="linear.weight", rows=(1,), reset=torch.tensor([[True, False, True, False]])
)
SUSPECTS = Suspects(layers=(ROW,), reset_bias=True)
ALL = {"victim", "ascent", "scores", "relearn", "evaluated victim", "evaluated"}
FROM_ASCENT = {"ascent", "scores"}
FROM_RELEARN = {"relearn", "evaluated"}


def first_trial(**other: Any) -> Trial:
    """Return a trial of the blended attack on tiny pictures."""
    return make_plan(small_study(attacks=[choice(BLENDED)], **other)).trials[0]


def ring(victim: VictimConfig | None = None, compute: Compute | None = None) -> CacheKeys:
    fields = dataclasses.fields(VictimConfig)
    changes = {part.name: getattr(victim, part.name) for part in fields} if victim else {}
    return CacheKeys(VictimRecipe.of(**changes), compute or Compute())


def all_keys(keys: CacheKeys, trial: Trial, suspects: Suspects = SUSPECTS) -> dict[str, str]:
    """Return the keys of everything that a trial needs."""
    victim = keys.victim(trial.scenario)
    relearn = keys.relearn(trial, suspects)
    return {
        "victim": victim,
        "ascent": keys.ascent(trial),
        "scores": keys.scores(trial, trial.hyperparameters.score),
        "relearn": relearn,
        "evaluated victim": keys.evaluation(victim),
        "evaluated": keys.evaluation(relearn),
    }


def changed(one: dict[str, str], other: dict[str, str]) -> set[str]:
    return {name for name in one if one[name] != other[name]}


def other_value(value: Any) -> Any:
    """Return a legal value beside `value`."""
    if isinstance(value, Precision):  # most mean the same on a CPU, and share their keys
        return Precision.BF16
    if isinstance(value, StrEnum):
        return next(member for member in type(value) if member is not value)
    if value is None or isinstance(value, bool):
        return 7 if value is None else not value
    if isinstance(value, int):
        return 2 if value == 1 else value - 1
    if isinstance(value, float):
        return value * 0.5 if value else 0.25
    if isinstance(value, tuple):
        channels = bool(value) and all(isinstance(part, float) for part in value)
        return tuple(map(other_value, value)) if channels else (*value, 15)
    raise TypeError(value)


def variants(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield, for each field that is no place, its name and a copy that differs in it."""
    for part in dataclasses.fields(config):
        if not part.metadata.get("runtime", False):
            value = getattr(config, part.name)
            yield part.name, replace(config, **{part.name: other_value(value)})


def cases(*configs: Any) -> list[Any]:
    return [
        pytest.param(config, id=f"{type(config).__name__}.{name}")
        for config in configs
        for name, config in variants(config)
    ]


def with_part(trial: Trial, **parts: Any) -> Trial:
    return replace(trial, hyperparameters=replace(trial.hyperparameters, **parts))


def with_scenario(trial: Trial, **parts: Any) -> Trial:
    return replace(trial, scenario=replace(trial.scenario, **parts))
