"""Files of a study folder that the report refuses: one line, exit code 2, nothing written."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from orchestrator.report import main
from orchestrator.reporting.read_folder import read_results
from tests.orchestrator_tests.report_folders import Row, make_rows, unfinish, write_csv, write_study

CURVES = "phase,attack,attack_options,dataset,architecture,poison_ratio,target_label,seed,"
CURVES += "defence_seed,clean_ratio,unlearn_threshold,reinit_ratio,accuracy,acc,asr,ra\n"
POINT = "badnets,{},digits,resnet,0.1,0,0,0,0.05,0.1,0.5,"


def rows() -> list[Row]:
    return make_rows(attacks=(("badnets", {}),))


def test_a_place_that_is_no_study_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "results.csv"
    for path, reason in ((tmp_path / "gone", "it is not there"), (file, "it is no folder")):
        file.touch()
        assert main([str(path)]) == 2
        assert capsys.readouterr().err == f"{path}: no study folder; {reason}\n"


def test_no_traceback_reaches_the_terminal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "orchestrator.report", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == f"{tmp_path}: no study folder; it has no results.csv\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\n\n", "is empty; a header was expected"),
        (b"attack,\xff\xfe\n", "cannot be read; it is not UTF-8 text"),
        (b'attack,"status\nbadnets', "cannot be read as CSV; unexpected end of data"),
        (b"attack,seed,attack\n", "has the column 'attack' twice"),
    ],
)
def test_results_that_are_no_table(
    tmp_path: Path, refusal: Callable[[], str], content: bytes, message: str
) -> None:
    (tmp_path / "results.csv").write_bytes(content)
    assert refusal() == f"DIR/results.csv: {message}"


def test_results_without_a_row_or_with_half_of_one(
    tmp_path: Path, refusal: Callable[[], str]
) -> None:
    write_study(tmp_path, rows())
    path = tmp_path / "results.csv"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.rsplit(",", 9)[0] + "\n", encoding="utf-8")
    assert refusal() == "DIR/results.csv: row 10 has 25 cells; the header has 34"
    path.write_text(text.splitlines()[0] + "\n", encoding="utf-8")
    assert refusal() == "DIR/results.csv: has no trials; there is only a header"


def test_missing_columns_are_all_named(tmp_path: Path, refusal: Callable[[], str]) -> None:
    columns = [name for name in rows()[0] if name not in ("status", "flagged")]
    write_csv(tmp_path / "results.csv", [{name: row[name] for name in columns} for row in rows()])
    assert refusal() == "DIR/results.csv: lacks the columns status, flagged"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"acc_after_report": ""}, "acc_after_report: must be a fraction in [0, 1]; got ''"),
        ({"der_selection": "nan"}, "der_selection: must be a fraction in [0, 1]; got 'nan'"),
        ({"victim_ok": ""}, "victim_ok: must be True or False; got ''"),
        ({"flagged": "[true]"}, "flagged: must be a JSON list of rows; got '[true]'"),
        ({"seconds": ""}, "seconds: must be a number; got ''"),
        (
            {"status": "over"},
            "status: must be one of done, pruned, skipped, failed, pending; got 'over'",
        ),
        ({"attack": ""}, "attack: must be a value; got ''"),
        ({"attack_options": "alpha"}, "attack_options: must be a JSON object; got 'alpha'"),
        ({"seed": "1.5"}, "seed: must be a whole number; got '1.5'"),
        ({"wrecked": "perhaps"}, "wrecked: must be True or False; got 'perhaps'"),
    ],
)
def test_bad_values_are_placed(
    tmp_path: Path, refusal: Callable[[], str], change: Mapping[str, object], message: str
) -> None:
    trials = [row | {"wrecked": False} for row in rows()]
    trials[3] |= change
    write_study(tmp_path, trials)
    assert refusal() == f"DIR/results.csv: row 5, {message}"


def test_a_victim_of_a_pruned_trial_needs_its_metrics(
    tmp_path: Path, refusal: Callable[[], str]
) -> None:
    trials = rows()
    for trial in trials[:3]:
        unfinish(trial, "pruned")
        trial["ra_before_selection"] = ""
    write_study(tmp_path, trials)
    fault = "row 2, ra_before_selection: must be a fraction in [0, 1]; got ''"
    assert refusal() == f"DIR/results.csv: {fault} (and 2 more like this)"


def test_an_empty_value_of_a_further_axis_is_none(tmp_path: Path) -> None:
    """`max_suspects: [2, null]` writes such cells."""
    trials = make_rows(attacks=(("badnets", {}),), further={"max_suspects": ["2", ""]})
    results = read_results(write_study(tmp_path, trials) / "results.csv")
    settings = [dict(trial.setting)["max_suspects"] for trial in results.trials]
    assert settings == ["2", "none"] * 9


def test_the_same_trial_twice(tmp_path: Path, refusal: Callable[[], str]) -> None:
    trials = rows()
    write_study(tmp_path, [*trials, trials[2]])
    assert refusal() == "DIR/results.csv: row 11 is the same trial as row 4"


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
        ("logs/starts.jsonl", '{"command": 1}\n', "line 1 is no record of a start"),
        ("study.yaml", "- a\n", "is no study file; it holds no mapping"),
        ("study.yaml", "objective: x\n", "objective: must be one of der, asr, acc, ra; got 'x'"),
        (
            "study.yaml",
            "prune: {setting: {pruner: wilcoxon, p_threshold: tiny, n_startup_steps: 7}}\n",
            "prune.setting.p_threshold: must be a number; got 'tiny'",
        ),
        (
            "stages.csv",
            "stage,key,scenario,seconds,computed\nrelearn,1,x,soon,True\n",
            "row 2, seconds: must be a number; got 'soon'",
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
