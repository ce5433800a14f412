"""The table of repairs by the victims' conditions, on results made up here."""

import json
from pathlib import Path

import pytest

from benchmarks.victims_table import main
from tests.markdown_tables import cells_of
from tests.orchestrator_tests.report_folders import Row, make_rows, settle, write_study

STAMPED = {"stamp": "after_augmentation"}


def rows_of() -> list[Row]:
    """Return two attacks of three victims, by ULRL with two values of an axis, and by clp.

    Of the first attack one victim is weak. After layers=head ASR is the threshold, after
    layers=all half of it; the target's row is found at the threshold of 0.1 on two of them.
    """
    made = make_rows(
        attacks=[("badnets", {}), ("badnets", STAMPED)],
        seeds=(0, 1, 2),
        thresholds=(0.1, 0.2),
        ratios=(1.0,),
        further={"layers": ["head", "all"], "repair": ["ulrl"], "repair_options": ["{}"]},
    )
    rows = []
    for row in made:
        weak = not json.loads(row["attack_options"]) and row["seed"] == 2
        threshold, share = row["unlearn_threshold"], 1 if row["layers"] == "head" else 0.5
        found = threshold == 0.1 and row["seed"] != 1
        row |= {"target_rank": 1 if found else 3, "flagged": "[0]" if found else "[5]"}
        if row["layers"] == "all":
            row["flagged"] = '["conv:3"]'
        row["victim_ok"] = not weak
        for half in ("selection", "report"):
            row |= {f"acc_before_{half}": 0.9, f"asr_before_{half}": 0.3 if weak else 1.0}
            row |= {f"acc_after_{half}": 0.8, f"asr_after_{half}": threshold * share}
        settle(row)
        rows.append(row)
        if row["layers"] == "all" and threshold == 0.2:
            empty = ("unlearn_threshold", "reinit_ratio", "layers", "flagged", "target_rank")
            clp = {**row, **dict.fromkeys(empty, ""), "repair": "clp"}
            clp |= {f"asr_after_{half}": 0.6 for half in ("selection", "report")}
            settle(clp)
            rows.append(clp)
    return rows


def test_a_row_is_an_attack_and_a_column_a_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main([str(write_study(tmp_path, rows_of()))])
    out = capsys.readouterr().out
    head, plain, stamped = cells_of(out)
    assert head == [
        *("attack", "poison", "took", "victim", "found at 0.1", "found at 0.2"),
        *("ulrl", "clp", "best DER"),
    ]
    # The weak victim is in no mean: it would make 77 of the ASR of 100.
    assert plain == [
        "badnets",
        "0.1",
        "2/3",
        "90 / 100",
        "1/2",
        "0/2",
        "80 / 5, 2/2 (0)",
        "80 / 60, 0/2",
        "ulrl",
    ]
    assert stamped[0] == "badnets(stamp=after_augmentation)"
    assert stamped[2:6] == ["3/3", "90 / 100", "2/3", "0/3"]
    assert "- ulrl: unlearn_threshold=0.1" in out
    assert "- clp" not in out  # it has one setting, and no axis to tell
    assert "layers=all" in out


def test_values_of_an_axis_are_methods_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More methods than attacks, so the methods stand downwards, in the plan's order."""
    main([str(write_study(tmp_path, rows_of())), "--split", "layers"])
    lines = cells_of(capsys.readouterr().out)
    assert [len(line) for line in lines] == [6] * 3 + [3] * 5
    assert [line[:2] for line in lines[3:]] == [
        ["repair", "badnets, 0.1"],
        ["ulrl (layers=head)", "80 / 10, 0/2"],
        ["ulrl (layers=all)", "80 / 5, 2/2 (0)"],
        ["clp", "80 / 60, 0/2"],
        ["best DER", "ulrl (layers=all)"],
    ]


def test_a_wreck_is_neither_removed_nor_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One answer for all images: an ASR of 0, and here the highest DER."""
    rows = rows_of()
    for row in rows:
        if row["repair"] == "clp":
            row |= {f"asr_after_{half}": 0.0 for half in ("selection", "report")}
            row |= {f"acc_after_{half}": 0.85 for half in ("selection", "report")}
            settle(row)
        row["wrecked"] = row["repair"] == "clp" and row["seed"] == 0
    main([str(write_study(tmp_path, rows))])
    _, plain, _ = cells_of(capsys.readouterr().out)
    assert plain[6:] == ["80 / 5, 2/2 (0)", "85 / 0, 1/2 (0)", "ulrl"]


def test_folders_follow_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_study(tmp_path / name, rows_of()) for name in "ab")
    main([str(first), str(second)])
    assert len(cells_of(capsys.readouterr().out)) == 6


def test_a_share_of_clean_samples_is_of_every_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 2 % ASR is a tenth of that with 1 %; an ascent of each share is counted."""
    rows = rows_of()
    more = []
    for row in rows:
        row["clean_ratio"] = 0.01
        more.append({**row, "clean_ratio": 0.02})
        for half in ("selection", "report"):
            more[-1][f"asr_after_{half}"] = row[f"asr_after_{half}"] / 10
        settle(more[-1])
    main([str(write_study(tmp_path, rows + more)), "--split", "clean_ratio"])
    lines = cells_of(capsys.readouterr().out)
    assert lines[1][4:] == ["2/4", "0/4"]
    assert [line[:2] for line in lines[4:-1]] == [
        ["ulrl (clean_ratio=0.01)", "80 / 5, 2/2 (0)"],
        ["ulrl (clean_ratio=0.02)", "80 / 0, 2/2 (0)"],
        ["clp (clean_ratio=0.01)", "80 / 60, 0/2"],
        ["clp (clean_ratio=0.02)", "80 / 6, 2/2 (0)"],
    ]


def test_each_preset_has_an_ascent_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two presets, three victims, two ratios: six ascents, of which those of `official` find it.

    Plain fine-tuning flags nothing, whatever its ascent says.
    """
    rows = make_rows(
        attacks=[("badnets", {})],
        seeds=(0, 1, 2),
        thresholds=(0.1,),
        ratios=(0.5, 1.0),
        further={"preset": ["default", "official", "fine_tuning"]},
    )
    flagged = {"default": "[5]", "official": "[0]", "fine_tuning": "[]"}
    for row in rows:
        row |= {"target_rank": 1 if row["preset"] == "official" else 3}
        row |= {"flagged": flagged[row["preset"]]}
        settle(row)
    main([str(write_study(tmp_path, rows)), "--split", "preset"])
    _, line, *_ = cells_of(capsys.readouterr().out)
    assert line[4] == "3/6"


def test_a_single_setting_is_judged_by_all_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By hand: ASR 0, 30 and 60 after the three draws; of two thresholds the last draw judges."""
    rows = []
    for draw in (0, 1, 2):
        for row in make_rows(attacks=[("badnets", {})], thresholds=(0.1, 0.2), ratios=(1.0,)):
            row |= {"defence_seed": draw, "target_rank": 1, "flagged": "[0]"}
            for half in ("selection", "report"):
                row |= {f"acc_after_{half}": 0.8, f"asr_after_{half}": 0.3 * draw}
            settle(row)
            rows.append(row)
    main([str(write_study(tmp_path / "two", rows))])
    assert cells_of(capsys.readouterr().out)[1][6] == "80 / 60, 0/1"
    one = [row for row in rows if row["unlearn_threshold"] == 0.1]
    main([str(write_study(tmp_path / "one", one))])
    assert cells_of(capsys.readouterr().out)[1][5] == "80 / 30, 1/3 (0)"
