"""The tables of repair methods, on results made up here."""

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.methods_table import main
from tests.markdown_tables import cells_of
from tests.orchestrator_tests.report_folders import Row, make_rows, settle, write_study

EMPTY = ("unlearn_threshold", "reinit_ratio", "flagged")


def rows_of() -> list[Row]:
    """Return two attacks of two victims, repaired by ULRL, by clp, and by bnp to a wreck.

    After ULRL ASR is 0 on badnets and 50 % on sig, after clp 4 % everywhere; bnp leaves an ASR of 0
    and a model at chance.
    """
    rows = []
    for row in make_rows(
        attacks=[("badnets", {}), ("sig", {})],
        seeds=(0, 1),
        thresholds=(0.1,),
        ratios=(1.0,),
        further={"repair": ["ulrl", "clp", "bnp"], "repair_options": ["{}"]},
    ):
        asr = {"ulrl": 0.0 if row["attack"] == "badnets" else 0.5, "clp": 0.04, "bnp": 0.0}
        acc = {"ulrl": 0.8, "clp": 0.5, "bnp": 0.1}
        row["wrecked"] = row["repair"] == "bnp"
        for half in ("selection", "report"):
            row |= {f"acc_before_{half}": 0.9, f"asr_before_{half}": 1.0}
            row |= {f"acc_after_{half}": acc[row["repair"]]}
            row |= {f"asr_after_{half}": asr[row["repair"]]}
        settle(row)
        rows.append(row if row["repair"] == "ulrl" else {**row, **dict.fromkeys(EMPTY, "")})
    return rows


def write_counts(folder: Path, rows: list[Row]) -> None:
    """Write of each repair how many of ten images of class 0 it knows: clp knows 6, 0 of seed 1."""
    columns = ["trial", "model", "half", "images", "true_class", "predicted_class", "count"]
    cells = []
    for place, row in enumerate(rows):
        known = {"ulrl": 1, "clp": 0 if row["seed"] else 6, "bnp": 10}[row["repair"]]
        cells += [
            (place, "repaired", "report", "clean", 0, 0, known),
            (place, "repaired", "report", "clean", 0, 1, 10 - known),
        ]
    counts = pd.DataFrame(cells, columns=columns).assign(wanted_class=-1)
    counts.to_parquet(folder / "confusion.parquet")


def tables_of(text: str) -> list[list[list[str]]]:
    """Return the tables of a page: rows of cells."""
    return [cells_of(block) for block in text.split("\n\n") if block.startswith("| ")]


def test_removals_and_the_class_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ULRL's class has 10 %, which is lost; what wrecks every model has no numbers."""
    rows = rows_of()
    folder = write_study(tmp_path, rows)
    write_counts(folder, rows)
    main([str(folder)])
    _, by_attack, by_class, beside = tables_of(capsys.readouterr().out)
    assert by_attack[1:] == [
        ["none", "90 / 100, n = 2", "90 / 100, n = 2"],
        ["ulrl", "80 / 0 (0.95)", "80 / 50 (0.70)"],
        ["clp", "50 / 4 (0.78)", "50 / 4 (0.78)"],
        ["bnp", "–", "–"],
    ]
    assert by_class == [
        ["removed (class kept)", "badnets", "sig", "all", "the class's ACC"],
        ["ulrl", "2/2 (0)", "0/2", "2/4 (0)", "10.0 (10.0 to 10.0)"],
        ["clp", "2/2 (1)", "2/2 (1)", "4/4 (2)", "30.0 (0.0 to 60.0)"],
        ["bnp", "–", "–", "–", "–"],
    ]
    assert [line[:1] + line[2:] for line in beside[1:]] == [["clp", "badnets", "–", "sig"]]


def test_a_study_without_ulrl_has_no_table_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in rows_of() if row["repair"] != "ulrl"]
    folder = write_study(tmp_path, rows)
    write_counts(folder, rows)
    main([str(folder)])
    assert len(tables_of(capsys.readouterr().out)) == 3
