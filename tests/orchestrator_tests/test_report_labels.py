"""`labels:` of a study file: what the report calls things, and nothing else does."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from orchestrator.plan.plan import make_plan
from orchestrator.reporting.build import conclusion, write_report
from orchestrator.spec.dump import resolved_yaml
from tests.orchestrator_tests.report_folders import make_rows, write_curves, write_study
from tests.orchestrator_tests.spec_files import SMALL, load

LABELS = {
    "badnets": "BadNets",
    "blended": "Blended",
    "preact_resnet18": "PreAct-ResNet18",
    "digits": "Digits",
    "unlearn_threshold": r"$\tau$",
    "suspect_order": "order of suspects",
    "score": "by score",
}
RAW = ("badnets", "blended", "preact_resnet18", "digits", "unlearn_threshold", "suspect_order")


def labelled(folder: Path) -> Path:
    rows = make_rows(
        attacks=(("badnets", {}), ("blended", {"alpha": 0.1}), ("blended", {"alpha": 0.2})),
        seeds=(0, 1),
        further={"suspect_order": ["score", "index"]},
    )
    write_study(folder, rows)
    write_curves(folder, rows)
    with (folder / "study.yaml").open("a", encoding="utf-8") as file:
        file.write(yaml.safe_dump({"labels": LABELS}))
    return folder


def test_the_report_and_its_tables_and_figures_show_labels(tmp_path: Path) -> None:
    before = (labelled(tmp_path) / "results.csv").read_bytes()
    html = write_report(tmp_path).read_text(encoding="utf-8")
    tex, md = ((tmp_path / f"table.{end}").read_text(encoding="utf-8") for end in ("tex", "md"))
    figures = {
        path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "figures").glob("*.svg")
    }
    for name, text in {"report.html": html, "table.tex": tex, "table.md": md, **figures}.items():
        plain = text.replace(r"\_\allowbreak{}", "_").replace(r"\_", "_")
        plain = (
            plain.partition("<main>")[2].replace("#figure-", "") if name[-4:] == "html" else plain
        )
        for raw in RAW:
            shown = [line for line in plain.splitlines() if f">{raw}" in line or f"{raw}=" in line]
            assert not shown, (name, shown[0][:200])
    assert "τ=0.2, " in html
    assert "Blended(alpha=0.1)" in html
    assert "order of suspects=by score" in html
    assert "PreAct-ResNet18(width=16)" in tex
    assert r"$\tau$" in tex
    assert "| Blended(alpha=0.2) · Digits · PreAct-ResNet18(width=16) |" in md
    assert "| τ, reinit_ratio, order of suspects |" in md
    assert ">BadNets<" in figures["before-after.svg"]
    assert ">τ<" in figures["importance.svg"]
    assert (tmp_path / "results.csv").read_bytes() == before


def test_labels_change_no_look_no_number_no_file_name_and_no_tag(tmp_path: Path) -> None:
    one = labelled(tmp_path / "one")
    two = labelled(tmp_path / "two")
    study = yaml.safe_load((two / "study.yaml").read_text(encoding="utf-8"))
    (two / "study.yaml").write_text(yaml.safe_dump(study | {"labels": {}}), encoding="utf-8")
    for folder in (one, two):
        write_report(folder)
    files = [sorted(path.name for path in (f / "figures").iterdir()) for f in (one, two)]
    assert files[0] == files[1]
    for name in files[0]:
        if name.endswith(".csv"):
            first, second = (pd.read_csv(folder / "figures" / name) for folder in (one, two))
            pd.testing.assert_frame_equal(first, second)
    colours = [
        [part.partition('"')[0] for part in path.read_text(encoding="utf-8").split('fill="#')[1:]]
        for path in (one / "figures" / "front.svg", two / "figures" / "front.svg")
    ]
    assert colours[0] == colours[1]
    assert conclusion(one) == conclusion(two)
    assert "unlearn_threshold" in conclusion(one)[0].text


@pytest.mark.usefixtures("empty_folder")
def test_labels_of_a_study_file() -> None:
    text = SMALL + "  score: relative\n"
    labels = {"badnets": "BadNets", "score": r"$\sigma$", "relative": "rel.", "sig": "SIG"}
    study = load(text + yaml.safe_dump({"labels": labels}))
    assert study.labels == labels
    assert load(resolved_yaml(study)).labels == labels
    assert load(text).labels == {}
    assert make_plan(load(text)).trials == make_plan(study).trials, "of which keys are made"
