"""The summary on the terminal, against the same numbers computed plainly."""

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from orchestrator.cli.summary import print_summary
from orchestrator.reporting.text import folded
from orchestrator.spec.model import Study, VictimRule
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study


def study_of(path: Path, **other: Any) -> Study:
    return small_study(
        **{
            "store": f"memory://{path}",
            "attacks": [choice(BADNETS), choice(BLENDED)],
            "settings": {"alpha": (0.5, 0.7), "reinit_ratio": (0.5, 1.0)},
            "grid": {"seeds": (0, 1, 2)},
            "few": {},
            **other,
        }
    )


def made(path: Path, failing: Sequence[str] = (), **other: Any) -> Path:
    """Return the table of a study that ran."""
    desk = Desk(study_of(path, **other), path)
    Workers(failing=failing).run(desk)
    desk.results.write(path, {})
    return path / "results.csv"


def printed(table: Path, objective: str = "der", width: int = 80) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False)
    print_summary(console, table, objective)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def numbers(line: str) -> list[float]:
    return [float(text) for text in re.findall(r"(?<![\w.=])\d+(?:\.\d+)?(?![\w.=])", line)]


def test_the_numbers_are_those_of_the_table(tmp_path: Path) -> None:
    table = made(tmp_path)
    frame = pd.read_csv(table)
    keys = ["alpha", "reinit_ratio"]
    best: Any = frame.groupby(keys).der_selection.mean().idxmax()
    alpha, ratio = best
    assert "best setting by mean ASR on the selection half" in " ".join(printed(table, "asr"))
    text = " ".join(printed(table))
    assert "24 trials: 24 done" in text
    assert "best setting by mean DER on the selection half:" in text
    assert f"reinit_ratio={ratio}" in text.replace(" ", "")
    assert f"alpha={alpha}" in text.replace(" ", "")
    chosen = frame[(frame.alpha == alpha) & (frame.reinit_ratio == ratio)]
    for attack, line in zip(("badnets", "blended"), printed(table)[-2:], strict=True):
        assert line.split()[0] == attack
        part = chosen[chosen.attack == attack]
        wanted = [
            3,
            *(
                value
                for metric in ("acc", "asr")
                for value in (
                    100 * fmean(part[f"{metric}_before_report"]),
                    100 * fmean(part[f"{metric}_after_report"]),
                    100 * stdev(part[f"{metric}_after_report"]),
                )
            ),
            100 * fmean(part.ra_after_report),
        ]
        found = numbers(line)
        assert found[-len(wanted) - 2 : -2] == [pytest.approx(v, abs=0.0501) for v in wanted]
        der = [fmean(part.der_report), stdev(part.der_report)]
        assert found[-2:] == [pytest.approx(value, abs=0.000501) for value in der]


def test_a_search_in_a_log_file_finds_the_whole_best_setting(tmp_path: Path) -> None:
    """The console of a file is 80 wide: a sentence is not broken there."""
    lines = printed(made(tmp_path), width=40)
    (line,) = (line for line in lines if line.startswith("best setting by mean DER"))
    assert re.search(r"reinit_ratio=[\d.]+, alpha=[\d.]+$|alpha=[\d.]+, reinit_ratio=[\d.]+$", line)
    assert any("paired t-test over 2 attacks' mean differences, 6 scenarios, " in s for s in lines)


def test_counts_of_every_status(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    Workers(failing=["trial-00003"]).run(desk, steps=60)
    desk.results.write(tmp_path, {})
    counts = {status: desk.statuses().count(status) for status in ("done", "failed", "pending")}
    told = printed(tmp_path / "results.csv")[1]
    assert told == "24 trials: " + ", ".join(f"{n} {status}" for status, n in counts.items() if n)
    assert counts["pending"]


def test_without_a_victim_that_took_that_comes_first_and_nothing_is_best(tmp_path: Path) -> None:
    lines = printed(made(tmp_path, victim_rule=VictimRule(min_acc=0.91, min_asr=0.95)))
    assert lines[1:] == [
        (
            "All 6 victims are weak: ACC or ASR is below what the study demands of a victim. So no "
            "setting is best, and no number here says anything about a defence. The highest ACC is "
            "88.0\u00a0%, the highest ASR 94.0\u00a0%. Against a low ACC train victims for more "
            "epochs (victim.epochs), against a low ASR raise the poison ratio (poison_ratio)."
        ),
        "24 trials: 24 done",
    ]


def test_some_weak_victims_are_counted_beside_their_family(tmp_path: Path) -> None:
    table = made(tmp_path, victim_rule=VictimRule(min_acc=0.9, min_asr=0.95))
    assert not any("weak" in line for line in printed(table))
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows.loc[(rows.attack == "blended") & (rows.seed != "0"), "victim_ok"] = "False"
    rows.to_csv(table, index=False)
    weak = [line for line in printed(table, width=120) if "weak" in line]
    assert [line.split()[:4] for line in weak] == [["blended", "(2", "weak)", "1"]]


def test_no_number_is_cut_where_names_are_long(tmp_path: Path) -> None:
    table = made(tmp_path, victim_rule=VictimRule(min_acc=0.9, min_asr=0.95))
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows.loc[(rows.attack == "blended") & (rows.seed != "0"), "victim_ok"] = "False"
    rows.loc[rows.attack == "blended", "poison_ratio"] = "0.123456"
    rows.to_csv(table, index=False)
    narrow, wide = ("\n".join(printed(table, width=width)) for width in (80, 160))
    assert "…" not in narrow
    of_table = [text.partition("trained victims:")[2].split() for text in (narrow, wide)]
    figures = [sorted(word for word in words if re.search(r"\d", word)) for words in of_table]
    assert figures[0] == figures[1]
    assert "weak)" in narrow


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("badnets", ["badnets"]),
        (
            "badnets digits preact_resnet18(width=8)",
            ["badnets digits", "preact_resnet18(", "width=8)"],
        ),
        ("sig arrays(cifar10-10000.npz)", ["sig arrays(", "cifar10-", "10000.npz)"]),
        ("x" * 20, ["x" * 17, "xxx"]),
        ("", [""]),
    ],
)
def test_long_names_break_where_no_number_is(name: str, lines: list[str]) -> None:
    assert folded(name, 17) == lines
    assert "".join(lines).replace(" ", "") == name.replace(" ", "")


@pytest.mark.parametrize(("flagged", "said"), [("none", True), ("one trial", False)])
def test_a_study_in_which_nothing_is_flagged_says_so_first(
    tmp_path: Path, flagged: str, *, said: bool
) -> None:
    table = made(tmp_path)
    rows = pd.read_csv(table, keep_default_na=False, dtype=str)
    rows["plain_fine_tuning"] = "True"
    if flagged == "one trial":
        rows.loc[3, "plain_fine_tuning"] = "False"
    rows.to_csv(table, index=False)
    text = "\n".join(printed(table))
    sentence = "No neuron is flagged in any of the 24 done trials: each is plain fine-tuning"
    assert (sentence in text) is said


@pytest.mark.parametrize(("short", "said"), [(12, True), (11, False)])
def test_ascents_that_ended_above_their_threshold_are_told(
    tmp_path: Path, short: int, *, said: bool
) -> None:
    """With few samples an epoch is a single step, and twenty of them may not be enough."""
    table = made(tmp_path)
    rows = pd.read_csv(table, keep_default_na=False, dtype=str)
    rows["threshold_reached"] = ["False"] * short + ["True"] * (len(rows) - short)
    rows.to_csv(table, index=False)
    sentence = (
        "Phase 1 ended at its last epoch, above the threshold, in 12 of 24 done trials of ULRL:"
    )
    assert (sentence in "\n".join(printed(table))) is said


def test_settings_that_are_exactly_level_are_counted(tmp_path: Path) -> None:
    table = made(tmp_path)
    rows = pd.read_csv(table, keep_default_na=False, dtype=str)
    numbers = [name for name in map(str, rows) if "_after_" in name or name.startswith("der_")]
    first = rows.groupby(["attack", "seed"])[numbers].transform("first")
    level = rows.alpha == "0.5"
    rows.loc[level, numbers] = first[level]
    rows.loc[~level, "der_selection"] = "0.1"
    rows.to_csv(table, index=False)
    text = " ".join(printed(table))
    assert "1 setting is exactly level with it; the first is named." in text
