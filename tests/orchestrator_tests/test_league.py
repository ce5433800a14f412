"""The report of a study of several repair methods."""

import io
import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

import ulrl.methods
from orchestrator.cli.summary import print_summary
from orchestrator.errors import SpecError
from orchestrator.plan.columns import ULRL
from orchestrator.plan.labels import DAGGER_NOTE, applies
from orchestrator.reporting.build import read_summary, write_report
from orchestrator.reporting.league import draw_edits
from orchestrator.spec.model import is_of_ulrl
from tests.orchestrator_tests.report_folders import (
    Row,
    make_rows,
    reach,
    unfinish,
    weaken,
    write_study,
)
from ulrl.hyperparameters import names


def league_rows() -> list[Row]:
    """Return rows of ULRL and of two other methods, the best of which is known."""
    attacks = [("badnets", {}), ("blended", {"alpha": 0.1}), ("sig", {})]
    rows = []
    for row in make_rows(attacks=attacks, seeds=(0, 1), thresholds=(0.1,), ratios=(0.3, 0.7)):
        ours = {**row, "repair": "ulrl", "repair_options": "{}"}
        rows.append(ours)
        none = {"unlearn_threshold": "", "reinit_ratio": "", "flagged": ""}
        strength = {0.3: 2.0, 0.7: 3.0}[row["reinit_ratio"]]
        clp = {**ours, **none, "repair": "clp", "repair_options": json.dumps({"u": strength})}
        for half in ("selection", "report"):
            # u = 2 is better by half a point on the selection half, and worse on the other.
            gain = 0.005 if (strength == 2.0) == (half == "selection") else 0.0
            own = 0.002 * [name for name, _ in attacks].index(row["attack"])
            reach(clp, 0.96 + gain + own + 0.0012 * row["seed"], half)
        rows.append(clp)
    for scenario in {(row["attack"], row["seed"]) for row in rows}:
        first = next(row for row in rows if (row["attack"], row["seed"]) == scenario)
        before = {name: value for name, value in first.items() if "_before_" in name}
        for row in rows:
            if (row["attack"], row["seed"]) == scenario:
                row.update(before)
    return sorted(rows, key=lambda row: (row["attack"], row["seed"]))


def test_the_league_judges_each_method_at_its_own_best_setting(tmp_path: Path) -> None:
    rows = league_rows()
    write_study(tmp_path, rows)
    write_report(tmp_path)
    table = league_of(tmp_path)
    frame = pd.DataFrame(rows)
    frame["setting"] = frame["repair_options"] + frame["reinit_ratio"].astype(str)
    for method, group in frame.groupby("repair"):
        means = group.groupby("setting")[["der_selection", "der_report"]].mean()
        best = group[group.setting == means.der_selection.idxmax()]
        row = next(cells for cells in table if cells[0] == method)
        assert row[2:4] == ["2", "6"]
        over_attacks = best.groupby("attack").der_report.mean()
        assert row[7].startswith(f"{over_attacks.mean():.3f}<span")
    ours = frame[(frame.repair == "clp") & (frame.repair_options == '{"u": 2.0}')]
    assert table[0][:2] == ["clp", "u=2.0"]  # chosen on the selection half, not on the other
    assert table[0][7].startswith(f"{ours.der_report.mean():.3f}")
    assert table[0][8] == "–"


def test_each_attack_counts_the_same_in_the_league(tmp_path: Path) -> None:
    """One attack has a single victim that took, the others have two."""
    rows = league_rows()
    for row in rows:
        if row["attack"] == "sig" and row["repair_options"] == '{"u": 2.0}':
            reach(row, 0.9, "report")
    weaken(rows, lambda row: row["attack"] == "sig" and row["seed"] == 1)
    write_study(tmp_path, rows)
    write_report(tmp_path)
    first = league_of(tmp_path)[0]
    frame = pd.DataFrame(rows)
    own = frame[(frame.repair == "clp") & (frame.repair_options == '{"u": 2.0}') & frame.victim_ok]
    of_attacks = own.groupby("attack").der_report.mean().mean()
    assert first[:4] == ["clp", "u=2.0", "2", "5"]
    assert first[7].startswith(f"{of_attacks:.3f}<span")
    assert f"{of_attacks:.3f}" != f"{own.der_report.mean():.3f}"


def test_methods_have_sections_of_their_own_axes(tmp_path: Path) -> None:
    write_study(tmp_path, league_rows())
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert html.count('id="sensitivity') == 2
    assert html.count('id="surfaces') == 1  # of ULRL, which has the two axes
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"marginals-clp.svg", "marginals-ulrl.svg"} <= figures
    values = pd.read_csv(tmp_path / "figures/marginals-clp.csv")
    assert set(values.axis) == {"u"}
    assert set(values.value) == {2.0, 3.0}


def test_a_method_with_one_setting_has_no_section_of_its_own(tmp_path: Path) -> None:
    rows = [row for row in league_rows() if "3.0" not in row["repair_options"]]
    write_study(tmp_path, rows)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "Sensitivity of ulrl" in html
    assert "Sensitivity of clp" not in html
    assert {cells[0] for cells in league_of(tmp_path)} == {"clp", "ulrl"}


def test_entries_that_give_different_options_say_why_there_is_no_sensitivity(
    tmp_path: Path,
) -> None:
    rows = league_rows()
    for row in rows:
        if row["repair_options"] == '{"u": 3.0}':
            row["repair_options"] = '{"rule": "budget"}'
    write_study(tmp_path, rows)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    _, section = html.split("<h2>Sensitivity of clp</h2>")
    section, _ = section.split("</section>", 1)
    assert "Only some of the settings give u and rule" in section
    assert "<h3>" not in section  # no part that is empty


def test_a_method_that_wrecks_models_is_not_the_first(tmp_path: Path) -> None:
    rows = league_rows()
    for row in rows:
        row["wrecked"] = str(row["repair"] == "clp" and row["attack"] == "sig")
        if row["repair"] == "clp":
            for half in ("selection", "report"):
                reach(row, 0.999, half)
    write_study(tmp_path, rows)
    write_report(tmp_path)
    first, second = league_of(tmp_path)
    assert (first[0], first[9]) == ("ulrl", "–")
    assert (second[0], second[9]) == ("clp", "2 of 6")
    numbers = pd.read_csv(tmp_path / "figures/methods.csv").set_index("method")
    assert numbers.wrecked.to_dict() == {"ulrl": 0, "clp": 2}
    assert numbers.der["clp"] == pytest.approx(0.999)


def test_a_method_all_of_whose_settings_wreck_says_so(tmp_path: Path) -> None:
    rows = league_rows()
    for row in rows:
        row["wrecked"] = str(row["repair"] == "clp")
    write_study(tmp_path, rows)
    write_report(tmp_path)
    last = league_of(tmp_path)[-1]
    assert (last[0], last[3], last[9]) == ("clp", "0", "by every setting")


def test_a_best_setting_at_its_default_is_named_by_it(tmp_path: Path) -> None:
    """No file says ``default``, and what means nothing by a rule is not there."""
    rows = league_rows()
    for row in rows:
        u = json.loads(row["repair_options"]).get("u")
        given = {2.0: ("{}", '{"rule": "deviations", "u": 2.0}'), 3.0: ('{"rule": "budget"}', "{}")}
        row["repair_options"], row["repair_defaults"] = given.get(u, ("{}", "{}"))
    write_study(tmp_path, rows)
    write_report(tmp_path)
    assert league_of(tmp_path)[0][:3] == ["clp", "rule=deviations, u=2.0", "2"]
    numbers = pd.read_csv(tmp_path / "figures" / "methods.csv").set_index("method")
    assert numbers.setting["clp"] == "rule=deviations, u=2.0"
    for row in rows:  # the other is the best
        if row["repair"] == "clp":
            reach(row, 0.99 if "budget" in row["repair_options"] else 0.5, "selection")
    write_study(tmp_path, rows)
    write_report(tmp_path)
    numbers = pd.read_csv(tmp_path / "figures" / "methods.csv").set_index("method")
    assert numbers.setting["clp"] == "rule=budget"


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize(
    ("options", "text"), [({"epochs": 1, "tune": "none"}, "epochs=1, tune=none"), ({}, "defaults")]
)
def test_a_single_setting_is_named_by_the_options_that_it_gives(
    tmp_path: Path, options: dict[str, object], text: str, seeds: tuple[int, ...]
) -> None:
    rows = [row for row in league_rows() if row["repair_options"] != '{"u": 3.0}']
    for row in rows:
        if row["repair"] == "clp":
            row["repair_options"] = json.dumps(options)
    rows = [{**row, "defence_seed": seed} for row in rows for seed in seeds]
    write_study(tmp_path, rows)
    write_report(tmp_path)
    assert league_of(tmp_path)[0][:3] == ["clp", text, "1"]


def with_oracle() -> list[Row]:
    """Return the rows with an oracle's settings of CLP beside them, which are the best."""
    rows = league_rows()
    for row in [row for row in rows if row["repair_options"] == '{"u": 2.0}']:
        for u in (4.0, 5.0):
            marked = {**row, "repair_options": json.dumps({"rule": "oracle", "u": u})}
            for half in ("selection", "report"):
                reach(marked, 0.99 - 0.001 * u, half)
            rows.append(marked | {n: v for n, v in row.items() if "_before_" in n})
    return rows


def test_an_oracle_is_a_marked_row_apart_and_never_the_best(tmp_path: Path) -> None:
    rows = with_oracle()
    write_study(tmp_path, rows)
    write_report(tmp_path)
    table = league_of(tmp_path)
    assert [cells[0] for cells in table] == ["clp", "ulrl", "clp †"]
    assert table[0][1:3] == ["u=2.0", "2"]
    assert table[2][1:3] == ["u=4.0", "2"]
    assert table[2][7].startswith("0.986")
    html = (tmp_path / "report.html").read_text()
    assert DAGGER_NOTE in html
    answer = html.partition('<div class="answer">')[2].partition("</div>")[0]
    assert unescape(answer).strip().startswith("<p>clp(u=2.0) has the best mean DER")
    assert "†" not in answer
    for name in ("table.md", "table.tex"):
        assert "oracle" not in (tmp_path / name).read_text()
    summary = read_summary(tmp_path)[2]
    bests = [outcome.best for outcome in summary.outcomes if outcome.best]
    assert not any("oracle" in str(best.setting) for best in bests)
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"marginals-clp.svg", "marginals-clp-oracle.svg"} <= figures


def test_settings_of_an_oracle_are_marked_wherever_they_are_named(tmp_path: Path) -> None:
    rows = with_oracle()
    for row in rows:
        row["wrecked"] = "False"
        if '"u": 5.0' in row["repair_options"]:
            unfinish(row, "failed", "boom")
        elif '"u": 4.0' in row["repair_options"]:
            row["wrecked"] = "True"
    write_study(tmp_path, rows)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    text = unescape(re.sub(r"<[^>]+>", " ", html.partition('<section id="failed">')[2]))
    assert text.count("clp(rule=oracle, u=5.0) †") == 6
    assert "clp(rule=oracle, u=4.0) †" in text
    assert not re.search(r"rule=oracle, u=\d\.0\)(?! †)", text)
    output = io.StringIO()
    print_summary(Console(file=output, width=200), tmp_path / "results.csv", "der")
    assert DAGGER_NOTE in output.getvalue()


def test_a_study_of_an_oracle_alone_has_no_best_setting(tmp_path: Path) -> None:
    rows = [row for row in with_oracle() if "oracle" in row["repair_options"]]
    write_study(tmp_path, rows)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "No setting is best: every done trial on a victim that took" in html


def test_cost_and_edits_stand_beside_the_effect(tmp_path: Path) -> None:
    rows = league_rows()
    layers = []
    for place, row in enumerate(rows):
        ours = row["repair"] == "ulrl"
        row |= {"repair_seconds": 2.0 + place, "passes": 10.0 + row["seed"] if ours else 1.5}
        row |= {"passes_planned": not ours, "zeroed_parts": 0 if ours else 3 + row["seed"]}
        row |= {"zeroed_share": 0.0 if ours else 0.00125, "weight_change": 0.05}
        for layer, zeroed in (("conv", 0), ("head", 0 if ours else 2)):
            numbers = {"parts": 8.0, "zeroed_parts": zeroed, "weights": 40.0, "zeroed_weights": 0}
            layers.append({"trial": place, "layer": layer, **numbers, "moved": 1.0, "norm": 4.0})
    write_study(tmp_path, rows)
    pd.DataFrame(layers).to_parquet(tmp_path / "edits.parquet")
    write_report(tmp_path)
    frame = pd.DataFrame(rows)
    ours = frame[(frame.repair == "clp") & (frame.repair_options == '{"u": 2.0}')]
    table = {cells[0]: cells for cells in league_of(tmp_path)}
    assert float(table["clp"][10]) == pytest.approx(ours.repair_seconds.mean(), abs=0.05)
    assert (table["clp"][11], table["ulrl"][11]) == ("≈1.5", "10.5")
    edits = {cells[0]: cells[1:] for cells in league_of(tmp_path, "league-edits")}
    assert edits == {"clp": ["3.5", "0.125", "5"], "ulrl": ["0.0", "0", "5"]}
    drawn = pd.read_csv(tmp_path / "figures/edits.csv").set_index(["method", "layer"])
    assert drawn.zeroed.to_dict() == {
        ("clp", "conv"): 0.0,
        ("clp", "head"): 0.25,
        ("ulrl", "conv"): 0.0,
        ("ulrl", "head"): 0.0,
    }
    assert set(drawn.change) == {0.25}
    assert set(drawn.trials) == {6}
    picture = (tmp_path / "figures/edits.svg").read_text()
    assert picture.count(">25</text>") == 1 + 4


def test_the_figure_of_edits_shows_whole_names() -> None:
    layer = "encoder.layers.encoder_layer_11.mlp.linear_1"
    numbers = {"trials": 1, "zeroed": 0.0, "change": 0.1, "zeroed_parts": 0.0, "parts": 8.0}
    methods = ["super_fine_tuning", "clp †"]
    edits = pd.DataFrame([{"method": one, "layer": layer, **numbers} for one in methods])
    drawn = draw_edits(edits).panels[0]
    texts = re.findall(r"<text ([^>]*)>([^<]*)</text>", drawn)
    heads = [(style, text) for style, text in texts if text in ("super_fine_", "tuning", "clp †")]
    assert [text for _, text in heads] == ["super_fine_", "tuning", "clp †"]
    places = [re.findall(r'\b[xy]="([^"]*)"', style) for style, _ in heads]
    across, down = zip(*places, strict=True)
    assert across[0] == across[1] != across[2]
    assert float(down[0]) < float(down[1])
    assert float(across[2]) - float(across[0]) > 5.2 * len("super_fine_")  # side by side
    (place,) = (style for style, text in texts if text == layer)
    assert 5.2 * len(layer) < float(re.findall(r'\bx="([^"]*)"', place)[0])  # ends there


def test_results_from_before_say_that_edits_are_not_known(tmp_path: Path) -> None:
    write_study(tmp_path, league_rows())
    write_report(tmp_path)
    assert {tuple(cells[10:]) for cells in league_of(tmp_path)} == {("–", "–")}
    html = (tmp_path / "report.html").read_text()
    assert "What the methods changed is not known" in html
    assert not (tmp_path / "figures/edits.svg").exists()


def test_a_file_of_edits_that_is_none_is_refused(tmp_path: Path) -> None:
    write_study(tmp_path, league_rows())
    pd.DataFrame({"trial": [0], "layer": ["conv"]}).to_parquet(tmp_path / "edits.parquet")
    with pytest.raises(SpecError, match=r"edits\.parquet: cannot be read as a table of edits"):
        write_report(tmp_path)


def league_of(folder: Path, table: str = "league-table") -> list[list[str]]:
    html = (folder / "report.html").read_text()
    (table,) = re.findall(rf'<table id="{table}">.*?</table>', html, re.DOTALL)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)[1:]
    return [[unescape(c) for c in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", r)] for r in rows]


def test_the_column_names_ulrl_as_the_methods_do() -> None:
    assert ULRL == ulrl.methods.ULRL
    of_all = {name for name in names() if applies(name, {"repair": "clp"})}
    assert of_all == {name for name in names() if not is_of_ulrl(name)}
    assert applies("seed", {"repair": "clp"})
    assert not applies("preset", {"repair": "clp"})
