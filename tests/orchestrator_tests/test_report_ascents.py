"""What a report says of phase 1 that missed the target, and of repairs that wreck the model."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli.summary import print_summary
from orchestrator.errors import SpecError
from orchestrator.reporting.build import assemble
from orchestrator.reporting.classes import missed
from orchestrator.reporting.read_folder import StudyResults, read_results
from orchestrator.reporting.summary import summarise
from orchestrator.reporting.text import names_of
from tests.orchestrator_tests.report_folders import Row, make_rows, settle, write_study


def rows_of(*ends: tuple[str, int, str, float, int]) -> list[Row]:
    """One scenario; a row for each: flagged, class, share, ACC after, epoch."""
    rows = make_rows(attacks=[("sig", {})], thresholds=[0.1, 0.2, 0.4][: len(ends)], ratios=[1.0])
    for row, (flagged, label, share, acc, epoch) in zip(rows, ends, strict=True):
        row |= {"flagged": flagged, "collapse_class": label, "collapse_share": share}
        row |= {"acc_after_selection": acc, "acc_after_report": acc, "stop_epoch": epoch}
        row["wrecked"] = acc <= 0.1
        settle(row)
    return rows


def results_of(folder: Path, rows: list[Row]) -> StudyResults:
    return read_results(write_study(folder, rows) / "results.csv")


def test_a_missed_target_is_told_with_the_class_that_phase_one_ended_in(tmp_path: Path) -> None:
    rows = rows_of(("[5]", 5, "1.0", 0.9, 7), ("[5]", 5, "1.0", 0.9, 7), ("[0]", 0, "0.6", 0.9, 3))
    results = results_of(tmp_path, rows)
    (found,) = missed(results, names_of(results))
    assert found.endswith(
        "seed 0: phase 1 ended, after epoch 7, in class 5 (100\u00a0% of predictions); the target "
        "is 0"
    )
    page = assemble(tmp_path)[0]["report.html"]
    assert "after epoch 7, in class 5" in page
    assert "after epoch 3" not in page  # there the target was flagged
    assert "A flagged row is not evidence of a backdoor" in page


@pytest.mark.parametrize(
    ("cells", "end"),
    [
        ({"target_rank": 6}, "in class 5 (100\u00a0% of predictions); the target, 0, had rank 6"),
        ({"target_rank": ""}, "in class 5 (100\u00a0% of predictions); the target is 0"),
    ],
)
def test_the_rank_of_the_targets_row_is_given_where_it_is_known(
    tmp_path: Path, cells: dict[str, Any], end: str
) -> None:
    rows = rows_of(("[5]", 5, "1.0", 0.9, 7))
    rows[0] |= cells
    (found,) = missed(results := results_of(tmp_path, rows), names_of(results))
    assert found.endswith(end)


def test_a_rank_that_is_no_whole_number_is_refused(tmp_path: Path) -> None:
    rows = rows_of(("[5]", 5, "1.0", 0.9, 7))
    rows[0] |= {"target_rank": "sixth"}
    with pytest.raises(SpecError, match="row 2, target_rank: must be a whole number"):
        results_of(tmp_path, rows)


def test_of_several_defence_seeds_each_ascent_is_named(tmp_path: Path) -> None:
    rows = rows_of(("[5]", 5, "1.0", 0.9, 7), ("[5]", 5, "1.0", 0.9, 7))
    for row, seed in zip(rows, (3, 4), strict=True):
        row |= {"defence_seed": seed, "unlearn_threshold": 0.1}
    results = results_of(tmp_path, rows)
    texts = missed(results, names_of(results))
    assert [text.partition(": ")[0].rpartition(" · ")[2] for text in texts] == [
        *("defence seed 3", "defence seed 4"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"attack_options": '{"labels": "all_to_all"}'},
        {"status": "pruned"},
        {"collapse_class": "", "collapse_share": ""},
    ],
)
def test_what_has_no_missed_target(tmp_path: Path, change: dict[str, Any]) -> None:
    rows = rows_of(("[5]", 5, "1.0", 0.9, 7))
    if change.get("status") == "pruned":
        rows[0] |= {name: "" for name in rows[0] if "_after_" in name or name.startswith("der_")}
        rows[0] |= {"flagged": ""}
    rows[0] |= change
    results = results_of(tmp_path, rows)
    assert missed(results, names_of(results)) == []


def test_wrecks_are_told_on_the_page_and_on_the_terminal(tmp_path: Path) -> None:
    rows = rows_of(("[0]", 0, "0.5", 0.9, 7), ("[0]", 0, "0.5", 0.007, 7))
    for row, asr in zip(rows, (0.2, 0.0), strict=True):
        row |= {"asr_after_selection": asr, "asr_after_report": asr}
        settle(row)
    results = results_of(tmp_path, rows)
    assert [trial.wrecked for trial in results.trials] == [False, True]
    summary = summarise(results, "asr")  # by which the wreck would win
    assert summary.common == (("unlearn_threshold", "0.1"),)
    bests = [outcome.best.judged for outcome in summary.outcomes if outcome.best]
    assert bests == [(results.trials[0],)]
    page = assemble(tmp_path)[0]["report.html"]
    assert 'id="wrecked"' in page
    assert '<a href="#wrecked">' in page
    told = io.StringIO()
    console = Console(file=told, width=200)
    print_summary(console, tmp_path / "results.csv", "der")
    assert (
        "1 wrecked: after the repair ACC is at or below chance, the share of the largest class"
        in told.getvalue()
    )
