"""What a person looks for in MLflow beside the numbers: settings, times, datasets, names."""

import time
from pathlib import Path

import pytest

from orchestrator.address import Address
from orchestrator.spec.model import LogModels, Prune, PrunerChoice, Tracking
from orchestrator.store.lookup import ScoreResult
from orchestrator.tracking.records import Record
from tests.orchestrator_tests.listening import Listener, mirrored, study_of, trial_record
from tests.orchestrator_tests.simulation import SECONDS, Desk


@pytest.fixture
def told(tmp_path: Path) -> tuple[Desk, Listener]:
    return mirrored(study_of(tmp_path), tmp_path)


def test_the_study_says_its_whole_file_but_no_address(told: tuple[Desk, Listener]) -> None:
    _, heard = told
    (study,) = heard.of("study")
    wanted = {
        "name": "small",
        "preset": "default",
        "objective": "der",
        "grid.seed": "[0, 1]",
        "grid.alpha": "[0.5, 0.7]",
        "grid.attack": study.params["grid.attack"],
        "victim.recipe": "fast",
        "victim.epochs": "1",
        "victim.min_asr": "0.8",
        "prune.setting": "none",
        "resources.cpu": "1",
        "mlflow.log_models": "best",
        "mlflow.register": "False",
    }
    assert {name: study.params[name] for name in wanted} == wanted
    assert '"name": "blended", "alpha": ' in study.params["grid.attack"]
    assert not {"mlflow.uri", "store"} & set(study.params)


def test_a_scenario_says_every_option_of_what_makes_it(told: tuple[Desk, Listener]) -> None:
    _, heard = told
    names = {record.params["attack"]: record.params for record in heard.of("scenario")}
    badnets, blended = names["badnets"], names["blended"]
    assert "attack.alpha" in blended
    assert "attack.size" in badnets
    for params in (badnets, blended):
        assert params["attack.labels"] == "all_to_one"
        assert (params["dataset.size"], params["architecture.width"]) == ("8", "1")
        assert params["lr_schedule" if "lr_schedule" in params else "lr"]
        assert params["victim_imported"] == "False"


def test_times_are_those_of_the_work(tmp_path: Path) -> None:
    before = time.time()
    study = study_of(tmp_path)
    _, heard = mirrored(study, tmp_path)
    lasted = {"trial": SECONDS["relearn"] + SECONDS["evaluate"]}
    lasted["scenario"] = SECONDS["train_victim"] + SECONDS["evaluate"]
    for kind, seconds in lasted.items():
        for record in heard.of(kind):
            assert record.began is not None
            assert record.ended is not None
            assert record.ended - record.began == pytest.approx(seconds, abs=1e-3)
            assert before - 1 < record.ended <= time.time()
    first = {record.key: record.ended for record in heard.of("trial")}
    desk, again = mirrored(study, tmp_path)
    assert {record.key: record.ended for record in again.of("trial")} == first
    assert desk.recorder.started_items == []


def test_epochs_line_up_and_end_where_the_trial_stopped(tmp_path: Path) -> None:
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
    key = desk.conductor.scores[0].runs[0].key
    entry = desk.store.read("unlearn", key)
    assert entry is not None
    entry.values["accuracy"], entry.values["loss"] = [0.9, 0.4, 0.1], [1.0, 2.0, 3.0]
    entry.values["curve"] = [[0.9, 0.8, 0.1], [0.4, 0.7, 0.2], [0.1, 0.6, 0.3]]
    desk.store.write("unlearn", key, entry)
    relearned = desk.store.read("relearn", desk.conductor.scores[0].relearn_key)
    assert relearned is not None
    relearned.values["training"] = [[0.5, 0.6], [0.25, 0.8]]
    desk.store.write("relearn", desk.conductor.scores[0].relearn_key, relearned)
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
    curves = trial_record(heard, desk, 0).curves
    scored = desk.conductor.scores[0]
    assert isinstance(scored, ScoreResult)
    assert scored.scores.stop_epoch == 2
    assert curves["unlearn/accuracy"] == ((1, 0.9), (2, 0.4))
    assert curves["unlearn/loss"] == ((1, 1.0), (2, 2.0))
    assert curves["unlearn/asr"] == ((1, 0.8), (2, 0.7))
    assert curves["relearn/loss"] == ((1, 0.5), (2, 0.25))
    assert curves["relearn/accuracy"] == ((1, 0.6), (2, 0.8))
    assert curves["relearn/acc"][0][0] == 1


def test_datasets_tell_apart_what_differs(told: tuple[Desk, Listener]) -> None:
    _, heard = told

    def sets(kind: str, context: str) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for record in heard.of(kind):
            for one in record.datasets:
                if one.context == context:
                    found.setdefault((one.name, one.digest), set()).add(record.tags["seed"])
                    assert len(one.digest) <= 36  # as long as MLflow takes them
        return found

    poisoned = sets("scenario", "training")
    assert len(poisoned) == 4  # a seed draws other images to poison
    assert {name for name, _ in poisoned} == {
        "digits(size=8) poisoned by badnets",
        "digits(size=8) poisoned by blended",
    }
    assert [name for name, _ in sets("scenario", "evaluation")] == ["digits(size=8)"]
    drawn = sets("trial", "defence")
    assert sorted(drawn.values(), key=min) == [{"0"}, {"1"}]  # by the seed alone
    (facts,) = {tuple(r.datasets[0].facts.items()) for r in heard.of("scenario") if "0" in r.key}
    assert dict(facts)["images"] == 1297


def test_a_cut_trial_says_at_which_epoch(tmp_path: Path) -> None:
    median = PrunerChoice(pruner="median", arguments={"n_startup_trials": 2, "n_warmup_steps": 0})
    study = study_of(tmp_path, settings={"alpha": (0.7, 0.5, 0.9, 1.1)}, prune=Prune(curve=median))
    desk, heard = mirrored(study, tmp_path)
    cut = {
        pruning.trial.number: pruning.evidence.step for pruning in desk.conductor.decisions.prunings
    }
    assert cut
    for number, epoch in cut.items():
        tags = trial_record(heard, desk, number).tags
        assert (tags["pruned_by"], tags["pruned_at"]) == ("curve", f"epoch {epoch}")


def test_only_the_best_are_registered_and_each_scenario_has_a_name(tmp_path: Path) -> None:
    tracking = Tracking(uri=Address(""), log_models=LogModels.ALL, register=True)
    _, heard = mirrored(study_of(tmp_path, mlflow=tracking), tmp_path)
    names: dict[str, list[Record]] = {}
    for record in heard.of("trial"):
        assert bool(record.registered) is (record.tags["best"] == "True")
        if record.registered:
            names.setdefault(record.registered, []).append(record)
    assert len(names) == 4
    assert all(len(records) == 1 for records in names.values())
    assert all(name.startswith("small.") and not set(name) & set("/:'") for name in names)
