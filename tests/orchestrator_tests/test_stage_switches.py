"""The stage runner where a study watches all layers and counts thresholds from chance."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.pipeline.ulrl_chain import rules_of
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.scheduler.callbacks import CallbackList
from orchestrator.scheduler.results_table import ResultRows, columns_of
from orchestrator.scheduler.scheduler import StudyScheduler
from orchestrator.store.schema import pack
from orchestrator.store.study_folder import StudyFolder
from tests.orchestrator_tests.places import VICTIM, Place
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from ulrl.clean import draw_clean_samples
from ulrl.hyperparameters import Preset
from ulrl.layers import Layers
from ulrl.models import Weights
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.relearning import relearn
from ulrl.scoring import ThresholdScale, score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import select_weights

CPU = torch.device("cpu")
AXES: dict[str, tuple[Any, ...]] = {
    "preset": (Preset.DEFAULT, Preset.FINE_TUNING),
    "layers": tuple(Layers),
    "threshold_scale": tuple(ThresholdScale),
    "unlearn_threshold": (0.3,),  # 0.3, and 0.1 + 0.3 × 0.9 = 0.37
    "z_threshold": (0.5,),
    "clean_ratio": (0.05,),
    "relearn_epochs": (1,),
    "unlearn_epochs": (6,),
    "unlearn_lr": (0.05,),
}


@pytest.fixture(scope="module")
def switched() -> Plan:
    grid = {"architectures": (PreActResNet18(width=2),)}
    attacks = [choice(BADNETS)]
    return make_plan(small_study(attacks=attacks, settings=AXES, grid=grid, few={}, victim=VICTIM))


@pytest.fixture(scope="module")
def place(switched: Plan, made: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(switched, tmp_path_factory.mktemp("switched"))
    place.take(made, "train_victim")
    stages = place.do_all()
    # One ascent for the head and one for all layers, each to the lower of both thresholds.
    assert stages.count("unlearn") == 2
    assert stages.count("score_neurons") == 8
    return place


def test_rules_of_both_scales_share_an_ascent(switched: Plan) -> None:
    groups = JobCatalog(switched).groups
    assert [len(group.trials) for group in groups] == [4, 4]
    for group in groups:
        stops = [rule.stop_at(10) for rule in rules_of(group.job)]
        assert stops == pytest.approx([0.3, 0.37, 0.3, 0.37])


def test_every_trial_is_what_its_stages_give_alone(switched: Plan, place: Place) -> None:
    scenario = switched.scenarios[0]
    images = scenario.dataset.load()
    entry = place.store.read("train_victim", place.keys.victim(scenario))
    assert entry is not None
    victim = Weights(model_spec=model_spec_of(scenario, images), state=dict(entry.tensors))
    flagged = 0
    for trial in switched.trials:
        parts = trial.hyperparameters
        clean = draw_clean_samples(parts.clean, images, trial.defence_seed)
        *_, ascent = unlearn(parts.unlearn, victim, clean, parts.score.stop_at(10), CPU)
        wanted = score_neurons(parts.score, ascent)
        scored = place.findings.scores(trial)
        assert scored is not None
        (values, tensors), (theirs, their_tensors) = pack(scored.scores), pack(wanted)
        assert values == theirs
        assert all(torch.equal(tensor, their_tensors[name]) for name, tensor in tensors.items())
        run = relearn(parts.relearn, victim, select_weights(parts.reset, wanted), clean, CPU)
        assert len(list(run.epochs)) == 1
        weights = place.store.read("repaired", scored.relearn_key)
        assert weights is not None
        state = run.classifier.weights().state
        assert all(torch.equal(value, weights.tensors[name]) for name, value in state.items())
        flagged += len(wanted.suspects)
    assert flagged > 2


def test_fine_tuning_is_one_relearning_whatever_is_watched(switched: Plan, place: Place) -> None:
    keys = set()
    for trial in switched.trials:
        if dict(trial.setting.values)["preset"] is Preset.FINE_TUNING:
            scored = place.findings.scores(trial)
            assert scored is not None
            assert scored.scores.suspects == ()
            keys.add(scored.relearn_key)
    assert len(keys) == 1


def test_rows(switched: Plan, place: Place, tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.logs.mkdir(parents=True)
    folder.open_record()
    scheduler = StudyScheduler(switched, folder, place.findings, CallbackList([]))
    scheduler.open()
    results = ResultRows(scheduler, place.findings)
    results.write(tmp_path, {})
    table = pd.read_parquet(tmp_path / "results.parquet")
    assert list(table.columns) == list(columns_of(switched))
    assert list(table.preset) == ["default"] * 4 + ["fine_tuning"] * 4
    assert list(table.plain_fine_tuning[4:]) == [True] * 4
    assert list(table.flagged[4:]) == ["[]"] * 4
    for trial, row in zip(switched.trials, results_rows(results, switched), strict=True):
        scored = place.findings.scores(trial)
        assert scored is not None
        scores, flagged = scored.scores, json.loads(row["flagged"])
        places = [f"{layer}:{number}" for layer, number in scores.places]
        everywhere = dict(trial.setting.values)["layers"] is Layers.ALL
        assert flagged == (places if everywhere else list(scores.suspects))
        assert row["accuracy_at_stop"] == scores.stop_accuracy
        assert row["target_z"] == float(scores.z[-10])  # the head's row 0
        assert row["target_rank"] == 1 + int((scores.shift[-10:] > scores.shift[-10]).sum())
    named = [text for text in table.flagged if ":" in text]
    assert any(not name.startswith("linear:") for text in named for name in json.loads(text))


def results_rows(results: ResultRows, plan: Plan) -> list[dict[str, Any]]:
    return [results.row(trial) for trial in plan.trials]
