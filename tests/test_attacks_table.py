"""The tables of attacks: cells by hand, and the command on a small study."""

import csv
from math import log10
from pathlib import Path

import pandas as pd
import pytest

from benchmarks._removals import target_class_acc
from benchmarks.attacks_table import main, victims
from tests.finished_study import finished_study
from tests.markdown_tables import cells_of


def test_a_victim_counts_once_whatever_draws_repair_it() -> None:
    """By hand: ACC 60 and 70, benign models 66 of seed 0 and 69 of seed 2, so a gap of -6."""
    columns = ["seed", "defence_seed", "acc_before_report", "asr_before_report", "victim_ok"]
    rows = [(0, 0, 0.6, 0.9, True), (0, 1, 0.6, 0.9, True), (1, 0, 0.7, 0.5, False)]
    made = pd.DataFrame(rows, columns=columns)
    benign = pd.Series({0: 0.66, 2: 0.69})
    assert victims(made, benign) == ["1/2", "65.0 ± 7.1 / 70.0 ± 28.3", "-6.0"]
    assert victims(made, benign.iloc[1:])[2] == "–"


def test_the_class_of_the_target_is_counted_on_clean_images(tmp_path: Path) -> None:
    """By hand: of 8 images of class 3 the repaired model knows 2; trial 1 has no counts."""
    pd.DataFrame({"target_label": [3, 3]}).to_csv(tmp_path / "results.csv")
    columns = ["trial", "model", "half", "images", "true_class", "predicted_class", "count"]
    rows = [
        (0, "repaired", "report", "clean", 3, 3, 2),
        (0, "repaired", "report", "clean", 3, 5, 6),
        (0, "repaired", "report", "clean", 5, 5, 9),
        (0, "repaired", "report", "triggered", 3, 3, 9),
        (0, "repaired", "selection", "clean", 3, 3, 9),
        (0, "victim", "report", "clean", 3, 3, 9),
    ]
    cells = pd.DataFrame(rows, columns=columns).assign(wanted_class=3)
    cells.to_parquet(tmp_path / "confusion.parquet")
    assert target_class_acc(tmp_path).to_dict() == {0: 0.25}


def test_the_command_prints_what_the_results_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = finished_study(
        "[none, {name: badnets, size: 2}, {name: sig, poison_ratio: 0.05}]", size=16, draws="[0, 1]"
    )
    capsys.readouterr()
    main([str(folder)])
    out = capsys.readouterr().out
    lines = cells_of(out)
    made, repaired = lines[:3], lines[3:]
    assert [line[:4] for line in made[1:]] == [
        ["badnets", "size: 2", "0.1", "2/2"],
        ["sig", "–", "0.05", "2/2"],
    ]
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    acc = {row["seed"]: float(row["acc_before_report"]) for row in rows if row["attack"] == "sig"}
    assert made[2][4].startswith(f"{100 * (acc['0'] + acc['1']) / 2:.1f} ± ")
    # A white square of 4 in 256 pixels, and a sine of 40 grey levels: as much noise at most.
    noise = [float(line[7].split(" ")[0]) for line in made[1:]]
    assert noise[0] == pytest.approx(10 * log10(256 / 4), abs=1)
    assert noise[1] == pytest.approx(10 * log10(2 * (255 / 40) ** 2), abs=1.5)
    assert noise[0] > 18.0
    assert noise[1] > 19.1
    assert repaired[0][:3] == ["attack", "removed, draw 0", "removed, draw 1"]
    asr = [
        float(row["asr_after_report"])
        for row in rows
        if (row["attack"], row["defence_seed"]) == ("sig", "1")
    ]
    assert repaired[2][:3:2] == ["sig", f"{sum(value < 0.1 for value in asr)}/2"]
    assert "Benign models: ACC " in out
    assert "(n = 4)" in out
