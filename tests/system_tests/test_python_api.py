"""Studies from Python: in a notebook, in a thread, twice in a process."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from tests.system_tests.commands import ROOT, environment

SCRIPT = """\
import threading
import psutil
import orchestrator as o

def run(out):
    study = o.load_study("grid.yaml", set={"grid.seed": [0]})
    results.append(o.run_study(study, out=out))

results = []
thread = threading.Thread(target=run, args=["runs/first"])
thread.start()
thread.join()
run("runs/second")
first, second = (one.frame.drop(columns=["seconds", "mlflow_run_id"]) for one in results)
assert first.equals(second) and set(first.status) == {"done"}
assert all(one.complete for one in results)
assert psutil.Process().children(recursive=True) == []
assert threading.enumerate() == [threading.main_thread()]
"""
GRID = """\
name: small
store: {store}
grid:
  attack: badnets
  dataset: digits
  architecture: {{name: preact_resnet18, width: 2}}
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  relearn_epochs: 2
  unlearn_epochs: 2
victim: {{epochs: 2, batch_size: 64}}
prune: none
resources: {{workers: 1}}
mlflow: {{log_models: none}}
"""


def test_the_notebook_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    text = (ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    place = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=400, resources=place).execute()
    said = str(notebook.cells)
    assert "12 trials → 2 victims, 2 ascents, at most 12 relearns" in said
    frame = pd.read_csv(tmp_path / "runs" / "notebook" / "results.csv")
    assert set(frame.status) == {"done"}
    assert "<td>blended</td>" in said


def test_studies_run_in_a_thread_and_again_and_leave_nothing_behind(tmp_path: Path) -> None:
    """Each on a Ray of its own; the second computes nothing, so both rest on the same results."""
    (tmp_path / "grid.yaml").write_text(GRID.format(store="runs/store"))
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
