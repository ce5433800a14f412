"""The report's section on classes, against counting the same cells with pandas."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.reporting.build import write_report
from tests.orchestrator_tests.report_folders import (
    Row,
    count_out,
    make_rows,
    reach,
    settle,
    write_study,
)

POINT = ("unlearn_threshold", "reinit_ratio")


def study(folder: Path, classes: int = 10, seeds: tuple[int, ...] = (0,)) -> pd.DataFrame:
    """Write a study whose second setting is the best, and return its counts."""
    rows = make_rows(attacks=(("badnets", {}),), seeds=seeds, thresholds=(0.1, 0.2), ratios=(1.0,))
    for place, row in enumerate(rows):
        reach(row, 0.9 if place % 2 else 0.7)
    cells = pd.DataFrame(count_out(rows, classes))
    write_study(folder, rows)
    cells.to_parquet(folder / "confusion.parquet")
    return cells


def shares(cells: pd.DataFrame, trial: int, model: str) -> pd.DataFrame:
    """Return ACC and ASR of each class."""
    own = cells[(cells["trial"] == trial) & (cells["model"] == model)]
    found = {}
    for metric, images, aim in (
        ("acc", "clean", "true_class"),
        ("asr", "triggered", "wanted_class"),
    ):
        part = own[own["images"] == images]
        hits = part[part["predicted_class"] == part[aim]].groupby("true_class")["count"].sum()
        total = part.groupby("true_class")["count"].sum()
        found[metric] = hits.reindex(total.index, fill_value=0) / total
    return pd.DataFrame(found)


def listed(html: str) -> list[list[str]]:
    """Return the cells of the section's tables."""
    section = html[html.index('<section id="classes">') :]
    section = unescape(section[: section.index("</section>")])
    body = "".join(re.findall(r"<tbody>(.*?)</tbody>", section, re.DOTALL))
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def text(share: float) -> str:
    return "–" if pd.isna(share) else f"{100 * share:.1f}"


def expected(before: pd.DataFrame, after: pd.DataFrame, label: int) -> list[str]:
    change = 100 * (after.acc[label] - before.acc[label])
    signed = f"{change:+.1f}".replace("-", "\N{MINUS SIGN}") if round(change, 1) else "0.0"
    asr = [text(part.asr[label]) for part in (before, after)]
    return [str(label), text(before.acc[label]), text(after.acc[label]), signed, *asr]


def test_every_class_of_the_best_setting(tmp_path: Path) -> None:
    cells = study(tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    before, after = shares(cells, 0, "victim"), shares(cells, 1, "repaired")
    assert listed(html) == [expected(before, after, label) for label in range(10)]
    (figure,) = (tmp_path / "figures").glob("classes-*.svg")
    table = pd.read_csv(figure.with_suffix(".csv"))
    for metric in ("acc", "asr"):
        for when, wanted in (("before", before), ("after", after)):
            assert table[f"{metric}_{when}"].tolist() == pytest.approx(
                wanted[metric].tolist(), nan_ok=True
            )
    assert table["unlearn_threshold"].unique().tolist() == [0.2]
    assert table["wanted_class"].dropna().unique().tolist() == [0]
    assert table["triggered_images"].tolist() == [0, *[40] * 9]
    worst = int((before.acc - after.acc).argmax())
    assert f"class {worst} lost most ACC ({text(before.acc[worst])} → " in html


def test_the_figure_has_every_cell(tmp_path: Path) -> None:
    cells = study(tmp_path)
    write_report(tmp_path)
    (figure,) = (tmp_path / "figures").glob("classes-*.svg")
    told = re.findall(
        r"class (\d+) as class (\d+): (\d+) of (\d+) \((.*?) %\)",
        figure.read_text(encoding="utf-8"),
    )
    found = []
    for images in ("triggered", "clean"):
        for trial, model in ((0, "victim"), (1, "repaired")):
            own = (cells["trial"] == trial) & (cells["model"] == model)
            found.append(cells[own & (cells["images"] == images)])
    wanted = pd.concat(found)
    columns = ["true_class", "predicted_class", "count"]
    assert sorted(tuple(map(int, one[:3])) for one in told) == sorted(
        wanted[columns].itertuples(index=False, name=None)
    )
    assert all(f"{100 * int(one[2]) / int(one[3]):.1f}" == one[4] for one in told)


def test_of_many_classes_those_at_either_end(tmp_path: Path) -> None:
    cells = study(tmp_path, classes=30)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    before, after = shares(cells, 0, "victim"), shares(cells, 1, "repaired")
    lost = (before.acc - after.acc).round(9).sort_values(ascending=False, kind="stable").index[:10]
    left = after.asr.dropna().sort_values(ascending=False, kind="stable").index[:10]
    assert listed(html) == [expected(before, after, label) for label in (*lost, *left)]
    (file,) = (tmp_path / "figures").glob("classes-*")
    assert len(pd.read_csv(file)) == 30


def test_seeds_after_attacks_and_a_dozen_at_most(tmp_path: Path) -> None:
    study(tmp_path, seeds=tuple(range(15)))
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert len(list((tmp_path / "figures").glob("classes-*.svg"))) == 12
    assert "Shown are 12 of 15 scenarios" in html


def test_several_defence_seeds_are_counted_together(tmp_path: Path) -> None:
    rows: list[Row] = []
    for seed in (0, 1, 2, 3):
        some = make_rows(attacks=(("badnets", {}),), thresholds=(0.1,), ratios=(1.0,))
        rows += [row | {"defence_seed": seed} for row in some]
    for row in rows:
        reach(row, 0.8)
    cells = pd.DataFrame(count_out(rows))
    write_study(tmp_path, rows)
    cells.to_parquet(tmp_path / "confusion.parquet")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "2 models of as many defence seeds together" in html
    after = (shares(cells, 2, "repaired") + shares(cells, 3, "repaired")) / 2
    before = shares(cells, 0, "victim")
    assert listed(html) == [expected(before, after, label) for label in range(10)]


def counted(
    model: str, clean: dict[tuple[int, int], int], triggered: dict[tuple[int, int], int]
) -> list[Row]:
    """Return cells of a model that an attack on class 0 of three is after."""
    head = {"trial": 0, "model": model, "half": "report"}
    return [
        {**head, "images": images, "true_class": true, "predicted_class": predicted, "count": n}
        | {"wanted_class": None if images == "clean" else 0}
        for images, cells in (("clean", clean), ("triggered", triggered))
        for (true, predicted), n in cells.items()
    ]


Cells = dict[tuple[int, int], int]


def top_of(tmp_path: Path, before: tuple[Cells, Cells], after: tuple[Cells, Cells]) -> str:
    """Return the top of the report on one repair, by its clean and triggered counts."""
    rows = make_rows(attacks=(("badnets", {}),), thresholds=(0.1,), ratios=(1.0,))
    for when, (own, stamped) in {"before": before, "after": after}.items():
        hits = {"acc": sum(n for (t, p), n in own.items() if t == p) / sum(own.values())}
        hits["asr"] = sum(n for (_, p), n in stamped.items() if p == 0) / sum(stamped.values())
        hits["ra"] = sum(n for (t, p), n in stamped.items() if t == p) / sum(stamped.values())
        rows[0] |= {f"{metric}_{when}_report": share for metric, share in hits.items()}
    settle(rows[0])
    write_study(tmp_path, rows)
    cells = [*counted("victim", *before), *counted("repaired", *after)]
    frame = pd.DataFrame(cells).astype({"wanted_class": "Int64"})
    frame.to_parquet(tmp_path / "confusion.parquet")
    html = unescape(write_report(tmp_path).read_text(encoding="utf-8"))
    return html[: html.index("<nav")]


@pytest.mark.parametrize(
    ("clean", "triggered", "sentences"),
    [
        (  # the target's class is lost, and what was the target's goes to class 1
            {(0, 1): 9, (0, 0): 1, (1, 1): 10, (2, 2): 10},
            {(1, 1): 7, (2, 1): 12, (2, 2): 1},
            ("leaves the target's class an ACC of at most 10", "to one wrong class in 1 of 1"),
        ),
        ({(0, 0): 10, (1, 1): 10, (2, 2): 10}, {(1, 1): 10, (2, 2): 10}, ()),  # repaired
        ({(0, 0): 10, (1, 1): 10, (2, 2): 10}, {(1, 0): 10, (2, 0): 10}, ()),  # still obeys
        ({(0, 0): 10, (1, 1): 10, (2, 2): 10}, {(1, 1): 20}, ()),  # all are of that class
    ],
)
def test_the_top_says_where_a_low_asr_is_no_repair(
    tmp_path: Path,
    clean: dict[tuple[int, int], int],
    triggered: dict[tuple[int, int], int],
    sentences: tuple[str, ...],
) -> None:
    knows = {(label, label): 10 for label in range(3)}
    top = top_of(tmp_path, (knows, {(1, 0): 10, (2, 0): 10}), (clean, triggered))
    assert ("A low ASR is no repair everywhere" in top) is bool(sentences)
    assert all(sentence in top for sentence in sentences)


@pytest.mark.parametrize(("known", "lost"), [(3, True), (2, False)])
def test_a_class_of_which_a_victim_knows_three_tenths_can_be_lost(
    tmp_path: Path, known: int, *, lost: bool
) -> None:
    clean = {(0, 0): known, (0, 1): 10 - known, (1, 1): 10, (2, 2): 10}
    after = {(0, 1): 10, (1, 1): 10, (2, 2): 10}, {(1, 1): 10, (2, 2): 10}
    top = top_of(tmp_path, (clean, {(1, 0): 10, (2, 0): 10}), after)
    assert ("leaves the target's class" in top) is lost


def test_ties_are_named_as_ties(tmp_path: Path) -> None:
    cells = study(tmp_path)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    left = shares(cells, 1, "repaired").asr
    most = left.index[left == left.max()]
    assert len(most) == 2
    start = f"classes {most[0]} and {most[1]} have the highest ASR ({most[0]}: "
    assert re.search(re.escape(start) + rf"[\d.]+ → {text(left.max())}\)", html)


def test_counts_of_other_results_are_refused(tmp_path: Path, refusal: Callable[[], str]) -> None:
    cells = study(tmp_path)
    moved = cells.assign(trial=1 - cells["trial"].where(cells["model"] == "repaired", 1))
    moved.to_parquet(tmp_path / "confusion.parquet")
    assert re.fullmatch(
        r"DIR/confusion.parquet: trial 0, repaired: its counts make acc_after_report 0\.\d+, and "
        r"results.csv has 0\.\d+; run the study's command again",
        refusal(),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells.drop(columns="model"), "lacks the column model"),
        (lambda cells: cells.assign(count="x"), "cannot be read as a table of counts; "),
    ],
)
def test_a_table_of_other_things_is_refused(
    tmp_path: Path,
    refusal: Callable[[], str],
    change: Callable[[pd.DataFrame], pd.DataFrame],
    message: str,
) -> None:
    change(study(tmp_path)).to_parquet(tmp_path / "confusion.parquet")
    assert refusal().startswith(f"DIR/confusion.parquet: {message}")
