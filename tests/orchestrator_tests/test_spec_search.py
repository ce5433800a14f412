"""Ranges, the `search` section and exclusions on ranges, by the whole text a user reads."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from orchestrator.search.samplers import SAMPLERS as CLASSES
from orchestrator.spec.load import resolved_yaml
from orchestrator.spec.model import Search
from orchestrator.spec.search_section import SAMPLERS
from orchestrator.spec.space import Range, Span
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

SEARCH = "search: {sampler: tpe, settings: 8}\n"
NEEDED = (
    "a range is drawn from by a sampler; add search: {sampler: tpe, settings: 40}, or list values"
)
LEFT_OUT = {  # of Optuna's arguments: functions, other samplers, what we set, what is deprecated
    *("seed", "independent_sampler", "warn_independent_sampling", "constraints_func"),
    *("consider_prior", "prior_weight", "consider_magic_clip", "consider_endpoints", "gamma"),
    *("weights", "group", "warn_asynchronous_seeding", "x0", "sigma0", "restart_strategy"),
    *("inc_popsize", "source_trials"),
}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_table_is_optunas(sampler: str) -> None:
    theirs = dict(inspect.signature(CLASSES[sampler]).parameters)
    ours = SAMPLERS[sampler]
    assert {*ours} == {*theirs} - LEFT_OUT
    for name, argument in ours.items():
        assert argument.default == theirs[name].default, name


def test_every_sampler_of_the_table_is_optunas() -> None:
    assert {*CLASSES} == {*SAMPLERS}


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


def test_lists_alone_can_be_drawn_from() -> None:
    study = load(f"{SMALL}  layers: [head, all]\n  max_suspects: [1, 2, 3, 4]\n{SEARCH}")
    assert study.search is not None


def test_more_combinations_than_a_grid_may_have_can_be_drawn_from() -> None:
    values = f"[{', '.join(f'{n / 100}' for n in range(1, 99))}]"
    axes = "".join(f"  {name}: {values}\n" for name in ("alpha", "reinit_ratio", "relearn_lr"))
    more = "exclude: [{alpha: 0.5, reinit_ratio: {low: 0.1, high: 0.2}}]\n"
    assert load(f"{SMALL}{axes}  suspect_share: {values}\n{more}{SEARCH}").exclude
    assert mistakes(f"{SMALL}{axes}  suspect_share: {values}\n") == [
        "2: grid: a grid has at most 1,000,000 trials; got 92,236,816"
    ]


def test_overrides_reach_ranges() -> None:
    overrides = ("grid.alpha={low: 0.2, high: 0.3}", "search={sampler: random, settings: 3}")
    study = load(SMALL, *overrides)
    assert study.grid.settings == {"alpha": Range(low=0.2, high=0.3)}
    assert study.search == Search(sampler="random", settings=3)
    expected = "--set grid.alpha={low: 1}: grid.alpha: a range needs high"
    assert mistakes(f"{SMALL}{SEARCH}", "grid.alpha={low: 1}") == [expected]


RANGES_CASES = {
    "alpha: {low: 1, high: 0.5}": "6: grid.alpha.high: high is above low, 1.0; got 0.5",
    "alpha: {low: 1, high: 1}": "6: grid.alpha.high: high is above low, 1.0; got 1.0",
    "alpha: {low: 0, high: 1, log: true}": (
        "6: grid.alpha.low: low is above 0 where log is true; got 0.0"
    ),
    "alpha: {low: 0.1, high: 1, log: true, step: 0.1}": (
        "6: grid.alpha.step: log and step exclude each other; leave one out"
    ),
    "alpha: {low: 0, high: 1, step: 0}": "6: grid.alpha.step: step is above 0; got 0",
    "alpha: {low: 0, high: 1, step: 0.3}": (
        "6: grid.alpha.step: high is low plus a whole number of steps; got 0.0 to 1.0 by 0.3, of "
        "which the last is 0.9"
    ),
    "max_suspects: {low: 0, high: 4, step: 0.5}": (
        "6: grid.max_suspects.step: step is a whole number, as the values are; got 0.5"
    ),
    "max_suspects: {low: 0.5, high: 4}": (
        "6: grid.max_suspects.low: low is a whole number; got 0.5"
    ),
    "max_suspects: {low: ~, high: 4}": "6: grid.max_suspects.low: low is a number; got nothing",
    "alpha: {low: a, high: 1}": "6: grid.alpha.low: low is a number; got 'a'",
    "alpha: {low: 0}": "6: grid.alpha: a range needs high",
    "alpha: {}": "6: grid.alpha: a range needs low and high",
    "alpha: {low: 0, high: 1, logg: 1}": (
        "6: grid.alpha.logg: a range has no key 'logg'; did you mean 'log'?"
    ),
    "alpha: {low: 0, high: 1, log: 1}": "6: grid.alpha.log: log is true or false; got 1",
    "alpha: {low: 0, high: 1, step: x}": "6: grid.alpha.step: step is a number; got 'x'",
    "reinit_ratio: {low: 0, high: 1.5}": (
        "6: grid.reinit_ratio.high: reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
        "got 1.5"
    ),
    "layers: {low: 0, high: 1}": (
        "6: grid.layers: layers has no range, which is of numbers; list the values"
    ),
    "score_bias: {low: 0, high: 1}": (
        "6: grid.score_bias: score_bias has no range, which is of numbers; list the values"
    ),
    "unlearn_milestones: {low: 0, high: 1}": (
        "6: grid.unlearn_milestones: unlearn_milestones has no range, which is of numbers; list "
        "the values"
    ),
    "seed: {low: 0, high: 1}": "6: grid.seed: seed is a whole number; got a mapping",
    "clean_ratio: {low: 0.0001, high: 0.1}": (
        "6: grid.clean_ratio.low: on digits, clean_ratio 0.0001 of 1297 training images is 0 "
        "samples, and ULRL needs at least 2: from 0.0016 on"
    ),
}


@pytest.mark.parametrize(("axis", "expected"), RANGES_CASES.items())
def test_wrong_ranges(axis: str, expected: str) -> None:
    assert mistakes(f"{SMALL}  {axis}\n{SEARCH}") == [expected]


A_RANGE = "  alpha: {low: 0, high: 1}\n"
SEARCH_CASES = {
    "": f"6: grid.alpha: {NEEDED}",
    "search: 3\n": (
        "7: search: search is a mapping; write search: {sampler: tpe, settings: 40}; got 3"
    ),
    "search: {sampler: tpe}\n": (
        "7: search: search needs settings; write search: {sampler: tpe, settings: 40}"
    ),
    "search: {sampler: tpi, settings: 2}\n": (
        "7: search.sampler: no sampler is called 'tpi'; did you mean 'tpe'?"
    ),
    "search: {sampler: nsga, settings: 2}\n": (
        "7: search.sampler: no sampler is called 'nsga'; there are tpe, qmc, random, cmaes, gp"
    ),
    "search: {sampler: tpe, settings: 0}\n": ("7: search.settings: settings is at least 1; got 0"),
    "search: {sampler: tpe, settings: 2.5}\n": (
        "7: search.settings: settings is a whole number; got 2.5"
    ),
    "search: {sampler: random, settings: 2, n_startup_trials: 3}\n": (
        "7: search.n_startup_trials: random has no argument 'n_startup_trials'; it has settings, "
        "seed"
    ),
    "search: {sampler: qmc, settings: 2, qmc_type: soboll}\n": (
        "7: search.qmc_type: qmc_type is sobol or halton; got 'soboll'"
    ),
    "search: {sampler: cmaes, settings: 2}\n": (
        "7: search: cmaes needs at least two ranges, since it draws from lists at random; take "
        "tpe, or write ranges"
    ),
    "search: {sampler: cmaes, settings: 2, lr_adapt: true, with_margin: true}\n": (
        "7: search: with_margin and lr_adapt exclude each other; choose one"
    ),
}


@pytest.mark.parametrize(("section", "expected"), SEARCH_CASES.items())
def test_wrong_sections(section: str, expected: str) -> None:
    assert mistakes(f"{SMALL}{A_RANGE}{section}") == [expected]


def test_what_a_space_does_not_have() -> None:
    assert mistakes(
        f"{SMALL}  max_suspects: {{low: 1, high: 3}}\n  layers: [head, all]\n{SEARCH}"
    ) == ["8: search.settings: settings is at most the 6 there are; got 8"]
    assert mistakes(f"{SMALL}  layers: head\n{SEARCH}") == [
        "7: search: there is nothing to draw: no setting axis of the grid has a choice"
    ]


def test_a_sampler_does_not_draw_defence_seeds() -> None:
    lines = mistakes(
        f"{SMALL}  defence_seed: [0, 1]\n  max_suspects: {{low: 1, high: 30}}\n{SEARCH}"
    )
    assert [line.partition("; ")[0] for line in lines] == [
        "8: search: a sampler would draw defence_seed as if it were a hyper-parameter"
    ]


def test_all_mistakes_at_once() -> None:
    axes = "  alpha: {low: 2, high: 1}\n  relearn_lr: {low: 0, high: 1, step: -1}\n"
    assert mistakes(f"{SMALL}{axes}search: {{sampler: tpe, settings: x, seed: -1}}\n") == [
        "6: grid.alpha.high: high is above low, 2.0; got 1.0",
        "7: grid.relearn_lr.low: relearn_lr is above 0 and at most 100; got 0.0",
        "8: search.settings: settings is a whole number; got 'x'",
        "8: search.seed: seed is at least 0; got -1",
    ]


GRID = f"{SMALL}{A_RANGE}  max_suspects: {{low: 1, high: 5}}\n  relearn_epochs: [5, 9]\n"
EXCLUDE_CASES: dict[str, Any] = {
    "{max_suspects: 3, relearn_epochs: 5}": {"max_suspects": (3,), "relearn_epochs": (5,)},
    "{alpha: {low: 0.2, high: 0.4}}": {"alpha": (Span(low=0.2, high=0.4),)},
    "{alpha: [{low: 0, high: 0.1}, {low: 0.9, high: 1}], relearn_epochs: {low: 6, high: 9}}": {
        "alpha": (Span(low=0.0, high=0.1), Span(low=0.9, high=1.0)),
        "relearn_epochs": (Span(low=6, high=9),),
    },
    "{max_suspects: [5, {low: 1, high: 2}]}": {"max_suspects": (Span(low=1, high=2), 5)},
    "{alpha: 0.5}": (
        "alpha: alpha is any number of a range, so no single one is ever met; write "
        "{low: ..., high: ...}"
    ),
    "{max_suspects: 6}": "max_suspects: max_suspects in the grid is 1 to 5; got 6",
    "{alpha: {low: 2, high: 3}}": (
        "alpha: alpha in the grid is 0 to 1; nothing of it is in 2 to 3"
    ),
    "{relearn_epochs: {low: 6, high: 8}}": (
        "relearn_epochs: relearn_epochs in the grid is 5, 9; nothing of it is in 6 to 8"
    ),
    "{alpha: {low: 0.5, high: 0.4}}": "alpha.high: high is at least low, 0.5; got 0.4",
    "{alpha: {low: 0.5}}": "alpha: a range needs high",
    "{alpha: {low: 0, high: 1, step: 1}}": (
        "alpha.step: a range has no key 'step'; it has low, high"
    ),
}


@pytest.mark.parametrize(("entry", "expected"), EXCLUDE_CASES.items())
def test_exclusions_of_what_is_drawn(entry: str, expected: Any) -> None:
    text = f"{GRID}exclude: [{entry}]\n{SEARCH}"
    if isinstance(expected, str):
        assert mistakes(text) == [f"9: exclude.0.{expected}"]
    else:
        study = load(text)
        assert [dict(one.conditions) for one in study.exclude] == [expected]
        assert load(resolved_yaml(study)) == study
