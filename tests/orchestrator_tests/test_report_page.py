"""The page and its files: complete, self-contained, and the same every time."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from orchestrator.report import main
from orchestrator.reporting.build import conclusion, write_report
from orchestrator.search.abandonment import forecast
from tests.orchestrator_tests.report_folders import (
    HOSTILE,
    Row,
    make_rows,
    reach,
    settle,
    unfinish,
    weaken,
    write_study,
)

SECTIONS = [
    *("repairs", "sensitivity", "surfaces", "front", "neurons", "classes", "curves"),
    *("pruned", "failed", "weak", "cost", "made", "halves"),
]


@pytest.fixture(scope="module")
def html(study: Path) -> str:
    return (study / "report.html").read_text(encoding="utf-8")


def page(folder: Path, rows: list[Row]) -> str:
    return write_report(write_study(folder, rows)).read_text(encoding="utf-8")


def answer(html: str) -> list[str]:
    return re.findall(
        "<p>(.*?)</p>", html.partition('<div class="answer">')[2].partition("</div>")[0]
    )


def everything(folder: Path) -> dict[str, bytes]:
    written = [folder / "report.html", *(folder / "figures").iterdir()]
    return {path.name: path.read_bytes() for path in written}


def test_the_sections_stand_in_order(html: str) -> None:
    assert re.findall('<section id="(.*?)">', html) == SECTIONS
    assert "<title>sensitivity-made-up: ULRL study</title>" in html


def test_nothing_on_the_page_asks_for_anything_or_names_a_path(study: Path, html: str) -> None:
    assert str(study.parent) not in html
    harmless = html.replace("http://evil.test", "")  # shown as text, in an error
    harmless = harmless.replace('<link rel="icon" href="data:,">', "")  # else browsers ask for one
    for reference in (r"https?:", r"<[^>]+\ssrc\s*=", "@import", r"url\(", "<link", "<iframe"):
        assert not re.search(reference, harmless), reference
    assert set(re.findall(r'href="(.)', harmless)) == {"#"}


def test_what_files_say_is_shown_and_not_obeyed(html: str) -> None:
    assert html.count("<script>") == 1
    assert HOSTILE not in html
    assert (
        "boom &lt;/script&gt;&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt; "
        "&lt;img src=&#34;http://evil.test/x.png&#34;&gt; {{ 7*7 }}"
    ) in html


def test_every_figure_is_a_valid_svg_beside_its_numbers(study: Path) -> None:
    figures = list((study / "figures").glob("*.svg"))
    assert {path.with_suffix(".csv") for path in figures} == set(study.glob("figures/*.csv"))
    for path in figures:
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "style=" not in path.read_text(encoding="utf-8")


def test_a_second_time_writes_the_same_bytes(study: Path) -> None:
    first = everything(study)
    write_report(study)
    assert everything(study) == first


def test_figures_of_scenarios_that_are_gone_go_too(tmp_path: Path) -> None:
    write_report(write_study(tmp_path, make_rows()))
    own = tmp_path / "figures" / "my-own.svg"
    own.write_text("mine", encoding="utf-8")
    write_report(write_study(tmp_path, make_rows(attacks=(("badnets", {}),))))
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.svg")) == [
        "before-after",
        "flagged",
        "front",
        "importance",
        "marginals",
        "my-own",
        "selection-report",
        "surfaces-badnets-digits-preact_resnet18-width=16-seed-0",
        "variance",
    ]


def test_pruning_says_how_often_it_errs_and_what_it_counts_twice(tmp_path: Path) -> None:
    """Settings that share their relearnings are abandoned for one and the same result."""
    rows = make_rows(seeds=(0, 1, 2))
    for row in rows:
        if row["reinit_ratio"] == 0.25:
            unfinish(row, "pruned")
    write_study(tmp_path, rows)
    arguments = {"p_threshold": 0.05, "n_startup_steps": 5}
    with (tmp_path / "study.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump({"prune": {"setting": {"pruner": "wilcoxon", **arguments}}}))
    log = "level,setting,scenario,step,value,reference,p_value,pairs,worse,against\n"
    for setting in ("0.1", "0.2", "0.4"):
        log += (
            f"setting,unlearn_threshold={setting},s,5,0.5,0.9,0.03125,5,5,unlearn_threshold=0.3\n"
        )
    log += "setting,unlearn_threshold=0.5,s,6,0.4,0.9,0.03125,5,5,unlearn_threshold=0.3\n"
    log += "curve,unlearn_threshold=0.6,s,6,0.4,0.9,,5,5,\n"
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "pruning.csv").write_text(log, encoding="utf-8")
    html = write_report(tmp_path).read_text(encoding="utf-8")
    section = html.partition('<section id="pruned">')[2].partition("</section>")[0]
    families = [family for family in "abc" for _ in range(3)]
    assert f"of this size: {forecast(9, families, arguments)}. This suits" in section
    assert "unlikely to be the best of this grid" in section
    assert "<code>prune: none</code>" in section
    assert "<th>Nominal p</th>" in section
    assert "4 settings were abandoned for 2 different results:" in section


def test_further_axes_have_a_row_of_surfaces_each_up_to_twelve(tmp_path: Path) -> None:
    further: dict[str, list[Any]] = {
        "alpha": [0.1, 0.3, 0.5, 0.7, 1.0, 2.0, 4.0],
        "suspect_order": ["score", "index"],
    }
    html = page(tmp_path, make_rows(attacks=(("badnets", {}),), further=further))
    name = "surfaces-badnets-digits-preact_resnet18-width=16-seed-0"
    drawn = (tmp_path / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    assert drawn.count(">ACC, %<") == drawn.count(">DER<") == 12
    assert drawn.count(">alpha=0.3<") == 2 * 3
    assert (
        "Shown are the first 12 combinations of the other axes; "
        f"figures/{name}.csv has the other 2 too."
    ) in html
    lines = (tmp_path / "figures" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 14 * 9


def test_a_study_in_which_nothing_is_done_yet(tmp_path: Path) -> None:
    rows = make_rows()
    for row in rows:
        unfinish(row, "pending")
        if row["attack"] != "badnets":
            row |= {name: "" for name in row if "_before_" in name or name == "victim_ok"}
    assert answer(page(tmp_path, rows)) == [
        "No trial is done, so there is no answer yet.",
        "Of 27 trials 0 are done, 27 pending; of 3 victims 2 are missing.",
        "No victim that took has been repaired, so where ULRL fails is not known.",
    ]


def test_a_study_in_which_no_victim_took(tmp_path: Path) -> None:
    """It is the first sentence wherever people look, and no setting is named."""
    rows = make_rows(seeds=(0, 1))
    weaken(rows, lambda _: True)
    html = page(tmp_path, rows)
    first, *others = answer(html)
    assert first.startswith("All 6 victims are weak: ACC or ASR is below what the study demands")
    assert "no setting is best" in first
    assert "against a low ASR raise the poison ratio (poison_ratio)" in first
    nav = html.partition("</nav>")[0]
    assert ["#weak" in nav, "#pruned" in nav, "#failed" in nav] == [True, False, False]
    assert others == ["All 54 trials are done."]
    latex = (tmp_path / "table.tex").read_text(encoding="utf-8")
    notes = [line for line in latex.splitlines() if line.endswith(r"\par")]
    assert not any(line.lstrip().startswith("%") for line in latex.splitlines()[1:]), "printed"
    assert "All 6 victims are weak" in notes[0]
    assert sum("no victim took" in note for note in notes) == 3
    total = next(line for line in latex.splitlines() if line.startswith("All scenarios"))
    assert set(total.replace(r"\\", "").replace(" ", "").split("&")[1:]) == {"--"}
    assert "reinit\\_ratio=" not in latex
    assert "best mean" not in html
    whole, scenarios = conclusion(tmp_path)
    assert whole.best_setting == "none: no victim took"
    assert whole.text.startswith("All 6 victims are weak")
    assert whole.metrics == {}
    assert len(scenarios) == 6
    assert all(one.text.endswith("The victim did not take.") for one in scenarios.values())


def test_lost_accuracy_is_a_failure_too(tmp_path: Path) -> None:
    rows = make_rows(thresholds=(0.2,), ratios=(1.0,))
    for row, lost in zip(rows, (0.05, 0.125, 0.25), strict=True):
        row |= {"acc_before_report": 0.9, "acc_after_report": 0.9 - lost, "asr_after_report": 0}
        settle(row)
    assert answer(page(tmp_path, rows))[2] == (
        "Even with each scenario&#39;s own best setting, an upper bound, ULRL fails in places: ACC "
        "falls by more "
        "than 10 points for blended (1 of 1 scenario, by up to 12.5 points) and sig (1 of 1 "
        "scenario, by up to 25.0 points)."
    )


def test_odd_characters_do_no_harm(tmp_path: Path) -> None:
    odd = "$x_1$ <b>&amp; \x07 \U0001f984 ../../up"
    rows = make_rows(attacks=((odd, {"k": "\x1b[31m"}), (odd, {"k": 2})), datasets=("=1+1",))
    unfinish(rows[0], "failed", "\x1b[36m(worker)\x1b[0m died")
    html = page(tmp_path, rows)
    assert '<pre class="error">(worker) died</pre>' in html
    assert len(list((tmp_path / "figures").glob("surfaces-*.svg"))) == 1 + 2
    for path in (tmp_path / "figures").glob("*.svg"):
        ET.parse(path)


def test_only_results_are_needed(tmp_path: Path) -> None:
    write_study(tmp_path / "alone", make_rows())
    (tmp_path / "alone" / "study.yaml").unlink()
    (tmp_path / "alone" / "stages.csv").unlink()
    html = write_report(tmp_path / "alone").read_text(encoding="utf-8")
    assert "<title>alone: ULRL study</title>" in html
    assert "DER on the selection half of the test set (no study.yaml says otherwise)" in html
    assert "There is no stages.csv, or it lists nothing yet" in html


def test_a_line_torn_by_a_kill_is_no_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, make_rows())
    whole = write_report(tmp_path).read_bytes()
    with (tmp_path / "stages.csv").open("a", encoding="utf-8") as file:
        file.write("relearn,ab12")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/report.html\n"
    assert (tmp_path / "report.html").read_bytes() == whole


def test_the_command_loads_no_heavy_library() -> None:
    heavy = ("torch", "ray", "optuna", "mlflow", "orchestrator.study")
    program = f"import orchestrator.report, sys; print([m for m in {heavy} if m in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert told.stdout == "[]\n"


def test_importance_says_why_it_is_missing(tmp_path: Path) -> None:
    rows = make_rows(attacks=[("badnets", {}), ("sig", {})])
    for row in rows:
        for half in ("selection", "report"):
            reach(row, 0.75, half)
    assert "All settings have the same results, so no axis has a share" in page(tmp_path, rows)
    few = page(tmp_path, make_rows(thresholds=(0.2,)))
    assert "Importance needs two axes and four settings" in few


def test_a_limit_that_is_none_is_called_none(tmp_path: Path) -> None:
    rows = make_rows(further={"max_suspects": ["2", ""]}, thresholds=(0.1,), ratios=(1.0,))
    html = write_report(write_study(tmp_path, rows)).read_text(encoding="utf-8")
    assert re.search(r"max_suspects</dt>\s*<dd>2, none</dd>", html)
