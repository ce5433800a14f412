"""Attacks, repair methods, datasets and architectures in files of the user's."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.system_tests.commands import ROOT, Command, computed, same

STUDY = """\
name: small
plugins: [tint.py, lab.largest_row, stripes.py]
grid:
  attack: [{name: badnets, size: 2}, tint]
  dataset: [digits, stripes]
  architecture: [{name: preact_resnet18, width: 2}, two_layers]
  seed: [0, 1]
  clean_ratio: 0.05
  repair: [ulrl, largest_row]
  relearn_epochs: 4
  unlearn_epochs: 5
exclude:
  - {dataset: digits, architecture: two_layers}
  - {dataset: stripes, architecture: preact_resnet18}
victim: {epochs: 2, batch_size: 64, min_acc: 0.2, min_asr: 0.2}
prune: none
resources: {workers: 2}
"""


def started(folder: Path) -> Command:
    """Return a command in a folder with the study and its plugins."""
    (folder / "lab").mkdir(parents=True)
    for name in ("tint.py", "lab/largest_row.py", "stripes.py"):
        shutil.copy(ROOT / "tests/plugins" / Path(name).name, folder / name)
    command = Command(folder)
    command.write(STUDY)
    return command


def test_a_study_with_plugins_on_ray_killed_and_resumed(tmp_path: Path) -> None:
    with started(tmp_path / "whole") as whole, started(tmp_path / "killed") as killed:
        out, _ = whole.run("grid.yaml", "--inline")
        assert "16 trials → 4 helpers" in out, "one for each seed and dataset"
        assert "MLflow has no model" not in out
        results = whole.results()
        assert set(results.status) == {"done"}
        assert set(results.dataset) == {"digits", "stripes"}
        assert set(results.repair) == {"ulrl", "largest_row"}
        other = results[results.repair == "largest_row"]
        assert other[["flagged", "target_z", "stop_epoch"]].isna().all(axis=None)
        assert other.der_report.notna().all()
        stages = whole.stages().query("computed").stage.value_counts()
        assert stages["repair.find"] == 8
        assert stages["train_helper"] == 4

        process = killed.start("grid.yaml")
        killed.wait_for_stages(9)
        killed.wait_until(killed.workers, "a worker is at work")
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        killed.run("grid.yaml")
        same(killed.results(), results)
        assert set(computed(whole.stages())) == set(computed(killed.stages()))
        report = (killed.folder / "runs/small/report.html").read_text()
        assert "largest_row" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plugins": "[missing.py]"}, "missing.py cannot be read"),
        ({"grid.repair": "largest_rwo"}, "did you mean 'largest_row'?"),
        (
            {"grid.repair": "largest_row", "grid.unlearn_threshold": "[0.1, 0.2]"},
            "unlearn_threshold is an axis of ulrl",
        ),
    ],
)
def test_what_is_wrong_is_one_line(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with started(tmp_path / "wrong") as command:
        words = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        _, err = command.run("grid.yaml", "--plan", *words, code=2)
        (line,) = [one for one in err.splitlines() if message in one]
        assert line
        assert not (command.folder / "runs").exists()
