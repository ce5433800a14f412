"""Ranges, the `search` section and exclusions on ranges, by the whole text a user reads."""

import inspect
from typing import Any

import pytest

from orchestrator.search.samplers import SAMPLERS as CLASSES
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Search
from orchestrator.spec.sections import SAMPLERS
from orchestrator.spec.space import Range, Span
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

pytestmark = pytest.mark.usefixtures("empty_folder")

SEARCH = "search: {sampler: tpe, settings: 8}\n"
LEFT_OUT = {  # of Optuna's arguments: functions, other samplers, what we set, what is deprecated
    *("seed", "independent_sampler", "warn_independent_sampling", "constraints_func"),
    *("consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "gamma"),
    *("weights", "group", "warn_asynchronous_seeding", "x0", "sigma0", "restart_strategy"),
    *("inc_popsize", "source_trials"),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_table_is_optunas(sampler: str) -> None:
    theirs = dict(inspect.signature(CLASSES[sampler]).parameters)
    ours = SAMPLERS[sampler]
    assert {*ours} == {*theirs} - LEFT_OUT
    for name, (_, default) in ours.items():
        assert default == theirs[name].default, name


AXES = {
    "alpha: {low: 0.1, high: 1}": Range(low=0.1, high=1.0),
    "alpha: {low: 1e-3, high: 1, log: true}": Range(low=0.001, high=1.0, log=True),
    "reinit_ratio: {low: 0, high: 1, step: 0.25}": Range(low=0.0, high=1.0, step=0.25),
    "max_suspects: {low: 1, high: 5}": Range(low=1, high=5),
    "relearn_epochs: {low: 5, high: 25, step: 10}": Range(low=5, high=25, step=10),
    "relearn_epochs: {low: 1, high: 100, log: true}": Range(low=1, high=100, log=True),
    "relearn_clip_norm: {low: 1, high: 5}": Range(low=1.0, high=5.0),  # or null, in a list
}


@pytest.mark.parametrize(("axis", "meant"), AXES.items())
def test_ranges_as_they_are_meant(axis: str, meant: Range) -> None:
    study = load(f"{SMALL}  {axis}\nsearch: {{sampler: random, settings: 2}}\n")
    (found,) = study.grid.settings.values()
    assert found == meant
    assert isinstance(found, Range)
    assert type(found.low) is type(meant.low)
    assert load(resolved_yaml(study)) == study


def test_a_search_as_it_is_meant() -> None:
    text = f"{SMALL}  layers: [head, all]\n  alpha: {{low: 0, high: 1}}\n"
    study = load(f"{text}search: {{sampler: gp, settings: 9, seed: 3, n_startup_trials: 4}}\n")
    arguments = {"n_startup_trials": 4, "deterministic_objective": False}
    assert study.search == Search(sampler="gp", settings=9, seed=3, arguments=arguments)
    assert load(resolved_yaml(study)) == study


def test_more_combinations_than_a_grid_may_have_can_be_drawn_from() -> None:
    values = f"[{', '.join(f'{n / 100}' for n in range(1, 99))}]"
    axes = "".join(f"  {name}: {values}\n" for name in ("alpha", "reinit_ratio", "relearn_lr"))
    more = "exclude: [{alpha: 0.5, reinit_ratio: {low: 0.1, high: 0.2}}]\n"
    assert load(f"{SMALL}{axes}  suspect_share: {values}\n{more}{SEARCH}").exclude
    assert mistakes(f"{SMALL}{axes}  suspect_share: {values}\n") == [
        "2: grid: a grid has at most 1,000,000 trials; got 92,236,816"
    ]


GRID = f"""{SMALL}
  alpha: {{low: 0, high: 1}}
  max_suspects: {{low: 1, high: 5}}
  relearn_epochs: [5, 9]
"""
EXCLUDED: dict[str, Any] = {
    "{max_suspects: 3, relearn_epochs: 5}": {"max_suspects": (3,), "relearn_epochs": (5,)},
    "{alpha: {low: 0.2, high: 0.4}}": {"alpha": (Span(low=0.2, high=0.4),)},
    "{alpha: [{low: 0, high: 0.1}, {low: 0.9, high: 1}], relearn_epochs: {low: 6, high: 9}}": {
        "alpha": (Span(low=0.0, high=0.1), Span(low=0.9, high=1.0)),
        "relearn_epochs": (Span(low=6, high=9),),
    },
    "{max_suspects: [5, {low: 1, high: 2}]}": {"max_suspects": (Span(low=1, high=2), 5)},
}


@pytest.mark.parametrize(("entry", "expected"), EXCLUDED.items())
def test_exclusions_of_what_is_drawn(entry: str, expected: dict[str, tuple[Any, ...]]) -> None:
    study = load(f"{GRID}exclude: [{entry}]\n{SEARCH}")
    assert [dict(one.conditions) for one in study.exclude] == [expected]
    assert load(resolved_yaml(study)) == study
