"""Models and files as the mirror describes them, and as they are made from what it says."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from orchestrator.address import Address
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.plan.plan import Plan
from orchestrator.spec.model import Tracking
from orchestrator.store.serialization import REPAIRED
from orchestrator.tracking.callback import artifacts_of
from orchestrator.tracking.models import describe, materialise
from tests.orchestrator_tests.places import Place
from ulrl.models import restore


def described(made: Place) -> dict[str, Any]:
    """Return what a record would say of the first trial's repaired model."""
    trial = made.plan.trials[0]
    scored = made.findings.scores(trial)
    assert scored is not None
    description = describe(REPAIRED, scored.relearn_key, trial.scenario)
    assert description is not None
    return dict(json.loads(json.dumps(description)))


def test_a_described_model_predicts_what_the_stored_weights_do(made: Place) -> None:
    description = described(made)
    found = materialise(made.store, description)
    assert found is not None
    model, example = found
    assert example.shape == (2, 3, 8, 8)
    images = made.plan.scenarios[0].dataset.load()
    found_weights = REPAIRED.read(made.store, description["key"])
    assert found_weights is not None
    weights = found_weights.content.of(model_spec_of(made.plan.scenarios[0], images))
    classifier = restore(weights, torch.device("cpu"))
    classifier.network.eval()
    with torch.no_grad():
        ours = model(images.test_images[:50].float() / 255)
        theirs = classifier.logits(images.test_images[:50])
        assert model(torch.from_numpy(example)).shape == (2, 10)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_model_whose_weights_are_gone_is_none(copy: Place) -> None:
    description = described(copy)
    copy.store.delete("repaired", description["key"])
    assert materialise(copy.store, description) is None


def test_artifacts_are_the_files_that_there_are(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    planned = (str(tmp_path / "logs/plan.json"), "logs")
    assert artifacts_of(tmp_path, plan) == (planned,)
    outline = json.loads((tmp_path / "logs/plan.json").read_text())
    assert (outline["trials"], outline["excluded"]) == (4, 0)
    assert outline["settings"] == [setting.text for setting in plan.settings]
    names = ("study.yaml", "results.csv", "report.html", "confusion.parquet", "other.txt")
    for name in (*names, "logs/starts.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "figures").mkdir()
    for name in ("b.svg", "a.csv"):
        (tmp_path / "figures" / name).write_text("")
    wanted = (
        (str(tmp_path / "report.html"), ""),
        (str(tmp_path / "results.csv"), ""),
        (str(tmp_path / "confusion.parquet"), ""),
        (str(tmp_path / "study.yaml"), ""),
        planned,
        (str(tmp_path / "logs/starts.jsonl"), "logs"),
        (str(tmp_path / "figures" / "a.csv"), "figures"),
        (str(tmp_path / "figures" / "b.svg"), "figures"),
    )
    assert artifacts_of(tmp_path, plan) == wanted
    uri = "postgresql://me:secret@host/mlflow"
    told = replace(plan, study=replace(plan.study, mlflow=Tracking(uri=Address(uri))))
    assert artifacts_of(tmp_path, told) == wanted  # study.yaml holds no secret
