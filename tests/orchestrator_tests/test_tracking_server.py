"""The mirror on a real server: models and files, and a server that comes late and goes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from orchestrator.tracking import sync
from orchestrator.tracking.client import Experiment
from orchestrator.tracking.records import Dataset, Record
from orchestrator.tracking.sqlite_setup import ensure_database
from orchestrator.tracking.sync import SyncState, SyncWorker, open_sync
from tests.servers import free_port, tracking_server

STUDY = Record(key="study", parent=None, name="demo", status="RUNNING")


def copy_of(name: str) -> Callable[[Path], bool]:
    """Return a maker of a model that only says which one it is."""

    def make(folder: Path) -> bool:
        if name == "gone":
            return False
        folder.mkdir()
        (folder / "MLmodel").write_text("flavors: {}\n")
        (folder / "name.txt").write_text(name)
        return True

    return make


def log_models(uri: str, worker: SyncWorker) -> None:
    """Send the models that runs lack."""
    for key, (run, record) in worker.models().items():
        assert record.model is not None
        Experiment(uri, "demo").log_model(run, record, copy_of(record.model["name"]))
        worker.settle_model(key)
    assert not worker.models()


def trial(number: int, model: str = "", **other: Any) -> Record:
    return Record(
        key=f"trial-{number}",
        parent="study",
        name=f"trial {number}",
        params={"number": str(number)},
        metrics={"acc": number / 3},
        curves={"relearn/acc": tuple((step, step / 7) for step in range(5))},
        model={"name": model} if model else None,
        **other,
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    return path


def test_a_server_that_comes_late_and_goes(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sync, "LONGEST_PAUSE", 1.0)
    shutil.copyfile(template, tmp_path / "mlflow.db")
    report = tmp_path / "report.html"
    report.write_text("<p>report")

    def start(uri: str) -> SyncWorker:
        return open_sync(uri, "demo", tmp_path / "runs.sqlite", "study-id")

    def again(worker: SyncWorker, *changed: Record) -> SyncWorker:
        """Offer all records again, as each start of a study does."""
        offered = {record.key: record for record in (*records, *changed)}
        for record in offered.values():
            worker.record(record)
        return worker

    port = free_port()
    remote, local = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path}/mlflow.db"
    ended = replace(STUDY, status="FINISHED", artifacts=((str(report), "reports"),))
    records = [ended, *map(trial, range(5)), trial(5, "five", registered="demo.best")]
    worker = start(remote)
    for record in (STUDY, *records[1:3]):
        worker.record(record)
    with tracking_server(tmp_path, port):
        for record in (*records[3:], ended):
            worker.record(record)
        worker.flush(90)
        while len(worker.run_ids()) < 7:
            worker.flush(90)
        log_models(remote, worker)
        assert worker.close(90).left == 0
        check_runs(remote, 6)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", remote)  # where models:/ leads to
        check_model(remote, worker.run_ids()["trial-5"])
        monkeypatch.delenv("MLFLOW_TRACKING_URI")
    changed = replace(trial(0), name="changed")
    away = again(start(remote), changed)
    assert away.run_ids() == worker.run_ids()
    state = away.close(30)
    assert (state.delivered, state.left) == (0, 1)
    directly = again(start(local), changed)  # the same experiment without the server
    assert directly.close(30) == SyncState(1, 0, None)
    assert directly.run_ids() == worker.run_ids()
    check_runs(local, 6, changed="changed")


def check_runs(uri: str, trials: int, changed: str = "trial 0") -> None:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    order = ["attributes.start_time ASC"]
    study, *runs = client.search_runs([experiment.experiment_id], order_by=order)
    assert study.info.status == "FINISHED"
    assert [run.info.run_name for run in runs] == [
        changed,
        *(f"trial {number}" for number in range(1, trials)),
    ]
    for number, run in enumerate(runs):
        assert run.info.status == "FINISHED"
        assert run.data.metrics == {"acc": number / 3, "relearn/acc": 4 / 7}
        assert run.data.params == {"number": str(number)}
        assert run.data.tags["mlflow.parentRunId"] == study.info.run_id
        assert len(client.get_metric_history(run.info.run_id, "acc")) == 1
        history = client.get_metric_history(run.info.run_id, "relearn/acc")
        assert sorted((m.step, m.value) for m in history) == [(s, s / 7) for s in range(5)]


def check_model(uri: str, run: str) -> None:
    client = MlflowClient(uri)
    study = client.get_parent_run(run)
    assert study is not None
    files = [file.path for file in client.list_artifacts(study.info.run_id, "reports")]
    assert files == ["reports/report.html"]
    outputs = client.get_run(run).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("trial 5", run, "READY")
    assert {metric.key: metric.value for metric in model.metrics or ()} == {"acc": 5 / 3}
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model.model_id}"))
    assert (folder / "name.txt").read_text() == "five"
    best = Path(mlflow.artifacts.download_artifacts("models:/demo.best@best"))
    assert (best / "name.txt").read_text() == "five"
    stamped = Model.load(str(folder))
    assert (stamped.run_id, stamped.model_id) == (run, model.model_id)


@pytest.fixture
def send(tmp_path: Path, template: Path) -> Callable[..., str]:
    """Send a study and trials, and return the address of the database they are in."""
    shutil.copyfile(template, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def send_records(*records: Record) -> str:
        worker = open_sync(uri, "demo", tmp_path / "runs.sqlite", "study-id")
        for record in (STUDY, *records):
            worker.record(record)
        worker.flush(60)
        log_models(uri, worker)
        assert worker.close(60).left == 0
        return uri

    return send_records


def models_of(uri: str, name: str) -> tuple[list[str], str | None]:
    """Return the ids of a run's models and the tag for what is gone."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    query = f"source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([experiment.experiment_id], query)
    return [model.model_id for model in models], run.data.tags.get("ulrl.missing")


def test_a_runs_model_is_its_records(send: Callable[..., str]) -> None:
    def after(model: str) -> tuple[list[str], str | None]:
        return models_of(send(trial(1, model)), "trial 1")

    assert after("") == ([], None)
    (kept,), gone = after("first")
    assert gone is None
    assert after("first") == ([kept], None)
    (other,), _ = after("second")
    assert other != kept
    assert after("gone") == ([], "model")
    assert after("") == ([], None)


def test_the_alias_best_points_to_the_best_and_to_nothing_that_is_gone(
    send: Callable[..., str],
) -> None:
    def versions(uri: str) -> tuple[str, list[str]]:
        """Return which model is the best, and the models of all versions."""
        client = MlflowClient(uri)
        best = client.get_model_version_by_alias("demo.badnets", "best")
        found = client.search_model_versions("name = 'demo.badnets'")
        tag = "ulrl.logged_model"
        return best.tags[tag], sorted(version.tags[tag] for version in found)

    first, second = trial(1, "one", registered="demo.badnets"), trial(2)
    uri = send(first, second)
    (one,), _ = models_of(uri, "trial 1")
    assert versions(uri) == (one, [one])
    assert versions(send(replace(first, name="trial 1", tags={"note": "new"}))) == (one, [one])
    uri = send(trial(1), trial(2, "two", registered="demo.badnets"))
    (two,), _ = models_of(uri, "trial 2")
    assert versions(uri) == (two, [two])


def test_times_and_datasets_arrive_and_come_once(send: Callable[..., str]) -> None:
    image_set = Dataset(name="digits", digest="beef", context="defence", facts={"images": 64})
    timed = trial(1, began=1_000_000_000.25, ended=1_000_000_007.5, datasets=(image_set,))
    send(timed)
    uri = send(replace(timed, tags={"note": "changed"}))
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("demo")
    assert experiment is not None
    query = "dataset.name = 'digits' and dataset.context = 'defence'"
    (run,) = client.search_runs([experiment.experiment_id], query)
    assert (run.info.start_time, run.info.end_time) == (1_000_000_000_250, 1_000_000_007_500)
    assert run.inputs is not None
    (found,) = run.inputs.dataset_inputs
    assert found.dataset.digest == "beef"
    assert json.loads(found.dataset.profile or "") == {"images": 64}
    points = client.get_metric_history(run.info.run_id, "acc")
    assert [point.timestamp for point in points] == [run.info.start_time]
