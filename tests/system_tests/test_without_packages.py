"""A study on a machine that has neither Ray nor MLflow."""

import json
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.processes import installed
from orchestrator.study import main
from tests.system_tests.commands import ROOT, TINY, Command

# Every process of the command runs this first. What is asked for is noted: some libraries try.
BLOCKER = """\
import os, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "mlflow"):
            with open(os.environ["ASKED_FOR"], "a") as file:
                file.write(name + "\\n")
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
STUDY = TINY.replace("relearn_epochs: [1, 2, 3]", "relearn_epochs: 1\n  repair: [ulrl, clp]")


@pytest.fixture
def blocked(tmp_path: Path) -> dict[str, str]:
    """Return variables with which neither package can be imported."""
    (tmp_path / "blocker").mkdir()
    (tmp_path / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    return {
        "PYTHONPATH": f"{tmp_path / 'blocker'}:{ROOT}",
        "ASKED_FOR": str(tmp_path / "asked_for"),
    }


def rows(command: Command) -> pd.DataFrame:
    return pd.read_csv(command.folder / "runs" / "small" / "results.csv")


def test_a_study_without_either(tmp_path: Path, blocked: dict[str, str]) -> None:
    with Command(tmp_path, **blocked) as command:
        command.write(STUDY)
        out, err = command.run("grid.yaml", "--inline", "--set", "mlflow=none")
        assert err == ""
        assert "MLflow   none, as mlflow: none asks" in out
        assert "mlflow ui" not in out
        assert not Path(blocked["ASKED_FOR"]).exists(), "neither is even looked for"
        folder = tmp_path / "runs" / "small"
        for name in ("results.parquet", "table.md", "table.tex", "league.md", "league.tex"):
            assert (folder / name).stat().st_size > 0
        assert "MLflow has no record of it" in (folder / "report.html").read_text()
        (start,) = (folder / "logs" / "starts.jsonl").read_text().splitlines()
        assert json.loads(start)["executor"] == "inline"
        without = rows(command)
    assert list(without["status"]) == ["done", "done"]
    assert without["mlflow_run_id"].isna().all()

    with Command(tmp_path) as command:  # the same study where both are there
        command.run("grid.yaml", "--inline")
        assert "MLflow has no record" not in (folder / "report.html").read_text()
        tracked = rows(command)
    assert tracked["mlflow_run_id"].notna().all()
    pd.testing.assert_frame_equal(
        tracked.drop(columns="mlflow_run_id"), without.drop(columns="mlflow_run_id")
    )


RAY = (
    "command line: Ray is not installed; install it (pip install 'ray[tune]'), or give --inline to "
    "run in one process"
)
MLFLOW = (
    "grid.yaml: mlflow: MLflow is not installed; install it (pip install mlflow), or write "
    "mlflow: none (--set mlflow=none) for a study without it"
)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [([], [RAY, MLFLOW]), (["--inline"], [MLFLOW]), (["--set", "mlflow=none"], [RAY])],
)
def test_what_is_missing_is_said_before_anything_is_written(
    arguments: list[str],
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("orchestrator.cli.run.installed", lambda _: False)
    Path("grid.yaml").write_text(STUDY)
    assert main(["grid.yaml", *arguments]) == 2
    assert capsys.readouterr() == ("", "\n".join([*lines, ""]))
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_a_folder_without_code_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As this checkout's mlflow/, where MLflow itself is not installed."""
    (tmp_path / "only_files").mkdir()
    (tmp_path / "with_code").mkdir()
    (tmp_path / "with_code" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not installed("only_files")
    assert installed("with_code")
    assert not installed("not_there_at_all")
