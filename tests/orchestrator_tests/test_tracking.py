"""The mirror in MLflow's own database file, read back with MLflow's client and with sqlite."""

import getpass
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.processes import commit
from orchestrator.tracking.client import model_name
from orchestrator.tracking.records import Record
from orchestrator.tracking.sqlite_setup import ensure_database
from orchestrator.tracking.sync import SyncState, SyncWorker, open_sync
from orchestrator.tracking.views import DESCRIPTION, described

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

STUDY = Record(key="study", parent=None, name="demo", status="RUNNING", tags={"objective": "der"})
SCENARIO = Record(
    key="scenario",
    parent="study",
    name="badnets digits",
    params={"attack": "badnets", "seed": "0"},
    metrics={"acc": 0.1 + 0.2, "asr": 1.0},
    curves={"train/acc": ((1, 1 / 3), (2, 2 / 3))},
    tags={"attack": "badnets", "dataset": "digits"},
)
TRIAL = Record(
    key="trial",
    parent="scenario",
    name="threshold 0.2",
    params={"unlearn_threshold": "0.2", "reinit_ratio": "1.0"},
    metrics={"acc": 0.9, "asr": 5e-324, "der": 1 - 2**-53},
    curves={
        "relearn/acc": tuple((epoch, epoch / 7) for epoch in range(20)),
        "relearn/asr": tuple((epoch, 1 / (epoch + 3)) for epoch in range(20)),
    },
    tags={"attack": "badnets", "status": "done"},
)
TREE = (STUDY, SCENARIO, TRIAL)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty database as the tracker makes it, one for all modules."""
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["mlflow.db"]
    return path


@dataclass
class Desk:
    """A folder of a study, the database that it is sent to, and the workers that were opened."""

    folder: Path
    database: Path
    study: str = "study-id"
    workers: list[SyncWorker] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.database}"

    @property
    def table(self) -> Path:
        return self.folder / "logs" / "mlflow.sqlite"

    def worker(self) -> SyncWorker:
        self.workers.append(open_sync(self.uri, "demo", self.table, self.study))
        return self.workers[-1]

    def send(self, *records: Record) -> SyncState:
        worker = self.worker()
        for record in records:
            worker.record(record)
        return worker.close(300)

    @property
    def client(self) -> "MlflowClient":
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    @property
    def experiment(self) -> str:
        experiment = self.client.get_experiment_by_name("demo")
        assert experiment is not None
        return experiment.experiment_id

    def runs(self) -> dict[str, "Run"]:
        """Return the active runs by key; a key with two runs fails."""
        runs = self.client.search_runs([self.experiment])
        keys = [run.data.tags["mlflow.ulrl.key"] for run in runs]
        assert len(set(keys)) == len(keys)
        return dict(zip(keys, runs, strict=True))

    def curve(self, key: str, name: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(self.runs()[key].info.run_id, name)
        return sorted((metric.step, metric.value) for metric in history)

    def dump(self) -> list[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return list(connection.iterdump())


@pytest.fixture
def desk(tmp_path: Path, template: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, tmp_path / "mlflow.db")
    shutil.copyfile(template, desk.database)
    yield desk
    for worker in desk.workers:
        worker.close(10)


def own_tags(run: "Run") -> dict[str, str]:
    return {name: v for name, v in run.data.tags.items() if not name.startswith(("mlflow", "ulrl"))}


def test_the_tree_holds_exactly_what_was_recorded(desk: Desk) -> None:
    assert desk.send(*TREE) == SyncState(3, 0, None)
    runs = desk.runs()
    assert set(runs) == {"study", "scenario", "trial"}
    for record in TREE:
        run = runs[record.key]
        assert run.info.run_name == record.name
        assert run.info.status == record.status
        assert run.data.params == record.params
        assert {n: run.data.metrics[n] for n in record.metrics} == record.metrics
        assert set(run.data.metrics) == {*record.metrics, *record.curves}
        assert own_tags(run) == record.tags
        parent = None if record.parent is None else runs[record.parent].info.run_id
        assert run.data.tags.get("mlflow.parentRunId") == parent
        for name, points in record.curves.items():
            assert desk.curve(record.key, name) == list(points)
    assert desk.worker().run_ids() == {key: run.info.run_id for key, run in runs.items()}


def test_the_same_records_again_change_nothing(desk: Desk) -> None:
    desk.send(*TREE)
    before = desk.dump()
    assert desk.send(*TREE) == SyncState(0, 0, None)
    assert desk.dump() == before


def test_the_folder_of_an_earlier_version_goes_on_in_its_runs(desk: Desk) -> None:
    """Its journal began with the name by which its runs know the study."""
    older = replace(desk, study="name-of-the-journal")
    older.send(*TREE)
    before = desk.dump()
    desk.table.unlink()
    journal = desk.table.with_name("mlflow.jsonl")
    journal.write_text('{"study": "name-of-the-journal"}\n{"record": {"key": "study"}}\n{"rec')
    assert desk.send(*TREE) == SyncState(3, 0, None)
    assert desk.dump() == before
    assert desk.send(*TREE) == SyncState(0, 0, None)


def test_a_changed_record_updates_its_run(desk: Desk) -> None:
    failed = replace(
        TRIAL, status="FAILED", metrics={"acc": 0.5}, curves={}, tags={"error": "out of memory"}
    )
    desk.send(STUDY, SCENARIO, failed)
    first = desk.runs()["trial"].info.run_id
    longer = {**TRIAL.curves, "relearn/acc": (*TRIAL.curves["relearn/acc"], (20, 0.125))}
    assert desk.send(TRIAL) == SyncState(1, 0, None)
    assert desk.send(replace(TRIAL, name="renamed", curves=longer)) == SyncState(1, 0, None)
    run = desk.runs()["trial"]
    assert run.info.run_id == first
    assert run.info.run_name == "renamed"
    assert run.info.status == "FINISHED"
    assert own_tags(run) == TRIAL.tags
    assert {name: run.data.metrics[name] for name in TRIAL.metrics} == TRIAL.metrics
    assert desk.curve("trial", "relearn/acc") == list(longer["relearn/acc"])
    assert desk.curve("trial", "relearn/asr") == list(TRIAL.curves["relearn/asr"])


def test_a_study_that_goes_on_is_running_again_with_its_new_parameters(desk: Desk) -> None:
    """MLflow's parameters cannot be changed: a tag has the new value."""
    desk.send(replace(STUDY, params={"trials": "9"}, status="KILLED"))
    assert desk.runs()["study"].info.status == "KILLED"
    desk.send(replace(STUDY, params={"trials": "18", "seed": "0"}))
    run = desk.runs()["study"]
    assert run.info.status == "RUNNING"
    assert run.data.params == {"trials": "9", "seed": "0"}
    assert run.data.tags["ulrl.now.trials"] == "18"
    desk.send(replace(STUDY, params={"trials": "9", "seed": "0"}, status="FINISHED"))
    assert desk.runs()["study"].info.status == "FINISHED"
    assert "ulrl.now.trials" not in desk.runs()["study"].data.tags


def test_what_a_person_added_stays(desk: Desk) -> None:
    desk.send(STUDY)
    run = desk.runs()["study"].info.run_id
    desk.client.set_tag(run, "mlflow.note.content", "my note")
    desk.client.log_param(run, "mine", "1")
    desk.send(replace(STUDY, tags={}))
    data = desk.runs()["study"].data
    assert data.tags["mlflow.note.content"] == "my note"
    assert data.params == {"mine": "1"}
    assert "objective" not in data.tags


def test_the_experiment_is_described_but_a_persons_words_stay(desk: Desk) -> None:
    links = f"{described('first')}"
    desk.send(replace(STUDY, experiment={DESCRIPTION: links, "mlflow.experimentKind": "kind"}))
    tags = desk.client.get_experiment(desk.experiment).tags
    assert f"#/experiments/{desk.experiment}/runs?" in tags[DESCRIPTION]
    assert tags["mlflow.experimentKind"] == "kind"
    desk.send(replace(STUDY, experiment={DESCRIPTION: described("second")}))
    assert desk.client.get_experiment(desk.experiment).tags[DESCRIPTION].endswith("second")
    desk.client.set_experiment_tag(desk.experiment, DESCRIPTION, "mine")
    desk.send(replace(STUDY, experiment={DESCRIPTION: described("third")}))
    assert desk.client.get_experiment(desk.experiment).tags[DESCRIPTION] == "mine"


def test_runs_say_who_made_them_and_hide_what_is_internal(desk: Desk) -> None:
    desk.send(*TREE)
    for run in desk.runs().values():
        assert run.data.tags["mlflow.user"] == getpass.getuser()
        assert run.data.tags["mlflow.source.git.commit"] == commit()
        assert not any(name.startswith("ulrl.") for name in run.data.tags)


def test_runs_with_the_tags_of_an_earlier_version_are_found(desk: Desk) -> None:
    desk.send(*TREE)
    desk.table.unlink()
    with closing(sqlite3.connect(desk.database)) as database, database:
        database.execute("update tags set key = substr(key, 8) where key like 'mlflow.ulrl.%'")
    assert desk.send(*TREE) == SyncState(3, 0, None)
    runs = desk.client.search_runs([desk.experiment])
    assert sorted(run.data.tags["ulrl.key"] for run in runs) == ["scenario", "study", "trial"]


@pytest.mark.parametrize(
    ("run", "name"),
    [
        ("badnets, seed=0: unlearn_threshold=0.1", "badnets, seed=0- unlearn_threshold=0-1"),
        ("a/b:c.d%e\"f'g", "a-b-c-d-e-f-g"),
        ("...", "model"),
    ],
)
def test_a_model_is_named_by_its_run_within_what_mlflow_admits(
    desk: Desk, run: str, name: str
) -> None:
    assert model_name(run) == name
    desk.send(STUDY)
    made = desk.client.create_logged_model(desk.experiment, model_name(run))
    assert made.name == name


def test_a_name_that_mlflow_refuses_costs_only_its_record(desk: Desk) -> None:
    bad = replace(TRIAL, metrics={"asr@0.5": 0.5})
    delivery = desk.send(STUDY, SCENARIO, bad, replace(TRIAL, key="other"))
    assert (delivery.delivered, delivery.left) == (3, 1)
    assert delivery.error is not None
    assert "asr@0.5" in delivery.error
    assert desk.send(TRIAL) == SyncState(1, 0, None)
    assert desk.runs()["trial"].data.params == TRIAL.params


def test_a_deleted_parent_comes_back_with_all_its_children(desk: Desk) -> None:
    desk.send(*TREE)
    desk.client.delete_run(desk.runs()["scenario"].info.run_id)
    second = replace(TRIAL, key="second", name="second")
    assert desk.send(*TREE, second) == SyncState(3, 0, None)
    runs = desk.runs()
    scenario = runs["scenario"].info.run_id
    assert runs["trial"].data.tags["mlflow.parentRunId"] == scenario
    assert runs["second"].data.tags["mlflow.parentRunId"] == scenario


def test_a_deleted_experiment_is_restored(desk: Desk) -> None:
    desk.send(*TREE)
    before = set(desk.runs())
    experiment = desk.experiment
    desk.client.delete_experiment(experiment)
    assert desk.send(*TREE) == SyncState(0, 0, None)
    assert desk.client.get_experiment(experiment).lifecycle_stage == "active"
    assert set(desk.runs()) == before
