"""What MLflow is told of a study, with a tracker that only listens."""

from pathlib import Path

from orchestrator.spec.model import Prune, VictimRule
from orchestrator.tracking.run_records import STUDY
from tests.orchestrator_tests.listening import (
    Listener,
    mirrored,
    study_of,
    trial_record,
)
from tests.orchestrator_tests.simulation import SECONDS
from tests.orchestrator_tests.small_studies import (
    WILCOXON,
)
from ulrl.hyperparameters import names

METRICS = [
    f"{metric}_{when}_{half}"
    for metric in ("acc", "asr", "ra")
    for when in ("before", "after")
    for half in ("selection", "report")
]


def test_study_scenarios_and_trials_are_a_tree(tmp_path: Path) -> None:
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
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
        assert record.name == trial.setting.text
        assert record.parent is not None
        assert heard.last[record.parent].name == desk.plan.name_of(trial.scenario)
    assert {record.status for record in (*scenarios, *trials)} == {"FINISHED"}


def test_a_trials_numbers_are_its_rows(tmp_path: Path) -> None:
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
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
        curve = desk.conductor.repairs[trial.number].curve
        for place, metric in enumerate(("acc", "asr", "ra")):
            points = [(epoch, point[place]) for epoch, point in enumerate(curve, start=1)]
            assert list(record.curves[f"relearn/{metric}"]) == points


def test_parameters_are_all_hyperparameters_as_resolved(tmp_path: Path) -> None:
    desk, heard = mirrored(study_of(tmp_path), tmp_path)
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
    (pruning,) = desk.conductor.decisions.prunings
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


# A second start.


def test_what_is_in_the_grid_is_what_was_recorded(tmp_path: Path) -> None:
    """Whatever else MLflow has of the study has left the grid."""
    _, heard = mirrored(study_of(tmp_path), tmp_path)
    assert heard.present == set(heard.last)


def test_a_second_start_says_the_same(tmp_path: Path) -> None:
    desk, first = mirrored(study_of(tmp_path), tmp_path)
    known = dict.fromkeys(first.last, "run")
    listener = Listener(known)
    listener.last = dict.fromkeys((record.key for record in first.of("scenario")), first.heard[0])
    _, second = mirrored(study_of(tmp_path), tmp_path, listener)
    told = {record.key: record for record in second.heard}
    assert told == first.last
    trials = [record.key for record in second.heard if record.tags["kind"] == "trial"]
    assert sorted(trials) == sorted(trial.key for trial in desk.plan.trials)  # each once
