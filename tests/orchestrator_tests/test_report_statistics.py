"""The report's statistics against the same ones by pandas, SciPy and least squares."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from scipy import stats

from orchestrator.reporting.build import write_report
from orchestrator.reporting.read_folder import StudyResults, read_results, read_study
from orchestrator.reporting.statistics import (
    EXACT,
    FANOVA,
    Block,
    block_of,
    complete_part,
    complete_scenarios,
    importances,
)
from orchestrator.reporting.summary import sound, summarise
from orchestrator.reporting.svg import is_grid, setting_axes
from orchestrator.search.importance import axis_importances
from tests.orchestrator_tests.report_folders import (
    make_rows,
    unfinish,
    write_study,
)

FAMILY = ["attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"]
SCENARIO = [*FAMILY, "seed"]
AXES = ["unlearn_threshold", "reinit_ratio"]


@pytest.fixture(scope="module")
def done(study: Path) -> pd.DataFrame:
    results = pd.read_csv(study / "results.csv")
    return results[(results["status"] == "done") & (results["victim_ok"] == True)]  # noqa: E712


def shape(block: Block) -> tuple[int, int]:
    return len(block.scenarios), len(block.settings)


def block(results: StudyResults, column: str = "der_report") -> Block:
    outcomes = [o for o in sound(summarise(results, "der").outcomes) if o.best]
    return block_of(outcomes, column)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("metric", ["acc", "asr", "der"])
def test_marginals_are_means_of_what_is_balanced(
    study: Path, done: pd.DataFrame, axis: str, metric: str
) -> None:
    column = "der_report" if metric == "der" else f"{metric}_after_report"
    other = next(name for name in AXES if name != axis)
    wide = done.pivot_table(index=[*SCENARIO, other], columns=axis, values=column).dropna()
    of_scenarios = wide.groupby(level=SCENARIO).mean()
    shown = pd.read_csv(study / "figures" / "marginals.csv")
    shown = shown[(shown["axis"] == axis) & (shown["metric"] == metric)]
    pooled = shown[shown["attack"].isna()].set_index("value")
    assert list(pooled["scenarios"]) == [len(of_scenarios)] * 3
    assert list(pooled["trials"]) == [len(wide)] * 3
    of_attacks = of_scenarios.groupby(level="attack").mean()
    reference = of_attacks.columns[0]
    for value, means in of_attacks.items():
        low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
        row = pooled.loc[value]  # type: ignore[call-overload]
        assert row["mean"] == pytest.approx(means.mean(), rel=1e-12)
        assert row["low"] == pytest.approx(max(0, low), rel=1e-9)
        assert row["high"] == pytest.approx(min(1, high), rel=1e-9)
        assert (row["attacks"], row["reference"]) == (len(means), reference)
        if value == reference:
            assert pd.isna(row["difference"])
            continue
        gaps = means - of_attacks[reference]
        low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
        found = row[["difference", "difference_low", "difference_high", "difference_p"]]
        p = stats.ttest_rel(means, of_attacks[reference]).pvalue
        assert list(found) == pytest.approx([gaps.mean(), low, high, p], rel=1e-9)
    for attack, part in of_scenarios.groupby(level="attack"):
        row = shown[shown["attack"].str.startswith(str(attack), na=False)]
        if str(attack) != "blended":  # whose two variants are told apart
            assert list(row["mean"]) == pytest.approx(list(part.mean()), rel=1e-12)


def explained(frame: pd.DataFrame, factors: Sequence[str], column: str) -> float:
    """Return the share of the variance that a linear model of all cells of factors explains."""
    cells = frame[list(factors)].astype(str).agg("|".join, axis=1)
    design = pd.get_dummies(cells).to_numpy(dtype=float)
    values = frame[column].to_numpy()
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(fitted.var() / values.var())


def test_variance_is_what_regressions_explain(study: Path, done: pd.DataFrame) -> None:
    whole = done[done.groupby(SCENARIO)["der_report"].transform("size") == 9].copy()
    whole["scenario"] = whole[SCENARIO].astype(str).agg("|".join, axis=1)
    factors = ["scenario", *AXES]
    shown = pd.read_csv(study / "figures" / "variance.csv").set_index("factors")
    singles = {name: explained(whole, [name], "der_report") for name in factors}
    for name, share in singles.items():
        assert shown.loc[name, "share"] == pytest.approx(share, rel=1e-9)
    for one, other in itertools.combinations(factors, 2):
        share = explained(whole, [one, other], "der_report") - singles[one] - singles[other]
        assert shown.loc[f"{one} × {other}", "share"] == pytest.approx(share, abs=1e-12)
    assert shown["share"].sum() == pytest.approx(1)
    assert shown["low"].isna().all(), "two attacks are too few to resample"


def test_differences_to_the_first_value_stand_beside_the_curves(tmp_path: Path) -> None:
    html = write_report(write_study(tmp_path, make_rows(seeds=(0, 1)))).read_text(encoding="utf-8")
    frame = pd.read_csv(tmp_path / "results.csv")
    wide = frame.pivot_table(
        index=["attack", "seed"], columns="reinit_ratio", values="asr_after_report"
    )
    gaps = 100 * (wide[1.0] - wide[0.25]).groupby(level="attack").mean()
    low, high = stats.t.interval(0.95, 2, gaps.mean(), stats.sem(gaps))
    texts = (f"{value:+.1f}".replace("-", "\N{MINUS SIGN}") for value in (gaps.mean(), low, high))
    told = "{} ({} to {})".format(*texts)
    line = next(line for line in html.splitlines() if "reinit_ratio: 1.0 less 0.25" in line)
    assert told in line
    assert "over 3 attacks&#39; means" in line
    assert "* differs clearly after Holm's adjustment over the whole table" in html


def test_exact_importance_is_the_variance_of_marginal_means(tmp_path: Path) -> None:
    results = read_results(write_study(tmp_path, make_rows(seeds=(0, 1))) / "results.csv")
    found = importances(block(results), setting_axes(results), maximise=True)
    frame = pd.read_csv(tmp_path / "results.csv")
    means = frame.groupby(AXES)["der_report"].mean().reset_index()
    effects = {a: means.groupby(a)["der_report"].mean().var(ddof=0) for a in AXES}
    total = sum(effects.values())
    exact = {e.axis: e for e in found if e.measure == EXACT}
    for axis, effect in effects.items():
        assert exact[axis].share == pytest.approx(effect / total, rel=1e-9)
    by_measure = pd.DataFrame(found).groupby("measure")["share"].sum()
    assert by_measure.to_dict() == pytest.approx(dict.fromkeys((EXACT, FANOVA), 1))
    # The bounds against a bootstrap of its own: of attacks, then of their seeds.
    wide = frame.pivot_table(index=["attack", "seed"], columns=AXES, values="der_report")
    attacks = frame["attack"].unique()
    random = np.random.default_rng(5)
    draws = []
    for _ in range(800):
        chosen = random.choice(attacks, len(attacks))
        pairs = [(attack, seed) for attack in chosen for seed in random.integers(2, size=2)]
        drawn = wide.loc[pairs].mean()
        parts = [drawn.groupby(level=axis).mean().var(ddof=0) for axis in AXES]
        draws.append(parts[0] / sum(parts))
    low, high = np.quantile(draws, (0.025, 0.975))
    assert exact[AXES[0]].low == pytest.approx(low, abs=0.05)
    assert exact[AXES[0]].high == pytest.approx(high, abs=0.05)


@pytest.mark.parametrize("measure", ["fanova", "ped_anova"])
def test_importance_is_optunas_own(measure: Any) -> None:
    """Another way to the same numbers: a study that Optuna itself optimised."""
    random = np.random.default_rng(1)
    grid = list(itertools.product((0.1, 0.2, 0.4, 0.8), ("u", "v", "w")))
    points: list[dict[str, float | str]] = [{"a": x, "b": word} for x, word in grid]
    values = [x**2 + 0.1 * (word == "v") + random.normal(0, 0.01) for x, word in grid]
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for point in points:
        study.enqueue_trial(point)
    answers = iter(values)

    def objective(trial: optuna.Trial) -> float:
        trial.suggest_float("a", 0.1, 0.8)
        trial.suggest_categorical("b", ["u", "v", "w"])
        return float(next(answers))

    study.optimize(objective, n_trials=len(points))
    evaluator: Any = (
        optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
        if measure == "fanova"
        else optuna.importance.PedAnovaImportanceEvaluator()
    )
    expected = optuna.importance.get_param_importances(study, evaluator=evaluator)
    found = axis_importances(measure, points, values, maximise=True)
    assert found == pytest.approx(dict(expected))


def test_optuna_says_nothing_of_importance() -> None:
    """In a process of its own: other modules than importance's may silence Optuna here."""
    code = (
        "from orchestrator.search.importance import axis_importances\n"
        "points = [{'a': float(n % 2), 'b': float(n)} for n in range(4)]\n"
        "axis_importances('fanova', points, [0.0, 1.0, 0.2, 0.9], maximise=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_pruned_trials_are_left_out_of_importance_and_it_says_so(tmp_path: Path) -> None:
    rows = make_rows(seeds=(0, 1))
    for row in rows:
        if row["unlearn_threshold"] == 0.4 and row["reinit_ratio"] == 0.25 and row["seed"] == 1:
            unfinish(row, "pruned")
    html = write_report(write_study(tmp_path, rows)).read_text(encoding="utf-8")
    results = read_results(tmp_path / "results.csv")
    assert shape(block(results)) == (6, 9)
    assert shape(complete_scenarios(block(results))) == (3, 9)
    part = complete_part(block(results))
    assert part.whole
    assert shape(part) == (6, 8)
    assert (
        "over 8 settings that are all done in 6 scenarios (left out, being pruned, skipped, "
        "failed or pending somewhere: 1 setting). Pruned settings are the bad ones: where settings "
        "are left out, the shares of the axes that made them bad are too small;"
    ) in html
    assert "No exact ANOVA: the settings done everywhere are no complete grid." in html
    assert "left out, for the best tenth of 8 settings is too few; it needs 50 settings" in html
    assert "over the 3 scenarios in which all 9 settings are done (of 6)" in html


def test_the_front_is_what_no_trial_beats(study: Path, done: pd.DataFrame) -> None:
    points = done[["asr_after_report", "acc_after_report"]].to_numpy()
    unbeaten = {
        (asr, acc)
        for asr, acc in points
        if not any((a <= asr and c >= acc) and (a < asr or c > acc) for a, c in points)
    }
    drawn = (study / "figures" / "front.svg").read_text(encoding="utf-8")
    line = drawn.partition("<polyline points=")[2].partition('"')[2].partition('"')[0].split()
    assert len(line) == 2 * len(unbeaten)
    shown = pd.read_csv(study / "figures" / "front.csv")
    results = pd.read_csv(study / "results.csv")
    assert len(shown) == (results["status"] == "done").sum()


def test_a_range_searched_by_ratios_has_a_log_axis(tmp_path: Path) -> None:
    rows = make_rows(thresholds=(0.1, 0.2, 0.4))
    write_study(tmp_path, rows)
    text = "name: x\ngrid:\n  unlearn_threshold: {low: 0.1, high: 0.4, log: true}\n"
    (tmp_path / "study.yaml").write_text(text, encoding="utf-8")
    found = read_study(tmp_path / "study.yaml").log_axes
    results = read_results(tmp_path / "results.csv")
    by_ratio, linear = setting_axes(results, found)
    assert by_ratio.scale().share(0.2) == pytest.approx(0.5)
    assert not linear.scale().log


def test_settings_that_were_sampled_are_points(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for threshold in random.uniform(0.05, 0.5, 25).round(4):
        ratio = round(float(random.uniform(0, 1)), 4)
        rows += make_rows(thresholds=(float(threshold),), ratios=(ratio,))
    html = write_report(write_study(tmp_path, rows)).read_text(encoding="utf-8")
    results = read_results(tmp_path / "results.csv")
    assert not is_grid(results)
    assert "Settings were sampled, so none shares its values" in html
    assert "no exact analysis of variance" in html
    shown = pd.read_csv(tmp_path / "figures" / "importance.csv")
    assert set(shown["measure"]) == {FANOVA}
    drawn = (tmp_path / "figures" / "surfaces-all.svg").read_text(encoding="utf-8")
    assert drawn.count("<title>") == 3 * 25
    frame = pd.read_csv(tmp_path / "results.csv")
    target = frame.apply(lambda row: row["target_label"] in json.loads(row["flagged"]), axis=1)
    flagged = pd.read_csv(tmp_path / "figures" / "flagged.csv")
    assert flagged["trials"].sum() == len(frame)
    assert flagged["target"].sum() == target.sum()
    low, high = frame["unlearn_threshold"].min(), frame["unlearn_threshold"].max()
    bins = pd.cut(frame["unlearn_threshold"], np.linspace(low, high, 9).tolist(), right=False)
    assert flagged["unlearn_threshold"].nunique() == bins.nunique()
