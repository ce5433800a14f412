"""Models that leave a study and victims that enter one, by the commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.system_tests.commands import Command, environment
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.datasets.digits import Digits
from ulrl.interchange import load_exported
from ulrl.metrics import measure
from ulrl.models import restore
from ulrl.poison import Poison
from ulrl.poisoning import make_test_sets

STUDY = """\
name: small
grid:
  attack: badnets
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  preset: [default, official, fine_tuning]
  clean_ratio: 0.1
  relearn_epochs: 2
victim: {epochs: 2, batch_size: 64, min_acc: 0.2, min_asr: 0.2}
prune: none
mlflow: {log_models: all}
"""


def export(folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.export", *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.mark.usefixtures("tables")
def test_an_exported_model_is_the_one_that_was_measured(command: Command) -> None:
    command.write(STUDY)
    command.run("grid.yaml", "--inline")
    results = command.results()
    assert list(results.preset) == ["default", "official", "fine_tuning"]
    assert list(results.plain_fine_tuning[2:]) == [True]
    out, _ = export(command.folder, "runs/small", "models")
    assert out.splitlines() == [f"trial {n}: models/trial-0000{n}" for n in range(3)]

    attack = Poison(attack=BadNets(), labels=LabelRule.ALL_TO_ONE)
    tests = make_test_sets(attack, Digits(size=8).load(), seed=0)
    for number, row in results.iterrows():
        weights = load_exported(command.folder / f"models/trial-{number:05d}")
        found = measure(restore(weights, torch.device("cpu")).predict, tests.report)
        expected = (row.acc_after_report, row.asr_after_report, row.ra_after_report)
        assert (found.acc, found.asr, found.ra) == pytest.approx(expected, abs=1e-12)
    card = (command.folder / "models/trial-00001/README.md").read_text()
    assert "| preset | official |" in card
    assert f"| acc_after_report | {results.acc_after_report[1]:.2%}".replace("%", " %") in card

    _, err = export(command.folder, "runs/small", "models", "--trial", "3", code=2)
    assert "trials are 0 to 2; got 3" in err
    shutil.rmtree(command.folder / "runs/store/repaired")
    out, err = export(command.folder, "runs/small", "models")
    assert err == ""
    assert out.startswith("no 3 models, of trials 0, 1, 2: not in the store, which keeps")
    out, err = export(command.folder, "runs/small", "models", "--trial", "1", code=2)
    assert out == ""
    assert err.startswith("no model of trial 1: not in the store")
    assert len(err.splitlines()) == 1
    _, err = export(command.folder, "runs", "models", code=2)
    assert "runs: no study folder; it has no study.yaml" in err


def test_a_victim_that_is_not_there_is_refused_and_nothing_is_written(command: Command) -> None:
    command.write(STUDY.replace("victim: {epochs: 2, batch_size: 64,", "victim: {import: zoo,"))
    out, _ = command.run("grid.yaml", "--plan")
    assert "1 scenario × 3 settings = 3 trials" in out
    _, err = command.run("grid.yaml", code=2)
    (line,) = err.splitlines()
    assert line.startswith("grid.yaml: victim.import: ")
    assert "zoo is no folder" in line
    assert [path.name for path in command.folder.iterdir()] == ["grid.yaml"]
