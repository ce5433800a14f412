"""The report's section on audits, from rows of audits.csv."""

import json
import re
from pathlib import Path

import pytest

from orchestrator.files import csv_text
from orchestrator.plan.columns import AUDIT_COLUMNS, SCENARIO
from orchestrator.reporting.audits import audit_tables, read_audits
from orchestrator.reporting.build import write_report
from orchestrator.search.inference import auroc
from tests.orchestrator_tests.report_folders import Row, make_rows, write_study

OWN = ("clean_ratio", "defence_seed", "repair", "repair_options")


def row(attack: str, seed: int, defence_seed: int, statistic: float, *repair: str) -> Row:
    where = ["digits", "small_cnn", 0.1, 0, seed]
    point = dict(zip(SCENARIO, [attack, "{}", *where], strict=True))
    found = {"status": "done", "statistic": statistic, "suspects": "[]", "scores": "[0, 1]"}
    own = dict(zip(OWN, (0.1, defence_seed, *(repair or (None, None))), strict=True))
    named = {"model": "repaired" if repair else "victim", "audit": "nc", "audit_options": "{}"}
    return {**dict.fromkeys(AUDIT_COLUMNS), **point, **own, **named, **found, "rule": "its rule"}


def write(folder: Path, rows: list[Row]) -> Path:
    path = folder / "audits.csv"
    path.write_text(csv_text((*SCENARIO, *OWN, *AUDIT_COLUMNS), rows))
    return path


def tables(folder: Path, rows: list[Row]) -> dict[str, list[tuple[str, ...]]]:
    made = audit_tables(read_audits(write(folder, rows)))
    assert made is not None
    return made


def test_audits_of_one_model_by_several_samples_are_no_further_models(tmp_path: Path) -> None:
    victims = {0: (1.0, 5.0, 6.0), 1: (0.0, 3.0, 3.5)}
    benign = {0: (2.0, 2.0, 9.0), 1: (4.0, 4.0, 0.0)}
    rows = [
        row(attack, seed, draw, statistic)
        for attack, models in (("badnets", victims), ("none", benign))
        for seed, statistics in models.items()
        for draw, statistic in enumerate(statistics)
    ]
    rows += [row("badnets", 0, 0, 1.0, "clp", json.dumps({"u": u})) for u in (2, 3)]
    made = tables(tmp_path, rows)
    name, n, others, area, *_ = made["audits"][0]
    assert (name, n, others) == ("nc", "2", "2")
    by_hand = auroc([([5.0, 3.0], [2.0, 4.0])])  # the medians
    assert by_hand is not None
    assert by_hand.value == 0.75
    assert area == f"0.75 ({by_hand.low:.2f} to {by_hand.high:.2f})"
    assert made["repaired"][0][:3] == ("nc", "clp", "1")


def test_each_clean_ratio_is_a_row_in_which_a_model_counts_once(tmp_path: Path) -> None:
    victims, benign = (4.0, 9.0, 1.0), (2.0, 3.0)
    rows = []
    for ratio, sign in (("0.1", 1.0), ("0.01", -1.0)):
        for attack, statistics in (("badnets", victims), ("none", benign)):
            of_models = [row(attack, s, 0, sign * v) for s, v in enumerate(statistics)]
            rows += [{**one, "clean_ratio": ratio} for one in of_models]
    free = [row("badnets", 0, 0, 1.0), row("none", 0, 0, 1.0)]
    rows += [{**one, "audit": "freeeagle", "clean_ratio": "", "defence_seed": ""} for one in free]
    made = tables(tmp_path, rows)
    names = ["nc (clean_ratio=0.1)", "nc (clean_ratio=0.01)", "freeeagle"]
    assert [cells[0] for cells in made["audits"]] == names
    # 4 of the 6 pairs of a victim and a benign model have a higher victim; with the other sign, 2.
    for (_, *cells), share in zip(made["audits"][:2], (4 / 6, 2 / 6), strict=True):
        by_hand = auroc([([1.0, 1.0, 0.0], [0.5, 0.5])])
        assert by_hand is not None
        assert cells[:2] == ["3", "2"]
        assert cells[2].startswith(f"{share:.2f} (")
        low, high = map(float, cells[2][6:-1].split(" to "))
        assert high - low == pytest.approx(by_hand.high - by_hand.low, abs=0.011)
    assert [cells[:2] for cells in made["agreement"]] == [(n, "freeeagle") for n in names[:2]]


def test_each_attack_has_its_count_of_targets_that_are_first(tmp_path: Path) -> None:
    """Two of two, one of two (a shared first place is none), and no target to find."""
    ranks = {
        ("badnets", 0): 1,
        ("badnets", 1): 1,
        ("sig", 0): 1,
        ("sig", 1): 1.5,
        ("tact", 0): None,
    }
    rows = [
        {**row(attack, seed, 0, 2.0), "target_rank": rank} for (attack, seed), rank in ranks.items()
    ]
    rows.append({**row("sig", 1, 0, 2.0, "clp", "{}"), "target_rank": 1})  # a repaired model
    made = audit_tables(read_audits(write(tmp_path, [*rows, row("none", 0, 0, 1.0)])))
    assert made is not None
    assert made["attacks"] == ["badnets", "sig", "tact"]
    assert made["by_attack"] == [("nc", "2 of 2", "1 of 2", "–")]


def test_models_that_an_oracle_cut_are_a_marked_row_of_their_own(tmp_path: Path) -> None:
    rows = [row("badnets", 0, 0, 3.0), row("none", 0, 0, 1.0)]
    rows.append(row("badnets", 0, 0, 2.0, "clp", json.dumps({"u": 2.0})))
    rows.append(row("badnets", 0, 0, 0.5, "clp", json.dumps({"rule": "oracle"})))
    repaired = tables(tmp_path, rows)["repaired"]
    assert [(cells[1], cells[3]) for cells in repaired] == [("clp", "3 → 2"), ("clp †", "3 → 0.5")]


def test_the_navigation_names_sections_in_their_order(tmp_path: Path) -> None:
    write_study(tmp_path, make_rows())
    write(tmp_path, [row("badnets", 0, 0, 3.0)])
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    links = re.findall('href="#([^"]*)"', html.partition("<nav")[2].partition("</nav>")[0])
    sections = re.findall('<section id="([^"]*)"', html)
    assert "audits" in links
    assert links == [name for name in sections if name in links]
