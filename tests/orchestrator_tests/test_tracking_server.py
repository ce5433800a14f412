"""The mirror on a real server: models and files, and a server that comes late and goes."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator import delivery
from orchestrator.database import ensure_database
from orchestrator.delivery import Delivery
from orchestrator.records import Record
from orchestrator.tracking import Tracker
from ulrl.models.preact_resnet import PreActResNet18

ROOT = Path(__file__).parents[2]
STUDY = Record(key="study", parent=None, name="demo", status="RUNNING")


def build() -> torch.nn.Module:
    return PreActResNet18(width=2).build(classes=5, channels=3, side=16)


def materialise(description: Mapping[str, Any]) -> tuple[torch.nn.Module, np.ndarray] | None:
    """Return the network of a file, made without a draw from torch's global generator."""
    if not Path(description["file"]).is_file():
        return None
    with torch.device("meta"):
        network = build()
    network.load_state_dict(load_file(description["file"]), assign=True)
    return network, np.full((1, 3, 16, 16), 0.5, dtype=np.float32)


def trial(number: int, weights: Path | None = None) -> Record:
    return Record(
        key=f"trial-{number}",
        parent="study",
        name=f"trial {number}",
        params={"number": str(number)},
        metrics={"acc": number / 3},
        curves={"relearn/acc": tuple((step, step / 7) for step in range(5))},
        model=None if weights is None else {"file": str(weights)},
    )


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    return path


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """Run a server with the settings that the repository gives."""
    settings = ROOT / "mlflow" / "server.env"
    command = [sys.executable, "-m", "mlflow", "--env-file", str(settings), "server"]
    environment = {
        **os.environ,
        "MLFLOW_PORT": str(port),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
    }
    with subprocess.Popen(
        command,
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield
        finally:
            os.killpg(process.pid, 15)


def test_a_server_that_comes_late_and_goes(
    tmp_path: Path, template: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 1.0)
    shutil.copyfile(template, tmp_path / "mlflow.db")
    report, weights = tmp_path / "report.html", tmp_path / "weights.safetensors"
    report.write_text("<p>report")
    save_file(build().state_dict(), weights)

    def start(uri: str) -> Tracker:
        return Tracker(
            uri=uri,
            experiment="demo",
            outbox=tmp_path / "outbox.jsonl",
            materialise=materialise,
        )

    remote, local = f"http://127.0.0.1:{port}", f"sqlite:///{tmp_path}/mlflow.db"
    tracker = start(remote)
    tracker.record(STUDY)
    for number in range(5):
        tracker.record(trial(number))
    with server(tmp_path, port):
        tracker.record(trial(5, weights))
        tracker.record(replace(STUDY, status="FINISHED", artifacts=((str(report), "reports"),)))
        end = monotonic() + 90
        while not tracker.run_ids():
            assert monotonic() < end
            sleep(0.1)
        assert tracker.close(90) == Delivery(7, 0, None)
        check_runs(remote, 6)
        check_model(remote, tracker.run_ids()["trial-5"], weights)
    again = start(remote)
    again.record(replace(trial(0), name="changed"))
    assert again.run_ids() == tracker.run_ids()
    ended = again.close(30)
    assert (ended.delivered, ended.left) == (0, 1)
    directly = start(local)
    assert directly.close(30) == Delivery(1, 0, None)
    assert directly.run_ids() == tracker.run_ids()
    check_runs(local, 6, changed="changed")


def check_runs(uri: str, trials: int, changed: str = "trial 0") -> None:
    from mlflow import MlflowClient

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


def check_model(uri: str, run: str, weights: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    study = client.get_parent_run(run)
    assert study is not None
    files = [file.path for file in client.list_artifacts(study.info.run_id, "reports")]
    assert files == ["reports/report.html"]
    outputs = client.get_run(run).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    assert (model.name, model.source_run_id, str(model.status)) == ("model", run, "READY")
    assert {metric.key: metric.value for metric in model.metrics or ()} == {"acc": 5 / 3}
    code = f"""
import mlflow, torch
from safetensors.torch import load_file
torch.set_num_threads(1)
mlflow.set_tracking_uri({uri!r})
network = mlflow.pytorch.load_model("models:/{model.model_id}")
state = load_file({str(weights)!r})
assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
images = torch.linspace(0, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
from ulrl.models.preact_resnet import PreActResNet18
other = PreActResNet18(width=2).build(classes=5, channels=3, side=16)
other.load_state_dict(state)
assert not network.training
assert torch.equal(network(images), other.eval()(images))
served = mlflow.pyfunc.load_model("models:/{model.model_id}")
print(served.metadata.signature, served.predict(images.numpy()).shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Tensor('float32', (-1, 3, 16, 16))" in done.stdout
    assert "Tensor('float32', (-1, 5))" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("(2, 5)")


def test_a_runs_model_is_its_records(tmp_path: Path, template: Path) -> None:
    from mlflow import MlflowClient

    shutil.copyfile(template, tmp_path / "mlflow.db")
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_file(build().state_dict(), first)
    save_file(build().state_dict(), second)
    uri = f"sqlite:///{tmp_path}/mlflow.db"

    def send(weights: Path | None) -> tuple[list[str], str | None]:
        """Return the ids of the run's models and the tag for what is gone."""
        tracker = Tracker(
            uri=uri,
            experiment="demo",
            outbox=tmp_path / "outbox.jsonl",
            materialise=materialise,
        )
        tracker.record(STUDY)
        tracker.record(trial(1, weights))
        assert tracker.close(60).left == 0
        client = MlflowClient(uri)
        run = client.get_run(tracker.run_ids()["trial-1"])
        query = f"source_run_id = '{run.info.run_id}'"
        models = client.search_logged_models([run.info.experiment_id], query)
        return [model.model_id for model in models], run.data.tags.get("ulrl.missing")

    assert send(None) == ([], None)
    (kept,), gone = send(first)
    assert gone is None
    assert send(first) == ([kept], None)
    (other,), _ = send(second)
    assert other != kept
    assert send(tmp_path / "gone.safetensors") == ([], "model")
    assert send(None) == ([], None)
