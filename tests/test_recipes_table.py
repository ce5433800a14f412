"""The table that sets two recipes beside each other, on numbers small enough for a pencil."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.recipes_table import main

HEADS = ("attack", "seed", "unlearn_threshold", "reinit_ratio", "status", "victim_ok")
METRICS = ("acc_before_report", "asr_before_report", "acc_after_report", "asr_after_report")
PLACES = ((0.2, 1.0), (0.2, 0.0), (0.4, 0.0))


def study(folder: Path, victims: Sequence[Sequence[float]], weak: int = 9) -> Path:
    """Write a table with a victim per seed, given by DER at each setting; ASR is 1 - DER."""
    folder.mkdir()
    file = folder / "results.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow((*HEADS, *METRICS, "der_report"))
        for seed, ders in enumerate(victims):
            for place, der in zip(PLACES, ders, strict=True):
                values = (0.8, 1.0, 0.7 + 0.01 * seed, 1 - der, der)
                writer.writerow(("badnets", seed, *place, "done", seed != weak, *values))
            writer.writerow(("badnets", seed, 0.9, 0.9, "failed", "", "", "", "", "", ""))
    return file


def test_victims_of_two_recipes_are_set_beside_victims_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DER of one recipe differs by 0.1 everywhere, of two by 0.1, 0.2 twice, and 0.3."""
    main(
        [
            study(tmp_path / "fast", [(0.9, 0.5, 0.6), (0.8, 0.4, 0.5)]),
            study(tmp_path / "long", [(0.7, 0.3, 0.4), (0.6, 0.2, 0.3)]),
        ]
    )
    table, apart = capsys.readouterr().out.split("\n\n")
    same = "| 80.0 ± 0.0 / 100.0 ± 0.0 | 70.5 ± 0.7"
    assert table.splitlines()[2:] == [
        f"| badnets | fast | 2 {same} / 15.0 ± 7.1 | 0.850 ± 0.071 |",
        f"| badnets | long | 2 {same} / 35.0 ± 7.1 | 0.650 ± 0.071 |",
    ]
    assert apart.splitlines()[2:] == [
        "| badnets | one recipe | 2 | 1.0 ± 0.0 | 10.0 ± 0.0 | 0.100 ± 0.000 | 1.00 ± 0.00 |",
        "| badnets | two recipes | 4 | 0.5 ± 0.6 | 20.0 ± 8.2 | 0.200 ± 0.082 | 1.00 ± 0.00 |",
    ]


def test_weak_victims_are_counted_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            study(tmp_path / "fast", [(0.9, 0.5, 0.6), (0.1, 0.2, 0.3)], weak=1),
            study(tmp_path / "long", [(0.5, 0.9, 0.6)], weak=0),
        ]
    )
    table, apart = capsys.readouterr().out.split("\n\n")
    assert table.splitlines()[2:] == [
        "| badnets | fast | 1, 1 weak | 80.0 / 100.0 | 70.0 / 10.0 | 0.900 |",
        "| badnets | long | 0, 1 weak | – / – | – / – | – |",
    ]
    assert apart.splitlines()[2:] == []


def test_settings_that_swap_places_have_no_rank_in_common(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(
        [
            study(tmp_path / "fast", [(0.9, 0.5, 0.6)]),
            study(tmp_path / "long", [(0.5, 0.9, 0.6)]),
        ]
    )
    (line,) = capsys.readouterr().out.strip().splitlines()[-1:]
    assert line == "| badnets | two recipes | 1 | 0.0 | 26.7 | 0.267 | -1.00 |"
