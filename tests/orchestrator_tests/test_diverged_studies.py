"""A trial whose network diverged failed: it is no metric, no evidence and no model."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from orchestrator import study
from orchestrator.address import Address
from orchestrator.spec.model import LogModels, Tracking
from orchestrator.store.store import Entry, Store
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from tests.orchestrator_tests.test_inline import run
from ulrl.recipes import VictimRecipe

GRID = """
name: nan
grid:
  attack: badnets
  dataset: {{name: digits, size: 8}}
  architecture: {{name: preact_resnet18, width: 4}}
  seed: 0
  target_label: {target}
  clean_ratio: 0.1
  unlearn_threshold: 0.3
  relearn_epochs: 2
  relearn_lr: [0.001, 100]
  batchnorm_updates: 0
objective: {objective}
victim: {{epochs: 2, batch_size: 64, min_acc: 0, min_asr: 0}}
prune: none
store: {store}
mlflow: {{uri: "sqlite:///{store}/m.db", log_models: none}}
"""
EXPLOSIVE: dict[str, tuple[Any, ...]] = {
    "clean_ratio": (0.05,),
    "unlearn_epochs": (20,),
    "unlearn_lr": (100.0,),
    "unlearn_clip_norm": (1e30,),
    "unlearn_batch_size": (1000,),
    "relearn_epochs": (1,),
    "max_suspects": (0, 2),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize(("target", "objective"), [(0, "der"), (3, "asr"), (0, "acc"), (3, "ra")])
def test_the_sound_setting_is_the_best_whatever_is_sought(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], target: int, objective: str
) -> None:
    """All-NaN outputs would be class 0: ASR 1 for target 0, and ASR 0 for any other."""
    grid = tmp_path / "grid.yaml"
    grid.write_text(GRID.format(target=target, objective=objective, store=place))
    assert study.main([str(grid), "--inline", "--out", str(tmp_path / "out")]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"best setting by mean \w+ on the selection half: [^;]*relearn_lr=0.001", said)
    assert "failed: trial-00001: relearning diverged in epoch" in said
    with (tmp_path / "out/results.csv").open(newline="") as file:
        sound, failed = csv.DictReader(file)
    assert (sound["status"], sound["error"]) == ("done", "")
    assert failed["status"] == "failed"
    assert re.fullmatch(
        r"relearning diverged in epoch [12] \(.*\); a smaller relearn_lr .* may help",
        failed["error"],
    )
    assert not any(failed[name] for name in failed if "_after_" in name or "der_" in name)


def statuses(desk: Desk) -> list[str]:
    return [row["status"] for row in desk.rows()]


def errors(desk: Desk) -> set[str]:
    return {row["error"] or "" for row in desk.rows()}


def test_an_ascent_that_diverges_fails_the_thresholds_it_did_not_reach(tmp_path: Path) -> None:
    """Plain fine-tuning (`max_suspects` 0) has the scores' key in common with no suspects."""
    settings = {"unlearn_threshold": (0.001, 1.0)}
    made = small_study(
        store=str(tmp_path / "store"), attacks=[choice(BADNETS)], settings=settings, few=EXPLOSIVE
    )
    desk = run(made, tmp_path / "out")
    by_threshold = {(row["unlearn_threshold"], row["status"]) for row in desk.rows()}
    assert by_threshold == {(0.001, "failed"), (1.0, "done")}
    failed = [row["error"] for row in desk.rows() if row["status"] == "failed"]
    assert len(failed) == 2
    assert all(text.startswith("unlearning diverged in epoch ") for text in failed)
    assert not any(row["plain_fine_tuning"] for row in desk.rows() if row["status"] == "failed")

    again = run(made, tmp_path / "out")  # tried again, once: from the stored scores
    assert statuses(again) == statuses(desk)
    assert errors(again) == errors(desk)
    assert executed(again) == []


def executed(desk: Desk) -> list[str]:
    return [run.stage for _, result in desk.recorder.ended_items for run in result.runs]


def test_a_victim_that_diverges_fails_its_scenarios_trials(tmp_path: Path) -> None:
    made = small_study(
        store=str(tmp_path / "store"),
        attacks=[choice(BADNETS)],
        settings={"alpha": (0.5, 0.7)},
        victim=VictimRecipe.of(epochs=3, batch_size=64, lr=100.0),
    )
    desk = run(made, tmp_path / "out")
    assert statuses(desk) == ["failed", "failed"]
    (text,) = errors(desk)
    assert text.startswith("victim: ")
    assert "diverged" in text or "not finite" in text
    assert Store(made.store).names("train_victim", "") == []


# What earlier versions stored.


def spoil(store: Store, stage: str) -> int:
    """Make NaN of all that a stage's entries hold, and return how many there are."""
    paths = sorted((Path(store.url.reveal()) / stage).rglob("*.safetensors"))
    for path in paths:
        entry = store.read(stage, path.stem)
        assert entry is not None
        store.write(stage, path.stem, Entry(values=entry.values, tensors=nans(entry.tensors)))
    return len(paths)


def nans(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: torch.full_like(value, torch.nan) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


@pytest.mark.parametrize("stage", ["train_victim", "repaired"])
def test_a_stored_network_that_diverged_counts_as_absent(tmp_path: Path, stage: str) -> None:
    made = small_study(
        store=str(tmp_path / "store"),
        attacks=[choice(BADNETS)],
        settings={"alpha": (0.5, 0.7)},
        mlflow=Tracking(uri=Address("sqlite:///nowhere.db"), log_models=LogModels.ALL),
    )
    desk = run(made, tmp_path / "out")
    assert statuses(desk) == ["done", "done"]
    store = Store(made.store)
    assert spoil(store, stage)
    for path in sorted((tmp_path / "store/evaluate").rglob("*.safetensors")):
        path.unlink()
    again = run(made, tmp_path / "out2")
    made_again = {"train_victim": "train_victim", "repaired": "relearn"}[stage]
    assert made_again in executed(again)
    assert [drop(row) for row in again.rows()] == [drop(row) for row in desk.rows()]
    for path in (tmp_path / "store" / stage).rglob("*.safetensors"):
        entry = store.read(stage, path.stem)
        assert entry is not None
        assert all(bool(value.isfinite().all()) for value in entry.tensors.values())


def drop(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}
