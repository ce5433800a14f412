"""Several studies on one page: what they share, how far they differ, what is missing where."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pandas as pd
import pytest
from scipy import stats

from orchestrator.compare import aligned, bests, fair, read_sides
from orchestrator.report import main
from tests.orchestrator_tests.report_folders import (
    Row,
    make_rows,
    settle,
    unfinish,
    weaken,
    write_study,
)

KEY = ["attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"]
KEY += ["seed", "defence_seed", "clean_ratio", "unlearn_threshold", "reinit_ratio"]
SCENARIO = KEY[:7]


def write(folder: Path, rows: list[Row], name: str) -> Path:
    write_study(folder, rows)
    (folder / "study.yaml").write_text(f"name: {name}\nobjective: der\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("studies")
    first, second = make_rows(seeds=(0, 1, 2)), make_rows(seeds=(1, 2, 3), thresholds=(0.1, 0.2))
    for number, row in enumerate(second):
        row["asr_after_report"] += 0.01 * (number % 5)
        row["acc_after_report"] -= 0.002 * (number % 7)
        row["ra_after_report"] += 0.003 * (number % 3)
        settle(row)
    weaken(first, lambda row: row["attack"] == "sig" and row["seed"] == 2)
    unfinish(second[0], "failed", "no")
    return [write(place / "a", first, "first"), write(place / "b", second, "second")]


@pytest.fixture(scope="module")
def html(folders: list[Path]) -> str:
    page = folders[0].parent / "page.html"
    assert main([*map(str, folders), "--out", str(page)]) == 0
    return page.read_text(encoding="utf-8")


def rows_of(html: str, start: str) -> list[list[str]]:
    found = re.search(rf"<table {start}.*?</table>", html, re.DOTALL)
    assert found
    rows = ET.fromstring(found[0]).iter("tr")
    return [["".join(cell.itertext()).strip() for cell in row] for row in rows]


def told(of_scenarios: "pd.Series[float]", form: str) -> str:
    gaps = of_scenarios.groupby(level="attack").mean()
    low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
    numbers = [form.format(number) for number in (gaps.mean(), low, high)]
    text = f"{numbers[0]} ({numbers[1]} to {numbers[2]})".replace("-", "\N{MINUS SIGN}")
    return re.sub(r"[+\N{MINUS SIGN}](0\.0+)(?!\d)", r"\1", text)


def test_differences_are_paired_and_over_scenarios(folders: list[Path], html: str) -> None:
    first, second = (pd.read_csv(folder / "results.csv") for folder in folders)
    both = first.merge(second, on=KEY, suffixes=("_1", "_2"))
    both = both[(both["status_1"] == "done") & (both["status_2"] == "done")]
    assert f"and have done {len(both)} trials that are the same" in html
    both = both[(both["victim_ok_1"] == True) & (both["victim_ok_2"] == True)]  # noqa: E712
    row = rows_of(html, 'class="differences"')[1]
    assert row[:3] == ["The same trials, all scenarios", "5", str(len(both))]
    for place, (column, factor, form) in enumerate(
        (
            ("acc_after_report", 100, "{:+.1f}"),
            ("asr_after_report", 100, "{:+.1f}"),
            ("ra_after_report", 100, "{:+.1f}"),
            ("der_report", 1, "{:+.3f}"),
        ),
        start=3,
    ):
        both["gap"] = factor * (both[f"{column}_2"] - both[f"{column}_1"])
        means = both.groupby(SCENARIO)["gap"].mean()
        assert row[place].removesuffix("*") == told(means, form), column
    assert row[-1] == "over 3 attacks' means"


@pytest.mark.filterwarnings("ignore:Precision loss")  # RA differs by the same everywhere
def test_stars_are_holms_over_the_whole_table(folders: list[Path], html: str) -> None:
    """Every difference of the table has a test; so many at once find some by chance."""
    comparison = read_sides(folders)
    same = fair(aligned(comparison, *comparison.sides))
    rows = [same, fair(bests(*comparison.sides))]
    for name in ("badnets", "blended", "sig"):
        rows += [[pair for pair in same if pair[0].scenario.family.attack == name]]
    tests, stars = [], []
    for cells, pairs in zip(rows_of(html, 'class="differences"')[1:], rows, strict=True):
        for metric, cell in zip(("acc", "asr", "ra", "der"), cells[3:7], strict=True):
            column = "der_report" if metric == "der" else f"{metric}_after_report"
            gaps = pd.DataFrame(
                [(*one.scenario, two.numbers[column] - one.numbers[column]) for one, two in pairs],
                columns=["family", "seed", "gap"],
            )
            means = gaps.groupby(["family", "seed"])["gap"].mean()
            if len(gaps["family"].unique()) > 1:
                means = means.groupby(level="family").mean()
            equal = len(means) > 1 and means.std() < 1e-12  # which is no evidence
            assert ("(" in cell) == (len(means) > 1 and not equal)
            if len(means) > 1:
                tests.append(1.0 if equal else float(stats.ttest_1samp(means, 0).pvalue))
                stars.append(cell.endswith("*"))
    assert len(tests) == 16, "sig has a single scenario whose victims took"
    ranked = sorted(range(len(tests)), key=lambda place: tests[place])
    fallen = 0
    while fallen < len(tests) and (len(tests) - fallen) * tests[ranked[fallen]] <= 0.05:
        fallen += 1
    assert [place for place, star in enumerate(stars) if star] == sorted(ranked[:fallen])
    assert 0 < fallen < len(tests)


def test_what_is_missing_is_named(html: str) -> None:
    missing = {row[0].split(" · ")[0] + row[0][-1]: row[1:] for row in rows_of(html, 'id="missing')}
    assert missing["badnets0"] == ["9 of 9", "missing"]
    assert missing["sig3"] == ["missing", "6 of 6"]
    settings = rows_of(html, 'id="settings-table"')[1:]
    assert settings[0] == ["unlearn_threshold=0.4, reinit_ratio=0.25", "first"]
    assert len(settings) == 3


def test_the_same_study_twice_differs_nowhere(tmp_path: Path) -> None:
    one = write(tmp_path / "one", make_rows(), "same")
    two = write(tmp_path / "two", make_rows(), "same")
    page = tmp_path / "page.html"
    assert main([str(one), str(two), "--out", str(page)]) == 0
    html = page.read_text(encoding="utf-8")
    assert "<h1>same (one) · same (two)</h1>" in html
    for row in rows_of(html, 'class="differences"')[1:]:
        numbers = set(re.findall(r"[\d.]+", " ".join(row[3:-1])))
        assert "*" not in "".join(row)
        assert numbers == {"0.0", "0.000"}
    assert "All studies have done as many trials of each scenario." in html


def headline(html: str) -> str:
    return html.partition('<div class="answer"><p>')[2].partition("</p>")[0]


@pytest.mark.parametrize("clear", [True, False])
def test_the_headline_says_what_differs_most_and_whether_clearly(
    tmp_path: Path, *, clear: bool
) -> None:
    rows, others = make_rows(), make_rows()
    for row in others:
        row["acc_after_report"] -= {"badnets": 0.0099, "blended": 0.01, "sig": 0.0101}[
            row["attack"]
        ]
        shift = {"badnets": 0.2, "blended": 0.21, "sig": 0.22 if clear else -0.2}
        row["asr_after_report"] = min(1.0, row["asr_after_report"] + 0.2 + shift[row["attack"]])
        settle(row)
    one, two = write(tmp_path / "one", rows, "one"), write(tmp_path / "two", others, "two")
    text = headline(compared(one, two))
    mean, before = (pd.DataFrame(side)["asr_after_report"].mean() for side in (others, rows))
    assert text.startswith(
        f"ASR differs most over the same trials: two less one is +{100 * (mean - before):.1f} ("
    )
    sample = "points, over 3 attacks&#39; means"
    less = f"Clear is the one in ACC: two less one is \u22121.0 (\u22121.0 to \u22121.0) {sample}."
    sure = "a clear difference." if clear else f"not a clear difference. {less}"
    assert text.endswith(f") {sample}; {sure}")


def test_the_headline_where_nothing_can_be_compared(tmp_path: Path) -> None:
    one = write(tmp_path / "one", make_rows(), "one")
    two = write(tmp_path / "two", make_rows(datasets=("cifar10",)), "two")
    assert headline(compared(one, two)).endswith("so nothing can be compared.")
    same = write(tmp_path / "same", make_rows(), "same")
    assert headline(compared(one, same)).startswith("Nothing differs over the same trials")


def compared(one: Path, two: Path) -> str:
    page = one.parent / "page.html"
    assert main([str(one), str(two), "--out", str(page)]) == 0
    return page.read_text(encoding="utf-8")


def test_an_axis_at_the_presets_value_is_the_same_setting(tmp_path: Path) -> None:
    """0.005 is the default preset's on CIFAR-10, 0.001 on GTSRB."""
    sets = ("cifar10", "gtsrb")
    one = write(tmp_path / "one", make_rows(datasets=sets), "one\npreset: default")
    rows = make_rows(datasets=sets, further={"relearn_lr": [0.001, 0.005]})
    two = write(tmp_path / "two", rows, "two\npreset: default")
    html = compared(one, two)
    assert "elsewhere it has the preset's value, 0.005 or 0.001, and trials with that" in html
    assert "have done 54 trials that are the same" in html
    table = pd.read_csv(tmp_path / "page.csv").dropna()
    values = table.groupby("dataset")["relearn_lr"].unique()
    assert {name: list(found) for name, found in values.items()} == {
        "cifar10": [0.005],
        "gtsrb": [0.001],
    }


def test_what_else_varies_in_a_study_makes_no_other_setting(tmp_path: Path) -> None:
    """One study has another rate too, so that it names the default, and the other does not."""
    rows = make_rows(thresholds=(0.1,), ratios=(0.3, 0.7), seeds=(0, 1))
    none = {"unlearn_threshold": "", "reinit_ratio": "", "flagged": "", "repair": "fine_tuning"}
    both = [
        {
            **row,
            **none,
            "repair_options": '{"lr": 0.05}' if row["reinit_ratio"] == 0.7 else "{}",
            "repair_defaults": "{}" if row["reinit_ratio"] == 0.7 else '{"lr": 0.01}',
        }
        for row in rows
    ]
    alone = [{**row, "repair_defaults": "{}"} for row in both if row["repair_options"] == "{}"]
    html = compared(write(tmp_path / "a", both, "a"), write(tmp_path / "b", alone, "b"))
    assert f"have done {len(alone)} trials that are the same" in html
    trials = read_sides([tmp_path / "a"]).sides[0].results.trials
    assert ("repair_options", '{"lr": 0.01}') in {pair for t in trials for pair in t.setting}


@pytest.mark.parametrize("told", ["", "\npreset: gone", "\npreset: 3"])
def test_a_preset_that_nothing_tells_makes_no_trials_the_same(told: str, tmp_path: Path) -> None:
    one = write(tmp_path / "one", make_rows(), f"one{told}")
    rows = make_rows(further={"relearn_lr": [0.005]})
    html = compared(one, write(tmp_path / "two", rows, "two\npreset: default"))
    assert "have done 0 trials that are the same" in html
    assert "a preset's value that no study.yaml tells" in html


def test_every_trial_is_in_the_csv_file(folders: list[Path], html: str) -> None:
    assert html
    table = pd.read_csv(folders[0].parent / "page.csv")
    first, second = (pd.read_csv(folder / "results.csv") for folder in folders)
    assert len(table) == len(first.merge(second, on=KEY, how="outer"))
    assert table["der_report [second]"].count() == (second["status"] == "done").sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["one", "gone"], "gone: no study folder; it has no results.csv"),
        (["one", "one"], "one: is named twice"),
        (
            ["gone", "away"],
            "\n".join(
                f"{name}: no study folder; it has no results.csv" for name in ("gone", "away")
            ),
        ),
        (["one", "--out", "x.html"], "command line: --out is for a comparison of several folders"),
        (["one", "two", "--pdf"], "command line: --pdf is for the figures of one study"),
        (
            ["one", "two", "--out", "no/x.html"],
            "no/x.html: cannot be written; No such file or directory",
        ),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("one"), make_rows(), "one")
    write(Path("two"), make_rows(), "two")
    assert main(arguments) == 2
    assert capsys.readouterr().err == message + "\n"
    assert not list(tmp_path.rglob("*.html"))
