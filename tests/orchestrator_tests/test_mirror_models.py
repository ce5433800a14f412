"""Models and files as the mirror describes them, and as they are made from what it says."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import torch

from orchestrator.entries import weights_of
from orchestrator.materials import blueprint_of
from orchestrator.mirror import Mirror, artifacts_of, materialise
from orchestrator.pictures import Pictures
from tests.orchestrator_tests.places import Place
from tests.orchestrator_tests.simulation import Desk
from ulrl.models import restore


def describe(made: Place, tmp_path: Path) -> dict[str, Any]:
    """Return what a record would say of the first trial's repaired model."""
    desk = Desk(made.plan.study, tmp_path)
    mirror = Mirror(Mock(run_ids=dict), made.findings, made.store, Pictures(made.plan, tmp_path))
    mirror.attach(desk.conductor, desk.results)
    trial = made.plan.trials[0]
    scored = made.findings.scores(trial)
    assert scored is not None
    description = mirror._describe("repaired", scored.relearn_key, trial.scenario)
    assert description is not None
    return dict(json.loads(json.dumps(description)))


def test_a_described_model_predicts_what_the_stored_weights_do(made: Place, tmp_path: Path) -> None:
    description = describe(made, tmp_path)
    found = materialise(made.store, description)
    assert found is not None
    model, example = found
    assert example.shape == (1, 3, 8, 8)
    images = made.plan.scenarios[0].dataset.load()
    entry = made.store.read("repaired", description["key"])
    assert entry is not None
    weights = weights_of(entry, blueprint_of(made.plan.scenarios[0], images))
    classifier = restore(weights, torch.device("cpu"))
    classifier.network.eval()
    with torch.no_grad():
        ours = model(images.test_images[:50].float() / 255)
        theirs = classifier.logits(images.test_images[:50])
        assert model(torch.from_numpy(example)).shape == (1, 10)
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_a_model_whose_weights_are_gone_is_none(copy: Place, tmp_path: Path) -> None:
    description = describe(copy, tmp_path)
    copy.store.delete("repaired", description["key"])
    assert materialise(copy.store, description) is None


def test_artifacts_are_the_files_that_there_are(tmp_path: Path) -> None:
    assert artifacts_of(tmp_path) == ()
    for name in ("study.yaml", "results.csv", "report.html", "other.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "figures").mkdir()
    for name in ("b.svg", "a.csv"):
        (tmp_path / "figures" / name).write_text("")
    assert artifacts_of(tmp_path) == (
        (str(tmp_path / "report.html"), ""),
        (str(tmp_path / "results.csv"), ""),
        (str(tmp_path / "study.yaml"), ""),
        (str(tmp_path / "figures" / "a.csv"), "figures"),
        (str(tmp_path / "figures" / "b.svg"), "figures"),
    )
