"""What the run writes down for the report: curves of its stages, and how it was started."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.cli.logs import StartLog, describe_start
from orchestrator.reporting.read_folder import STARTS, read_starts
from orchestrator.scheduler.results_table import write_curves
from tests.orchestrator_tests.pruned_studies import study_of, with_status
from tests.orchestrator_tests.simulation import Desk, Workers


def test_a_start_says_what_it_ran_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["study", "my grid.yaml", "--set", "mlflow.uri=postgresql://me:secret@db/x"]
    monkeypatch.setattr(sys, "argv", words)
    log = StartLog(tmp_path, "cpu")
    assert not (tmp_path / STARTS).exists()  # nothing is computed yet
    log.executor = "inline"
    log.started(None)
    log.started(None)
    (start,) = read_starts(tmp_path / STARTS)
    assert start.command == (
        "python -m orchestrator.study 'my grid.yaml' --set 'mlflow.uri=postgresql://***@db/x'"
    )
    assert start.executor == "inline"
    assert start.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "ray", "optuna", "mlflow", "numpy"} <= set(start.versions)
    assert "GiB" in start.hardware
    assert dict(start.facts())["Executor"] == "inline, on cpu"


def test_a_torn_line_of_the_record_is_cut_off(tmp_path: Path) -> None:
    whole = json.dumps(describe_start("inline", "cpu"))
    (tmp_path / STARTS).write_text(f'{whole}\n{{"comm', encoding="utf-8")
    assert len(read_starts(tmp_path / STARTS)) == 1
    StartLog(tmp_path, "cpu").started(None)
    assert len(read_starts(tmp_path / STARTS)) == 2


def test_curves_are_those_of_the_stages(tmp_path: Path) -> None:
    desk = Desk(study_of("settings", f"memory://{tmp_path}"), tmp_path)
    Workers().run(desk)
    scheduler = desk.scheduler
    write_curves(scheduler, desk.results, desk.findings, tmp_path / "curves.csv")
    table = pd.read_csv(tmp_path / "curves.csv")
    done = with_status(desk, "done")
    assert len(done) < len(scheduler.plan.trials)
    relearned = table[table["phase"] == "relearn"]
    assert len(relearned) == len(done) > 0
    for (_, row), trial in zip(relearned.iterrows(), done, strict=True):
        assert row["attack"] == trial.scenario.columns["attack"]
        assert row["seed"] == trial.scenario.seed
        curve = scheduler.repairs[trial.number].curve
        expected = [round(asr, 6) for _, asr, _ in curve if asr is not None]
        assert json.loads(row["asr"]) == expected
    ascents = {scheduler.scores[t.number].runs[0].key: t for t in done}
    unlearned = table[table["phase"] == "unlearn"]
    assert len(unlearned) == len(ascents)
    stored = desk.findings.ascent(scheduler.scores[done[0].number])
    assert json.loads(unlearned.iloc[0]["accuracy"]) == [round(v, 6) for v in stored["accuracy"]]
