"""The report's numbers against the same numbers computed by pandas from results.csv."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest

from orchestrator.reporting.build import write_report
from tests.orchestrator_tests.report_folders import (
    make_rows,
    reach,
    settle,
    unfinish,
    weaken,
    write_study,
)

FAMILY = ["attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"]
SCENARIO = [*FAMILY, "seed"]
PLUS_MINUS = "\u00a0±\u00a0"
SETTING = ["unlearn_threshold", "reinit_ratio"]
MEASURED = ["acc_before_report", "asr_before_report", "acc_after_report", "asr_after_report"]
MEASURED += ["der_report"]


@pytest.fixture(scope="module")
def results(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "results.csv")


def own_best(results: pd.DataFrame) -> pd.DataFrame:
    done = results[results["status"] == "done"]
    return done.loc[done.groupby(SCENARIO, sort=False)["der_selection"].idxmax()]


def table(folder: Path, name: str) -> list[list[str]]:
    html = (folder / "report.html").read_text(encoding="utf-8")
    found = re.search(f'<table id="{name}">.*?</table>', html, re.DOTALL)
    assert found
    rows = ET.fromstring(found[0]).iter("tr")
    return [["".join(cell.itertext()).strip() for cell in row] for row in rows]


def percent(values: "pd.Series[float]") -> str:
    return f"{100 * values.mean():.1f}{PLUS_MINUS}{100 * values.std():.1f}"


def fraction(values: "pd.Series[float]") -> str:
    return f"{values.mean():.3f}{PLUS_MINUS}{values.std():.3f}"


def test_every_scenario_has_its_surfaces_with_the_numbers_of_the_results(
    study: Path, results: pd.DataFrame
) -> None:
    files = sorted((study / "figures").glob("surfaces-*-seed-*.csv"))
    surfaces = pd.concat(pd.read_csv(file) for file in files)
    keys = [*SCENARIO, *SETTING]
    assert len(files) == len(results.groupby(SCENARIO))
    pd.testing.assert_frame_equal(
        surfaces[[*keys, "status", *MEASURED]].sort_values(keys, ignore_index=True),
        results[[*keys, "status", *MEASURED]].sort_values(keys, ignore_index=True),
        check_exact=True,
    )
    for file in files:
        drawn = file.with_suffix(".svg").read_text(encoding="utf-8")
        assert [drawn.count(f">{title}<") for title in ("ACC, %", "ASR, %", "DER")] == [1, 1, 1]


def test_a_pruned_cell_is_hatched_and_a_pending_one_is_a_dash(study: Path) -> None:
    figures = study / "figures"
    badnets = "surfaces-badnets-cifar10-preact_resnet18-width=16-seed-0.svg"
    sig = "surfaces-sig-cifar10-preact_resnet18-width=16-seed-2.svg"
    assert (figures / badnets).read_text(encoding="utf-8").count(">pruned<") == 3
    assert (figures / sig).read_text(encoding="utf-8").count(">-<") == 9


def test_pooled_surfaces_are_means_over_the_seeds_whose_victim_took(
    study: Path, results: pd.DataFrame
) -> None:
    file = study / "figures" / "surfaces-sig-digits-preact_resnet18-width=16.csv"
    pooled = pd.read_csv(file).set_index(SETTING).sort_index()
    trials = results[(results["attack"] == "sig") & (results["dataset"] == "digits")]
    trials = trials[trials["victim_ok"] == True]  # noqa: E712 - the column has empty cells too
    for column in ("acc_after_report", "asr_after_report", "der_report"):
        groups = trials.groupby(SETTING)[column]
        pd.testing.assert_series_equal(
            pooled[f"{column}_mean"], groups.mean(), check_names=False, rtol=1e-12
        )
        pd.testing.assert_series_equal(
            pooled[f"{column}_sd"], groups.std(), check_names=False, rtol=1e-9
        )
    worst = pooled.reset_index().query("unlearn_threshold == 0.4 and reinit_ratio == 0.25")
    counts = worst[["done", "pruned", "failed", "pending"]]
    assert counts.to_numpy().tolist() == [[1, 1, 0, 0]]


def test_each_scenarios_best_setting_is_chosen_on_the_selection_half(
    study: Path, results: pd.DataFrame
) -> None:
    shown = pd.read_csv(study / "figures" / "before-after.csv")
    expected = own_best(results)[list(shown.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(shown, expected, check_exact=True, check_dtype=False)
    halves = pd.read_csv(study / "figures" / "selection-report.csv")
    expected = own_best(results)[list(halves.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(halves, expected, check_exact=True, check_dtype=False)


def test_the_table_has_a_row_per_family_and_one_for_all(study: Path, results: pd.DataFrame) -> None:
    best = own_best(results)
    took = best[best["victim_ok"] == True]  # noqa: E712
    eligible = results[(results["victim_ok"] == True) & (results["status"] == "done")]  # noqa: E712
    means = eligible.groupby(SETTING)["der_selection"].agg(["mean", "size"])
    setting = means[means["size"] == means["size"].max()]["mean"].idxmax()
    common = eligible.set_index(SETTING).loc[setting]
    rows = table(study, "repair-table")
    assert rows[0][-1] == "Repaired, one setting for all" + "".join(
        f"{axis}={value}" for axis, value in zip(SETTING, setting, strict=True)
    )
    assert rows[-1] == [
        "All scenarios",
        str(len(took)),
        *(percent(took[f"{name}_before_report"]) for name in ("acc", "asr")),
        *(percent(took[f"{name}_after_report"]) for name in ("acc", "asr", "ra")),
        fraction(took["der_report"]),
        "each its own",
        *(percent(common[f"{name}_after_report"]) for name in ("acc", "asr")),
        fraction(common["der_report"]),
    ]
    numbers = []
    for row, (_, group) in zip(rows[2:-1], best.groupby(FAMILY, sort=False), strict=True):
        counted = group[group["victim_ok"] == True] if any(group["victim_ok"]) else group  # noqa: E712
        metrics = [percent(counted[f"{name}_after_report"]) for name in ("acc", "asr", "ra")]
        numbers.append([*metrics, fraction(counted["der_report"])])
        assert (row[1], row[4:8]) == (str(len(counted)), numbers[-1])
    latex = (study / "table.tex").read_text(encoding="utf-8")
    small = latex.replace(r"{\scriptsize $\pm$", PLUS_MINUS).replace("} &", " &")
    body = small.partition(r"\midrule")[2].partition(r"\midrule")[0].split(r"\addlinespace")
    blocks = [[line.split(" & ") for line in block.strip().splitlines()] for block in body]
    assert {len(line) for block in blocks for line in block} == {12}
    assert [[m + sd for m, sd in zip(b[0][4:8], b[1][4:8], strict=True)] for b in blocks] == numbers
    assert latex.count("{") == latex.count("}")
    markdown = (study / "table.md").read_text(encoding="utf-8")
    lines = markdown.partition("\n\n")[0].splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert {len(row) for row in cells} == {12}
    assert [row[4:8] for row in cells[2:-1]] == numbers
    assert markdown.count(r"(width=16)\* |") == 2, "weak victims have a mark and a note"
    assert "did not take: left out of the means" in markdown


def test_odd_names_are_escaped(tmp_path: Path) -> None:
    odd = r"a_b&c%d$e#f{g}~^\h|i"
    rows = make_rows(attacks=((odd, {}),), thresholds=(0.1, 0.2), ratios=(1.0,))
    weaken(rows, lambda _: True)
    write_report(write_study(tmp_path, rows))
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert (
        r"a\_\allowbreak{}b\&c\%d\$e\#f\{g\}\textasciitilde{}\textasciicircum{}"
        r"\textbackslash{}h$|$i{*} &"
    ) in latex
    (row,) = (line for line in latex.splitlines() if line.startswith(r"a\_"))
    assert len(re.findall(r"(?<!\\)&", row)) == 9, "n and the best setting are in the caption"
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert r"a\_b&c%d$e#f{g}~^\\h\|i · digits" in markdown


def test_flagged_rows_are_counted_against_the_target(study: Path, results: pd.DataFrame) -> None:
    done = results[(results["status"] == "done") & ~results["attack_options"].str.contains("all_")]
    rows = done["flagged"].map(json.loads)
    counts = pd.DataFrame(
        {
            "attack": done["attack"].replace("blended", "blended(alpha=0.1)"),
            "unlearn_threshold": done["unlearn_threshold"],
            "trials": 1,
            "target": [
                target in row for target, row in zip(done["target_label"], rows, strict=True)
            ],
            "others": rows.map(lambda row: any(place != 0 for place in row)),
            "nothing": rows.map(lambda row: not row),
            "short": done["threshold_reached"] == False,  # noqa: E712
        }
    )
    expected = counts.groupby(["attack", "unlearn_threshold"], sort=False).sum().reset_index()
    shown = pd.read_csv(study / "figures" / "flagged.csv")
    pd.testing.assert_frame_equal(shown, expected, check_dtype=False)


def test_costs_are_summed_by_stage(study: Path) -> None:
    stages = pd.read_csv(study / "stages.csv")
    shown = {row[0]: row[1:4] for row in table(study, "cost-table")[1:]}
    for stage, group in stages.groupby("stage"):
        computed = int(group["computed"].sum())
        counts = [group["key"].nunique(), computed, len(group) - computed]
        assert shown[str(stage)] == [str(count) for count in counts]


def test_the_answer_of_a_mixed_study(study: Path, results: pd.DataFrame) -> None:
    common = results[(results["unlearn_threshold"] == 0.2) & (results["reinit_ratio"] == 1)]
    common = common[common["victim_ok"] == True]  # noqa: E712
    bad = own_best(results).query("asr_after_report > 0.2 and victim_ok == True")
    html = (study / "report.html").read_text(encoding="utf-8")
    assert "<dt>unlearn_threshold</dt>" in html
    assert "<dt>defence_seed</dt>" not in html  # it only follows the seed
    text = html.partition('<div class="answer">')[2].partition("</div>")[0]
    sentences = re.findall("<p>(.*?)</p>", text)
    assert len(sentences) == 4
    assert sentences[1].startswith("No clear difference to ")
    assert sentences[0] == (
        "unlearn_threshold=0.2, reinit_ratio=1.0 has the best mean DER on the selection half, over "
        "20 scenarios; on the report half, whose images had no part in the choice, it takes ACC "
        "from "
        f"{percent(common['acc_before_report'])}\u00a0% to "
        f"{percent(common['acc_after_report'])}\u00a0% and ASR from "
        f"{percent(common['asr_before_report'])}\u00a0% to "
        f"{percent(common['asr_after_report'])}\u00a0%, a DER of "
        f"{fraction(common['der_report'])} (mean ± standard deviation over trained victims)."
    )
    assert sentences[2] == (
        "Of 216 trials 192 are done, 19 pruned, 2 failed, 3 pending; of 24 victims 4 did not take, "
        "and the means leave them out."
    )
    assert sentences[3] == (
        "Even with each scenario&#39;s own best setting, an upper bound, ULRL fails in places: ASR "
        "stays above "
        f"20\u00a0% for badnets (3 of 6 scenarios, up to "
        f"{100 * bad['asr_after_report'].max():.1f}\u00a0%)."
    )


def test_a_setting_that_was_pruned_somewhere_does_not_compete(tmp_path: Path) -> None:
    rows = make_rows(thresholds=(0.1, 0.2), ratios=(1.0,))
    for row in rows:
        reach(row, 0.9 if row["unlearn_threshold"] == 0.1 else 0.8)
    unfinish(rows[0], "pruned")  # the better setting, in the first of three scenarios
    html = write_report(write_study(tmp_path, rows)).read_text(encoding="utf-8")
    assert "<p>unlearn_threshold=0.2 has the best mean DER" in html


def test_the_objective_of_the_study_file_decides(tmp_path: Path) -> None:
    rows = make_rows(thresholds=(0.1, 0.2), ratios=(1.0,))
    for row in rows:
        low = row["unlearn_threshold"] == 0.1
        reach(row, 0.9 if low else 0.95)
        row["acc_after_selection"] -= 0 if low else 0.3
        settle(row)
    html = write_report(write_study(tmp_path, rows, "asr")).read_text(encoding="utf-8")
    assert "<p>unlearn_threshold=0.2 has the lowest mean ASR" in html
