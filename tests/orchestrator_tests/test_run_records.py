"""What MLflow is sent of a study: records of runs, from a worker that only listens."""

import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.address import Address
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.plan.columns import SCENARIO, Outcome
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.model import LogModels, Prune, Tracking, VictimRule
from orchestrator.store.lookup import ScoreResult
from orchestrator.store.serialization import REPAIRED
from orchestrator.tracking import views as mlflow_views
from orchestrator.tracking.callback import artifacts_of
from orchestrator.tracking.models import describe, materialise
from orchestrator.tracking.records import Dataset, Record, digest_of, fitted, to_plain
from orchestrator.tracking.run_records import STUDY, parameters
from tests.orchestrator_tests.listening import Listener, mirrored, study_of, trial_record
from tests.orchestrator_tests.places import Place
from tests.orchestrator_tests.simulation import SECONDS, Desk
from tests.orchestrator_tests.small_studies import WILCOXON, small_study
from ulrl.hyperparameters import names
from ulrl.methods.clp import CLP
from ulrl.methods.ulrl import Ulrl
from ulrl.models import restore

METRICS = [
    f"{metric}_{when}_{half}"
    for metric in ("acc", "asr", "ra")
    for when in ("before", "after")
    for half in ("selection", "report")
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Desk, Listener]:
    """Return a finished study, and what was recorded of it."""
    path = tmp_path_factory.mktemp("told")
    return mirrored(study_of(path), path)


def test_study_scenarios_and_trials_are_a_tree(told: tuple[Desk, Listener]) -> None:
    desk, heard = told
    first = heard.heard[0]
    assert (first.key, first.parent, first.name, first.status) == (STUDY, None, "small", "RUNNING")
    counts = {"scenarios": "4", "settings": "6", "trials": "24"}
    assert first.params.items() >= counts.items()
    scenarios, trials = heard.of("scenario"), heard.of("trial")
    assert {record.parent for record in scenarios} == {STUDY}
    assert sorted(record.name for record in scenarios) == sorted(
        desk.plan.name_of(scenario) for scenario in desk.plan.scenarios
    )
    assert {record.key for record in trials} == {trial.key for trial in desk.plan.trials}
    for trial in desk.plan.trials:
        record = trial_record(heard, desk, trial.number)
        assert record.parent is not None
        assert heard.last[record.parent].name == desk.plan.name_of(trial.scenario)
        assert record.name == f"{desk.plan.name_of(trial.scenario)}: {trial.setting.text}"
    assert len({record.name for record in heard.last.values()}) == len(heard.last)
    assert {record.status for record in (*scenarios, *trials)} == {"FINISHED"}


def test_a_trials_numbers_are_its_rows(told: tuple[Desk, Listener]) -> None:
    desk, heard = told
    for trial, row in zip(desk.plan.trials, desk.rows(), strict=True):
        record = trial_record(heard, desk, trial.number)
        wanted = [*METRICS, "der_selection", "der_report", "target_z", "target_rank"]
        wanted += ["stop_epoch", "accuracy_at_stop", "collapse_class", "collapse_share", "seconds"]
        wanted += ["rir_selection", "rir_report"]
        stages = ("unlearn", "score_neurons", "relearn", "evaluate")
        seconds = {f"seconds/{stage}": SECONDS[stage] for stage in stages}
        assert dict(record.metrics) == {**{name: row[name] for name in wanted}, **seconds}
        assert record.tags["status"] == "done"
        assert record.tags["victim_ok"] == "True"
        assert record.tags["flagged"] == row["flagged"]
        assert record.tags["plain_fine_tuning"] == str(row["plain_fine_tuning"])
        assert record.tags["wrecked"] == str(row["wrecked"]) == "False"
        assert record.tags["error"] == ""
        curve = desk.scheduler.repairs[trial.number].curve
        for place, metric in enumerate(("acc", "asr", "ra")):
            points = [(epoch, point[place]) for epoch, point in enumerate(curve, start=1)]
            assert list(record.curves[f"relearn/{metric}"]) == points


def test_parameters_are_all_hyperparameters_as_resolved(told: tuple[Desk, Listener]) -> None:
    desk, heard = told
    params = trial_record(heard, desk, 7).params
    scenario = desk.plan.trials[7].scenario
    assert set(params) == {*names(), *scenario.columns, "defence_seed"}
    assert all(isinstance(value, str) for value in params.values())
    assert (params["alpha"], params["reinit_ratio"]) == ("0.5", "0.55")
    assert (params["suspect_order"], params["clean_ratio"]) == ("score", "0.05")
    assert (params["attack"], params["seed"]) == ("badnets", "1")
    (victim,) = {r.params["epochs"] for r in heard.of("scenario")}
    assert victim == "1"


def test_a_scenario_holds_its_victim(tmp_path: Path) -> None:
    rule = VictimRule(min_acc=0.95)
    desk, heard = mirrored(study_of(tmp_path, victim_rule=rule), tmp_path)
    row = desk.rows()[0]
    seconds = {f"seconds/{stage}": SECONDS[stage] for stage in ("train_victim", "evaluate")}
    for record in heard.of("scenario"):
        before = {name: row[name] for name in METRICS if "before" in name}
        assert dict(record.metrics) == {**before, **seconds, "seconds": sum(seconds.values())}
        assert dict(record.curves) == {
            "train_victim/loss": ((1, 0.5),),
            "train_victim/accuracy": ((1, 0.9),),
        }
        assert record.tags["victim_ok"] == "False"
        assert set(record.tags) == {
            *("kind", "status", "victim_ok", "attack", "dataset", "architecture", "seed"),
        }


def test_a_scenario_says_what_its_best_setting_makes_of_it(tmp_path: Path) -> None:
    desk, _ = mirrored(study_of(tmp_path), tmp_path)
    scenario, row = desk.plan.scenarios[1], desk.rows()[6]
    best = Outcome(text="Much.", best_setting="alpha=0.5", metrics={"der_report": 0.75})
    cells = tuple(str(row[name]) for name in SCENARIO)
    _, heard = mirrored(study_of(tmp_path), tmp_path, found={cells: best})
    others = {record.name: record for record in heard.of("scenario")}
    record = others.pop(desk.plan.name_of(scenario))
    assert record.metrics["der_report"] == 0.75
    assert record.tags["best_setting"] == "alpha=0.5"
    assert record.tags["mlflow.note.content"] == "Much."
    assert len(others) == 3
    assert not any("best_setting" in other.tags for other in others.values())


def test_pruned_trials_have_no_number_after_the_victim(tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        settings={"alpha": (0.3, 0.5)},
        grid={"seeds": tuple(range(4))},
        prune=Prune(setting=WILCOXON),
    )
    desk, heard = mirrored(study, tmp_path)
    statuses = desk.statuses()
    assert statuses.count("pruned") == 3
    (pruning,) = desk.scheduler.decisions.prunings
    for number, status in enumerate(statuses):
        record = trial_record(heard, desk, number)
        assert record.tags["status"] == status
        assert (record.tags.get("pruned_by") == "setting") is (status == "pruned")
        if status == "pruned":
            assert record.tags["pruned_at"] == f"scenario {pruning.evidence.step}"
            assert set(record.metrics) == {name for name in METRICS if "before" in name}
            assert dict(record.curves) == {}
            assert record.model is None
            assert record.status == "FINISHED"


def test_failures(tmp_path: Path) -> None:
    failing = ["victim-0001", "trial-00000"]
    desk, heard = mirrored(study_of(tmp_path), tmp_path, failing=failing)
    record = trial_record(heard, desk, 0)
    assert (record.status, record.tags["status"]) == ("FAILED", "failed")
    assert record.tags["error"] == "RuntimeError: it cannot be done"
    orphan = trial_record(heard, desk, 6)
    assert orphan.tags["error"] == "victim: RuntimeError: it cannot be done"
    assert orphan.tags["victim_ok"] == "None"
    assert orphan.parent is not None
    scenario = heard.last[orphan.parent]
    assert (scenario.status, scenario.tags["victim_ok"]) == ("FAILED", "unknown")
    assert dict(scenario.metrics) == dict(orphan.metrics) == {}


def test_a_second_start_says_the_same(tmp_path: Path) -> None:
    desk, first = mirrored(study_of(tmp_path), tmp_path)
    known = dict.fromkeys(first.last, "run")
    listener = Listener(known)
    listener.last = dict.fromkeys((record.key for record in first.of("scenario")), first.heard[0])
    _, second = mirrored(study_of(tmp_path), tmp_path, listener, found={})
    told = {record.key: record for record in second.heard}
    assert told == first.last
    trials = [record.key for record in second.heard if record.tags["kind"] == "trial"]
    assert sorted(trials) == sorted(trial.key for trial in desk.plan.trials)  # each once


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
    key = desk.scheduler.scores[0].runs[0].key
    entry = desk.store.read("unlearn", key)
    assert entry is not None
    entry.values["accuracy"], entry.values["loss"] = [0.9, 0.4, 0.1], [1.0, 2.0, 3.0]
    entry.values["curve"] = [[0.9, 0.8, 0.1], [0.4, 0.7, 0.2], [0.1, 0.6, 0.3]]
    desk.store.write("unlearn", key, entry)
    relearned = desk.store.read("relearn", desk.scheduler.scores[0].relearn_key)
    assert relearned is not None
    relearned.values["training"] = [[0.5, 0.6], [0.25, 0.8]]
    desk.store.write("relearn", desk.scheduler.scores[0].relearn_key, relearned)
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
    curves = trial_record(heard, desk, 0).curves
    scored = desk.scheduler.scores[0]
    assert isinstance(scored, ScoreResult)
    assert scored.scores.stop_epoch == 2
    assert curves["unlearn/train_accuracy"] == ((1, 0.9), (2, 0.4))
    assert curves["unlearn/train_loss"] == ((1, 1.0), (2, 2.0))
    assert curves["unlearn/asr"] == ((1, 0.8), (2, 0.7))
    assert curves["relearn/train_loss"] == ((1, 0.5), (2, 0.25))
    assert curves["relearn/train_accuracy"] == ((1, 0.6), (2, 0.8))
    assert curves["relearn/acc"][0][0] == 1


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


# A record as a value.

TRIAL = Record(
    key="trial",
    parent="study",
    name="badnets, threshold 0.2",
    params={"unlearn_threshold": "0.2", "empty": ""},
    metrics={"acc": 0.1 + 0.2, "asr": 1e-300, "der": 1.0},
    curves={"relearn/acc": ((0, 1 / 3), (1, 2 / 3)), "relearn/asr": ()},
    tags={"attack": "badnets", "note": 'quote " and\nnew line, ümlaut'},
    status="FINISHED",
    artifacts=(("/nowhere/report.html", ""), ("/nowhere/figure.svg", "figures")),
    model={"file": "a.safetensors", "width": 16, "mean": [0.5, 0.5]},
    registered="demo.badnets",
    datasets=(Dataset(name="digits", digest="beef", context="defence", facts={"images": 7}),),
)
TIMES = ("began", "ended")  # known better where the work was done


@pytest.mark.parametrize("name", [field.name for field in fields(Record)])
def test_every_field_but_the_times_counts_as_a_change(name: str) -> None:
    others = {
        "key": "other",
        "parent": "other",
        "name": "other",
        "params": {"unlearn_threshold": "0.4"},
        "metrics": {"acc": 0.3},
        "curves": {"relearn/acc": ((0, 1 / 3), (1, 0.7))},
        "tags": {},
        "status": "FAILED",
        "artifacts": (),
        "model": None,
        "registered": "demo.best",
        "datasets": (Dataset(name="digits", digest="f00", context="evaluation"),),
        "experiment": {"mlflow.note.content": "found"},
        **dict.fromkeys(TIMES, 1.5),
    }
    changed = replace(TRIAL, **{name: others[name]})  # type: ignore[arg-type]
    assert (digest_of(to_plain(changed)) == digest_of(to_plain(TRIAL))) is (name in TIMES)


def test_what_mlflow_cannot_take_is_left_out_and_named() -> None:
    nan, infinity = float("nan"), float("inf")
    record = Record(
        key="trial",
        parent=None,
        name="trial",
        params={"long": "x" * 7000},
        metrics={"acc": 0.5, "asr": nan},
        curves={"relearn/acc": ((0, 0.5), (1, -infinity), (2, 0.25))},
        tags={"error": "y" * 9000},
    )
    assert fitted(record) == replace(
        record,
        params={"long": "x" * 6000},
        metrics={"acc": 0.5},
        curves={"relearn/acc": ((0, 0.5), (2, 0.25))},
        tags={"error": "y" * 8000, "ulrl.not_finite": "asr, relearn/acc at 1"},
    )


def test_a_study_of_methods_has_a_view_that_groups_by_setting() -> None:
    axes = ("unlearn_threshold", "repair", "repair_options")
    found = mlflow_views.views(axes)
    assert set(mlflow_views.views(("alpha",))) == {n for n in found if not n.endswith("methods")}
    state = json.loads(found["mlflow.sharedViewState.methods"])
    keys = [key["groupByData"] for key in state["groupBy"]["groupByKeys"]]
    assert keys == ["repair", "repair_options", "unlearn_threshold"]
    assert {"metrics.`repair_seconds`", "metrics.`passes`"} <= {*state["selectedColumns"]}
    charts = json.loads(found["mlflow.sharedViewState.settings"])["compareRunCharts"]
    assert [chart["type"] for chart in charts] == ["PARALLEL", "SCATTER"]
    assert charts[0]["selectedParams"] == ["attack", "repair"]
    assert "viewStateShareKey=methods" in mlflow_views.described("", axes)
    assert "viewStateShareKey=methods" not in mlflow_views.described("", ("alpha",))


def test_parameters_of_another_method_are_its_own() -> None:
    study = small_study(settings={"repair": (CLP(u=2.0), Ulrl()), "alpha": (0.5,)})
    clp, ours = (parameters(trial) for trial in make_plan(study).trials[:2])
    assert clp == {
        "clean_ratio": "0.05",
        "clean_draw": "random",
        "repair": "clp",
        "repair_options": '{"u": 2.0}',
        "clp.tune": "None",
        "clp.rule": "None",
        "clp.u": "2.0",
        "clp.budget": "None",
    }
    assert {*ours} == {*names(), "repair", "repair_options"}
    assert (ours["repair"], ours["alpha"]) == ("ulrl", "0.5")
