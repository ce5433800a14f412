"""What the report refuses of edited and damaged folders: contradictions, bad side files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.report import main
from tests.orchestrator_tests.report_folders import Row, make_rows, unfinish, write_study

CURVES = "phase,attack,attack_options,dataset,architecture,poison_ratio,target_label,seed,"
CURVES += "defence_seed,clean_ratio,unlearn_threshold,reinit_ratio,accuracy,acc,asr,ra\n"
POINT = "badnets,{},digits,resnet,0.1,0,0,0,0.05,0.1,0.5,"


def rows() -> list[Row]:
    return make_rows(attacks=(("badnets", {}),))


def test_a_der_that_is_not_that_of_its_row(tmp_path: Path, refusal: Callable[[], str]) -> None:
    trials = rows()
    for row in trials:
        row |= {"acc_before_report": 0.9, "asr_before_report": 1.0}
        row |= {"acc_after_report": 0.9, "asr_after_report": 0.0, "der_report": 1.0}
    trials[3]["acc_after_report"] = 0.5  # somebody thought it too good to be true
    write_study(tmp_path, trials)
    assert refusal() == (
        "DIR/results.csv: row 5, der_report: ACC and ASR of the row give 0.8000; got '1.0'"
    )


def test_a_rir_that_is_not_that_of_its_row(tmp_path: Path, refusal: Callable[[], str]) -> None:
    trials = rows()
    for row in trials:
        row |= {"acc_before_report": 0.9, "acc_after_report": 0.9, "ra_before_report": 0.1}
        row["der_report"] = (max(0, row["asr_before_report"] - row["asr_after_report"]) + 1) / 2
        row |= {"ra_after_report": 0.5, "rir_report": 0.7}
    trials[3]["ra_after_report"] = 0.3
    write_study(tmp_path, trials)
    assert refusal() == (
        "DIR/results.csv: row 5, rir_report: ACC and RA of the row give 0.6000; got '0.7'"
    )


def test_a_pruned_trial_that_has_results(tmp_path: Path, refusal: Callable[[], str]) -> None:
    trials = rows()
    unfinish(trials[2], "pruned")
    trials[2]["acc_after_report"] = 0.5
    write_study(tmp_path, trials)
    assert refusal() == (
        "DIR/results.csv: row 4, acc_after_report: a pruned trial has nothing here; got '0.5'"
    )


def test_a_victim_has_the_same_metrics_in_every_row(
    tmp_path: Path, refusal: Callable[[], str]
) -> None:
    trials = rows()
    unfinish(trials[5], "pruned")
    trials[5]["asr_before_report"] = 0.25
    write_study(tmp_path, trials)
    first = trials[0]["asr_before_report"]
    assert refusal() == (
        f"DIR/results.csv: row 7, asr_before_report: 0.25 here and {first} in row 2, for the "
        f"same victim"
    )


@pytest.mark.parametrize("exclude", ["exclude: []", "exclude: [{attack: sig}]"])
def test_a_row_that_somebody_took_out(
    tmp_path: Path, refusal: Callable[[], str], exclude: str
) -> None:
    trials = make_rows(attacks=(("badnets", {}), ("blended", {})))
    del trials[13:15]
    write_study(tmp_path, trials)
    (tmp_path / "study.yaml").write_text(f"name: x\n{exclude}\n", encoding="utf-8")
    if exclude != "exclude: []":  # then it may be right
        assert main([str(tmp_path)]) == 0
        return
    assert refusal() == (
        "DIR/results.csv: has no row of blended · digits · preact_resnet18(width=16) · seed 0 "
        "with unlearn_threshold=0.2, reinit_ratio=0.5 (and 1 more like this), though study.yaml "
        "excludes nothing; the study's own command writes the table anew"
    )


def test_a_scenario_that_somebody_took_out(tmp_path: Path, refusal: Callable[[], str]) -> None:
    trials = make_rows(attacks=(("badnets", {}), ("blended", {})), seeds=(0, 1))
    write_study(tmp_path, trials[:-9])
    (tmp_path / "study.yaml").write_text("name: x\nexclude: []\n", encoding="utf-8")
    assert refusal() == (
        "DIR/results.csv: has no row of blended · digits · preact_resnet18(width=16) · seed 1, "
        "though study.yaml excludes nothing; the study's own command writes the table anew"
    )


def test_a_table_that_was_saved_with_three_digits_is_fine(tmp_path: Path) -> None:
    trials = rows()
    for row in trials:
        row |= {name: round(v, 3) for name, v in row.items() if isinstance(v, float)}
    write_study(tmp_path, trials)
    assert main([str(tmp_path)]) == 0


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("curves.csv", "phase,attack\n", f"lacks the columns {CURVES[13:-1].replace(',', ', ')}"),
        (
            "curves.csv",
            f"{CURVES}forget,{POINT}[],[],[],[]\n",
            "row 2, phase: must be unlearn or relearn; got 'forget'",
        ),
        (
            "curves.csv",
            f'{CURVES}relearn,{POINT}[],"[0.5, 93]",[],[]\n',
            "row 2, acc: must be a JSON list of fractions in [0, 1]; got '[0.5, 93]'",
        ),
        ("logs/starts.jsonl", "{}\n", "line 1 is no record of a start"),
        ("logs/starts.jsonl", '{"command": 1}\n', "line 1 is no record of a start"),
        ("study.yaml", "- a\n", "is no study file; it holds no mapping"),
        (
            "study.yaml",
            "objective: speed\n",
            "objective: must be one of der, asr, acc, ra; got 'speed'",
        ),
        (
            "study.yaml",
            "prune: {setting: {pruner: wilcoxon, p_threshold: tiny, n_startup_steps: 7}}\n",
            "prune.setting.p_threshold: must be a number; got 'tiny'",
        ),
        ("stages.csv", "stage,key\n", "lacks the columns scenario, seconds, computed"),
        (
            "stages.csv",
            "stage,key,scenario,seconds,computed\nrelearn,1,x,soon,True\n",
            "row 2, seconds: must be a number; got 'soon'",
        ),
        (
            "logs/pruning.csv",
            "level,setting\n",
            "lacks the columns scenario, step, value, reference, p_value, pairs",
        ),
    ],
)
def test_other_files_that_are_not_what_they_should_be(
    tmp_path: Path, refusal: Callable[[], str], file: str, content: str, message: str
) -> None:
    write_study(tmp_path, rows())
    (tmp_path / "logs").mkdir()
    (tmp_path / file).write_text(content, encoding="utf-8")
    assert refusal() == f"DIR/{file}: {message}"


def test_yaml_that_cannot_be_read(tmp_path: Path, refusal: Callable[[], str]) -> None:
    write_study(tmp_path, rows())
    (tmp_path / "study.yaml").write_text("name: [", encoding="utf-8")
    assert refusal().startswith("DIR/study.yaml: cannot be read as YAML; while parsing a flow")
