"""Repaired models of methods other than ULRL, written for others."""

from pathlib import Path

import pytest
import torch

import orchestrator as o
from orchestrator.export import export_study
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.plan.plan import make_plan
from ulrl.interchange import load_exported
from ulrl.models import restore
from ulrl.poisoning import make_test_sets

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDY = """\
name: out
grid:
  attack: [badnets, none]
  dataset: {name: digits, size: 12}
  architecture: {name: small_cnn, width: 4}
  clean_ratio: 0.06
  unlearn_epochs: 4
  relearn_epochs: 2
  repair: [ulrl, {name: fine_tuning, epochs: 2}, {name: bnp, u: 1}]
victim: {epochs: 2, batch_size: 64, min_acc: 0, min_asr: 0}
mlflow: {log_models: all}
prune: none
store: store
"""


def test_each_trial_s_own_model_is_exported() -> None:
    Path("grid.yaml").write_text(STUDY)
    study = o.load_study("grid.yaml")
    frame = o.run_study(study, out="runs/out", inline=True).frame
    places = dict(export_study(Path("runs/out"), Path("models")))
    assert len(places) == len(frame) == 6
    plan, inputs = make_plan(study), StageInputs()
    for trial, (number, place) in zip(plan.rows, places.items(), strict=True):
        assert isinstance(place, Path), place
        network = restore(load_exported(place), torch.device("cpu"))
        images = inputs.images(trial.scenario.dataset)
        half = make_test_sets(trial.scenario.poison, images, trial.scenario.seed, {}).report
        answers = network.predict(half.clean)
        right = float((answers == half.clean_labels).float().mean())
        assert right == pytest.approx(frame.acc_after_report[number], abs=1e-6)
