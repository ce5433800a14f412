"""The table of repairs for a paper and for a page: the numbers by pandas, the text escaped."""

import re
from pathlib import Path

import pandas as pd

from orchestrator.reporting.build import write_report
from tests.orchestrator_tests.report_folders import make_rows, weaken, write_study

FAMILY = ["attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"]


def expected(study: Path) -> list[list[str]]:
    """Return mean ± sd of each family's own best trials: ACC, ASR, RA, DER."""
    results = pd.read_csv(study / "results.csv")
    done = results[results["status"] == "done"]
    best = done.loc[done.groupby([*FAMILY, "seed"], sort=False)["der_selection"].idxmax()]
    found = []
    for _, group in best.groupby(FAMILY, sort=False):
        counted = group[group["victim_ok"] == True] if any(group["victim_ok"]) else group  # noqa: E712
        columns = [(100, f"{name}_after_report", 1) for name in ("acc", "asr", "ra")]
        found.append(
            [
                "±".join(
                    f"{factor * number:.{digits}f}"
                    for number in (counted[name].mean(), counted[name].std())
                )
                for factor, name, digits in (*columns, (1, "der_report", 3))
            ]
        )
    return found


def test_latex_has_the_numbers(study: Path) -> None:
    text = (study / "table.tex").read_text(encoding="utf-8")
    body = text.partition(r"\midrule")[2].partition(r"\midrule")[0].strip().splitlines()
    rows = [line.removesuffix(r" \\").split(" & ") for line in body]
    assert [len(row) for row in rows] == [12] * 8
    assert [[c.replace(r"$\pm$", "±") for c in row[4:8]] for row in rows] == expected(study)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert text.count("{") == text.count("}")
    heads = next(line for line in text.splitlines() if line.startswith(" & n &"))
    assert heads.count("&") == 11
    assert r"unlearn\_threshold, reinit\_ratio" in heads


def test_markdown_has_the_numbers(study: Path) -> None:
    text = (study / "table.md").read_text(encoding="utf-8")
    lines = text.partition("\n\n")[0].splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert {len(row) for row in rows} == {12}
    numbers = [[c.replace("\u00a0", "") for c in row[4:8]] for row in rows[2:-1]]
    assert numbers == expected(study)


def test_weak_victims_have_a_mark_and_a_note(study: Path) -> None:
    text = (study / "table.md").read_text(encoding="utf-8")
    assert text.count(r"(width=16)\* |") == 2
    assert "did not take: left out of the means" in text
    assert text.count("no victim took") == 1


def test_odd_names_are_escaped(tmp_path: Path) -> None:
    odd = r"a_b&c%d$e#f{g}~^\h|i"
    rows = make_rows(attacks=((odd, {}),), thresholds=(0.1, 0.2), ratios=(1.0,))
    weaken(rows, lambda _: True)
    write_report(write_study(tmp_path, rows))
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert (
        r"a\_b\&c\%d\$e\#f\{g\}\textasciitilde{}\textasciicircum{}\textbackslash{}h|i $\cdot$"
    ) in latex
    (row,) = (line for line in latex.splitlines() if line.startswith(r"a\_b"))
    assert len(re.findall(r"(?<!\\)&", row)) == 11
    markdown = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert r"a\_b&c%d$e#f{g}~^\\h\|i · digits" in markdown
