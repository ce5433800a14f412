"""`suspects`: the rows that phase 2 resets, named by the study. No defender knows them."""

import csv
import io
from html import unescape
from pathlib import Path

import pytest
from rich.console import Console

import orchestrator as o
from orchestrator.cli.summary import print_summary
from orchestrator.plan.labels import DAGGER_NOTE, setting_text
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.reporting.build import write_report
from orchestrator.reporting.read_folder import read_results
from orchestrator.spec.dump import resolved_yaml
from orchestrator.store.keys import result_key
from tests.orchestrator_tests.key_cases import all_keys, first_trial, ring
from tests.orchestrator_tests.report_folders import make_rows, reach, write_study
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.scoring import ScoreConfig

pytestmark = pytest.mark.usefixtures("empty_folder")

AXES = "  target_label: [0, 3]\n  suspects: [~, [3], target]\n"
# Of the same trial, before there were named suspects.
KEYS = {
    "victim": "fb25b9862fdd",
    "ascent": "bdf9e035e47c",
    "scores": "b556096aefa6",
    "relearn": "cee1ed241b97",
    "evaluated victim": "fbd9c81d57b1",
    "evaluated": "ae9bea5857d5",
}


def plan_of(axes: str = AXES) -> Plan:
    return make_plan(load(SMALL + axes))


def test_the_target_is_the_row_of_each_scenario() -> None:
    plan = plan_of()
    named = {
        (t.scenario.poison.target_label, str(t.setting.values["suspects"])): (
            t.hyperparameters.score.suspects
        )
        for t in plan.trials
    }
    given = {"None": None, "(3,)": (3,)}
    assert named == {
        (label, text): given.get(text, (label,))
        for label in (0, 3)
        for text in ("None", "(3,)", "target")
    }


def test_settings_with_named_suspects_are_marked() -> None:
    plan = plan_of()
    texts = [setting.text for setting in plan.settings]
    assert texts == ["suspects=none", "suspects=[3] †", "suspects=target †"]
    assert plan.methods == ("ulrl", "ulrl †")
    assert plan.settings_of_methods == {"ulrl": 1, "ulrl †": 2}
    assert [trial.is_oracle for trial in plan.trials] == [False, True, True] * 2
    assert [plan.point(trial)["named_suspects"] for trial in plan.trials[:3]] == [
        *(None, "[3]", "target")
    ]
    assert plan.varied() == ("named_suspects",)
    assert setting_text([("named_suspects", "[3]")]) == "named_suspects=[3] †"
    assert setting_text([("named_suspects", "none")]) == "named_suspects=none"


def test_other_methods_have_no_suspects() -> None:
    plan = plan_of(f"{AXES}  repair: [ulrl, clp]\n")
    assert plan.methods == ("ulrl", "ulrl †", "clp")
    assert plan.settings_of_methods == {"ulrl": 1, "ulrl †": 2, "clp": 1}


def test_a_flat_list_of_rows_is_one_setting() -> None:
    assert plan_of("  suspects: [2, 5]\n").settings[0].values["suspects"] == (2, 5)


def test_the_study_file_that_is_written_names_them() -> None:
    study = load(SMALL + AXES)
    assert load(resolved_yaml(study)).grid == study.grid


def test_an_axis_of_suspects_changes_no_key_that_there_was() -> None:
    trial = first_trial()
    assert {name: key[:12] for name, key in all_keys(ring(), trial).items()} == KEYS
    configs = (ScoreConfig(), ScoreConfig(suspects=(0,)), ScoreConfig(suspects=(1,)))
    assert len({result_key("score_neurons", 1, config, {}) for config in configs}) == len(configs)


def test_rows_that_are_named_are_the_ones_that_are_reset() -> None:
    small = SMALL.replace("preact_resnet18", "small_cnn")
    few = "  relearn_epochs: 2\n  unlearn_epochs: 2\nvictim: {epochs: 1}\n"
    Path("s.yaml").write_text(small + AXES + few)
    o.run_study(o.load_study("s.yaml"), inline=True)
    with Path("runs/s/results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {(row["target_label"], row["named_suspects"]): row["flagged"] for row in rows}
    assert {(place, flagged) for place, flagged in found.items() if place[1]} == {
        (("0", "[3]"), "[3]"),
        (("0", "target"), "[0]"),
        (("3", "[3]"), "[3]"),
        (("3", "target"), "[3]"),
    }
    of_3 = [row for row in rows if row["target_label"] == "3" and row["named_suspects"]]
    assert len({row["acc_after_report"] for row in of_3}) == 1  # one result for both


def test_named_suspects_are_marked_in_the_report_and_never_the_best(tmp_path: Path) -> None:
    rows = make_rows(thresholds=(0.2,), ratios=(1.0,), further={"named_suspects": ("", "target")})
    named = [row for row in rows if row["named_suspects"]]
    for row in named:
        for half in ("selection", "report"):
            reach(row, 0.999, half)
    write_study(tmp_path, rows)
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    answer = html.partition('<div class="answer">')[2].partition("</div>")[0]
    assert "†" not in unescape(answer)
    assert "named_suspects=target †" in html
    assert DAGGER_NOTE in html
    output = io.StringIO()
    print_summary(Console(file=output, width=200), tmp_path / "results.csv", "der")
    assert DAGGER_NOTE in output.getvalue()
    trials = read_results(tmp_path / "results.csv").trials
    assert sum(trial.is_oracle for trial in trials) == len(named)
