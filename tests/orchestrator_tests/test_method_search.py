"""Settings drawn within each repair method: its own options, from lists and ranges."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import orchestrator as o
from orchestrator.cli.plan import counts
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.scheduler.sampling import SettingSampling, foresee, recorded
from orchestrator.search.samplers import SAMPLERS
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import Study
from orchestrator.spec.space import DrawnMethod, Range, identity
from orchestrator.store.study_folder import StudyFolder
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.methods.clp import CLP
from ulrl.methods.ft_sam import FTSAM

pytestmark = pytest.mark.usefixtures("empty_folder")

MIXED = """\
  seed: [0, 1]
  clean_ratio: {low: 0.02, high: 0.2}
  unlearn_threshold: {low: 0.1, high: 0.5}
  reinit_ratio: [0.3, 0.7]
  repair:
    - {name: ft_sam, rho: {low: 0.5, high: 4}, epochs: {low: 10, high: 200, log: true}}
    - ulrl
    - {name: clp, u: {low: 1, high: 4}}
    - {name: clp, rule: budget, budget: {low: 0.01, high: 0.2, log: true}}
"""
RANGES = {"rho": (0.5, 4.0), "epochs": (10, 200), "u": (1.0, 4.0), "budget": (0.01, 0.2)}
ULRLS = ("unlearn_threshold", "reinit_ratio")


def study_of(axes: str = MIXED, sampler: str = "tpe", settings: int = 8, more: str = "") -> Study:
    few = ", n_startup_trials: 3" if sampler in ("tpe", "gp") else ""
    return load(f"{SMALL}{axes}search: {{sampler: {sampler}, settings: {settings}{few}}}\n{more}")


def drawn(study: Study, folder: Path, most: int = 1000) -> tuple[Plan, SettingSampling]:
    """Draw settings until none is left, each after every trial of the one before was judged."""
    folder.mkdir(exist_ok=True)
    plan = make_plan(study, recorded(study, StudyFolder(folder)))
    decisions = Decisions(plan)
    sampling = SettingSampling(plan, StudyFolder(folder), decisions)
    trials = [trial for s in plan.settings for trial in plan.trials_of(s.number)]
    while True:
        for trial in trials:
            sampling.begun(trial)
            decisions.offer(trial, TrialOutcome(value=quality(trial.setting.values), curve=()))
            sampling.decided(trial)
        if not sampling.possible or len(plan.settings) >= most:
            return plan, sampling
        trials = sampling.draw()


def quality(values: Any) -> float:
    method = values["repair"]
    numbers = [getattr(method, name) or 0.0 for name in RANGES if hasattr(method, name)]
    return 0.5 + 0.001 * sum(numbers, values.get("clean_ratio", 0.1))


def methods_of(plan: Plan) -> list[str]:
    return [setting.values["repair"].name for setting in plan.settings]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "cmaes"])
def test_each_method_has_as_many_settings_of_its_own_options(sampler: str, tmp_path: Path) -> None:
    plan, sampling = drawn(study_of(sampler=sampler), tmp_path)
    assert methods_of(plan) == ["ft_sam", "ulrl", "clp"] * 8  # they take turns
    assert len({identity(setting.values) for setting in plan.settings}) == 24
    for trial in plan.trials:
        point, method = plan.point(trial), trial.setting.values["repair"]
        own = [point[axis] for axis in ULRLS]
        assert 0.02 <= point["clean_ratio"] <= 0.2
        if method.name == "ulrl":
            assert 0.1 <= own[0] <= 0.5
            assert own[1] in {0.3, 0.7}
            continue
        assert own == [None, None]
        if method.name == "ft_sam":
            used = ["rho", "epochs"]
        else:
            used = ["budget" if method.u is None else "u"]
        for option in used:
            low, high = RANGES[option]
            assert low <= getattr(method, option) <= high
    spread = {s.values["repair"].rho for s in plan.settings if s.values["repair"].name == "ft_sam"}
    assert len(spread) > 4
    assert max(spread) - min(spread) > 1
    assert not sampling.possible
    assert sampling.draw() == []


def test_optuna_has_a_study_per_method_and_what_each_setting_was_drawn_from(
    tmp_path: Path,
) -> None:
    plan, sampling = drawn(study_of(), tmp_path)
    names = [sampler.name for sampler in sampling.samplers]
    assert names == ["search of ft_sam", "search of ulrl", "search of clp"]
    tuned, ours, cut = (sampler.trials for sampler in sampling.samplers)
    assert all({*trial.params} == {"clean_ratio", "rho", "epochs"} for trial in tuned)
    assert all({*trial.params} == {"clean_ratio", *ULRLS} for trial in ours)
    kinds = {frozenset({*trial.params} - {"clean_ratio", "repair"}) for trial in cut}
    assert kinds == {
        frozenset({"u of clp(u=1 to 4)"}),
        frozenset({"budget of clp(rule=budget,budget=0.01 to 0.2)"}),
    }
    for trials, name in zip((tuned, ours, cut), ("ft_sam", "ulrl", "clp"), strict=True):
        settings = [s.values for s in plan.settings if s.values["repair"].name == name]
        for trial, values in zip(trials, settings, strict=True):
            assert trial.params["clean_ratio"] == values["clean_ratio"]
            assert trial.value == pytest.approx(quality(values))
    assert [trial.params["rho"] for trial in tuned] == [
        s.values["repair"].rho for s in plan.settings if s.values["repair"].name == "ft_sam"
    ]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_other_methods_change_nothing_of_what_is_drawn_for_one(
    sampler: str, tmp_path: Path
) -> None:
    alone = MIXED.replace("    - ulrl\n", "").replace(
        "    - {name: ft_sam, rho: {low: 0.5, high: 4}, epochs: {low: 10, high: 200, log: true}}\n",
        "",
    )
    alone = alone.replace("  unlearn_threshold: {low: 0.1, high: 0.5}\n", "")
    alone = alone.replace("  reinit_ratio: [0.3, 0.7]\n", "")
    one, _ = drawn(study_of(alone, sampler), tmp_path / "alone")
    all_, _ = drawn(study_of(sampler=sampler), tmp_path / "mixed")
    assert methods_of(one) == ["clp"] * 8
    found = [s.values for s in all_.settings if s.values["repair"].name == "clp"]
    for values, beside in zip((s.values for s in one.settings), found, strict=True):
        assert values["repair"] == beside["repair"]
        assert values["clean_ratio"] == beside["clean_ratio"]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "gp"])
def test_a_resume_draws_what_one_run_would(sampler: str, tmp_path: Path) -> None:
    study = study_of(sampler=sampler)
    whole, _ = drawn(study, tmp_path / "whole")
    for most in (4, 11, 1000):
        parts, _ = drawn(study, tmp_path / "parts", most)
    assert [identity(s.values) for s in parts.settings] == [
        identity(s.values) for s in whole.settings
    ]
    assert len(parts.settings) == 24


def test_fewer_settings_keep_the_first_of_each_method(tmp_path: Path) -> None:
    drawn(study_of(), tmp_path)
    fewer, _ = drawn(study_of(settings=2), tmp_path)
    assert Counter(methods_of(fewer)) == {"ft_sam": 2, "ulrl": 2, "clp": 2}
    narrow = study_of(MIXED.replace("u: {low: 1, high: 4}", "u: {low: 1, high: 1.5}"))
    again = make_plan(narrow, recorded(narrow, StudyFolder(tmp_path)))
    left = Counter(methods_of(again))
    assert left["ft_sam"] == left["ulrl"] == 8
    assert 0 < left["clp"] < 8


def test_cmaes_draws_within_an_entry_of_two_ranges(tmp_path: Path) -> None:
    axes = "  repair: {name: ft_sam, rho: {low: 0.5, high: 4}, lr: {low: 1e-3, high: 0.1}}\n"
    plan, sampling = drawn(study_of(axes, "cmaes"), tmp_path)
    assert len({s.values["repair"].rho for s in plan.settings}) == 8
    again, after = drawn(study_of(axes, "cmaes", settings=10), tmp_path)
    assert len(again.settings) == 10
    assert [t.params for t in after.samplers[0].trials][:8] == [
        t.params for t in sampling.samplers[0].trials
    ]


def test_a_methods_defaults_are_its_first_setting_if_its_options_admit_them(
    tmp_path: Path,
) -> None:
    axes = "  repair: [{name: ft_sam, rho: {low: 0.5, high: 4}}, {name: clp, u: [2, 4]}]\n"
    plan, _ = drawn(study_of(axes, settings=2), tmp_path)
    assert plan.settings[0].values["repair"] == FTSAM()
    assert {s.values["repair"] for s in plan.settings} > {CLP(u=2.0), CLP(u=4.0)}


def test_a_method_with_fewer_settings_has_those(tmp_path: Path) -> None:
    axes = (
        "  seed: [0, 1]\n  repair: [fine_tuning, {name: clp, u: {low: 1, high: 3, step: 1}},"
        " {name: clp, rule: budget}]\n"
    )
    plan, _ = drawn(study_of(axes, settings=4), tmp_path)
    assert Counter(methods_of(plan)) == {"fine_tuning": 1, "clp": 4}
    methods = {s.values["repair"].label for s in plan.settings}
    assert methods == {"fine_tuning", "clp(u=1.0)", "clp(u=2.0)", "clp(u=3.0)", "clp(rule=budget)"}
    said = "2 scenarios × 4 settings of each of 2 repair methods (fine_tuning has 1) drawn by tpe"
    assert counts(plan) == f"{said} = at most 10 trials"
    expected = make_plan(study_of(axes, settings=4))
    foresee(expected)
    assert Counter(methods_of(expected)) == {"fine_tuning": 1, "clp": 4}


def test_a_method_that_is_excluded_is_not_drawn(tmp_path: Path) -> None:
    axes = "  repair: [fine_tuning, {name: clp, u: {low: 1, high: 3}}, ulrl]\n  alpha: [0.7, 0.9]\n"
    plan, _ = drawn(study_of(axes, settings=2, more="exclude: [{repair: clp}]\n"), tmp_path)
    assert Counter(methods_of(plan)) == {"fine_tuning": 1, "ulrl": 2}


def test_the_resolved_study_reads_as_the_same() -> None:
    study = study_of()
    assert load(resolved_yaml(study)) == study
    first, *_, last = study.grid.settings["repair"]  # type: ignore[misc]
    assert first.ranges == (
        ("rho", Range(low=0.5, high=4.0)),
        ("epochs", Range(low=10, high=200, log=True)),
    )
    assert isinstance(last, DrawnMethod)
    assert last.label == "clp(rule=budget,budget=0.01 to 0.2)"


def test_a_study_of_drawn_methods_has_one_table_however_often_it_is_run() -> None:
    Path("grid.yaml").write_text("""\
name: drawn
grid:
  attack: badnets
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.06
  unlearn_epochs: 2
  relearn_epochs: 1
  unlearn_threshold: {low: 0.1, high: 0.5}
  repair:
    - ulrl
    - {name: clp, u: {low: 0.5, high: 3}}
    - {name: fine_tuning, epochs: 1}
search: {sampler: random, settings: 3}
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
store: store
""")
    result = o.run_study(o.load_study("grid.yaml"), out="runs/drawn", inline=True)
    table = Path("runs/drawn/results.csv").read_bytes()
    frame = result.frame
    assert set(frame.status) == {"done"}
    assert Counter(frame.repair) == {"ulrl": 3, "clp": 3, "fine_tuning": 1}
    assert frame[frame.repair == "ulrl"].unlearn_threshold.nunique() == 3
    assert frame[frame.repair != "ulrl"].unlearn_threshold.isna().all()
    assert frame[frame.repair == "clp"].repair_options.nunique() == 3
    o.run_study(o.load_study("grid.yaml"), out="runs/drawn", inline=True)
    assert Path("runs/drawn/results.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("ratios", "begins"), [("0.1", True), ("[0.01, 0.1]", True), ("[0.1, 0.2]", False)]
)
def test_a_methods_first_setting_is_its_defaults_where_the_clean_axes_admit_it(
    ratios: str, tmp_path: Path, *, begins: bool
) -> None:
    """The preset's clean ratio is 0.01; one ratio leaves no choice."""
    axes = f"  clean_ratio: {ratios}\n  repair: [{{name: ft_sam, rho: {{low: 0.5, high: 4}}}}]\n"
    plan, _ = drawn(study_of(axes, "random", 2), tmp_path / "out")
    assert (plan.settings[0].values["repair"] == FTSAM()) == begins
