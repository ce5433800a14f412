"""MLflow's mirror of a study. Nothing is ever read back from it into a result."""

import logging
import os
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch

from orchestrator.database import database_file, ensure_database
from orchestrator.delivery import Courier, Delivery, Held
from orchestrator.outbox import Outbox
from orchestrator.records import Record, digest_of, fitted

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.models import ModelSignature

Materialise = Callable[[Mapping[str, Any]], tuple[torch.nn.Module, np.ndarray] | None]

ENVIRONMENT = {  # a server that is away costs seconds, and MLflow keeps silent
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}

KEY, STUDY, PLACE, MODEL = "ulrl.key", "ulrl.study", "ulrl.place", "ulrl.model"
MISSING, NOW = "ulrl.missing", "ulrl.now."


class Tracker:
    """A study's way to MLflow; every method returns at once, but `close`.

    The server may be away, slow or refuse: what it has not got waits in the outbox and is
    delivered once, in order, when it is back or when the study runs again. A run that the
    user deleted stays deleted until its record changes or a run under it is to be made.

    Args:
        uri: ``sqlite:///FILE``, which is made if absent, or the address of a server.
        experiment: The study's name.
        outbox: File of the backlog, in the study's folder.
        materialise: Makes a record's model and an example of its input, a batch of one, or
            None if the weights are gone. It is called in the tracker's thread and leaves
            torch's global generator alone, from which an inline study draws meanwhile.
    """

    def __init__(
        self, *, uri: str, experiment: str, outbox: Path, materialise: Materialise | None = None
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        backlog = Outbox(outbox)

        def connect() -> _Experiment:
            place = _Experiment(uri, experiment, materialise)
            backlog.settle(uri, place.name)
            return place

        self._courier = Courier(backlog, backlog.place(uri), connect)

    def record(self, record: Record) -> None:
        """Mirror `record` soon, after its parent's; the same record twice is one."""
        self._courier.record(fitted(record))

    def flush(self, timeout: float) -> None:
        """Wait until all is delivered, the server turns out to be away, or time is up."""
        self._courier.flush(timeout)

    def close(self, timeout: float) -> Delivery:
        """Deliver what can be delivered within `timeout` seconds, then stop for good."""
        return self._courier.close(timeout)

    def run_ids(self) -> Mapping[str, str]:
        """Return run ids by key, of all that has arrived in this run of the study or before."""
        return self._courier.runs()


class _Experiment:
    """One of MLflow's experiments, connected when constructed; a `Place` of `delivery`."""

    def __init__(self, uri: str, name: str, materialise: Materialise | None) -> None:
        # Filters of warnings are the process's, not the thread's, hence only by module.
        warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
        database = database_file(uri)
        if database is not None:
            ensure_database(database)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        self._materialise = materialise
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None  # a server's own choice; for a file, MLflow's depends on the cwd
            if database is not None:
                location = (database.parent / "mlartifacts" / name).as_uri()
            self.name = uuid4().hex
            self._id = self._client.create_experiment(name, location, tags={PLACE: self.name})
            return
        self._id = experiment.experiment_id
        if experiment.lifecycle_stage != "active":
            self._client.restore_experiment(self._id)
        self.name = experiment.tags.get(PLACE) or uuid4().hex
        if PLACE not in experiment.tags:
            self._client.set_experiment_tag(self._id, PLACE, self.name)

    def answers(self) -> bool:
        return self._client.get_experiment(self._id).lifecycle_stage == "active"

    def find(self, study: str, key: str | None = None) -> dict[str, str]:
        query = f"tags.`{STUDY}` = '{study}'"
        if key is not None and "'" not in key:  # which nothing escapes
            query += f" and tags.`{KEY}` = '{key}'"
        runs: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_runs([self._id], query, page_token=token)
            runs.update({run.data.tags[KEY]: run.info.run_id for run in page})
            token = page.token
            if not token:
                return runs

    def get(self, run: str) -> Held | None:
        from mlflow.exceptions import MlflowException

        try:
            content = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return Held(run, content) if content.info.lifecycle_stage == "active" else None

    def create(self, study: str, record: Record, parent: str | None) -> Held:
        # Key and study are there from birth, to find the run if a kill comes before its receipt.
        tags = {KEY: record.key, STUDY: study, **_tags(record, parent)}
        run = self._client.create_run(self._id, tags=tags)
        return Held(run.info.run_id, run)

    def bring(
        self, held: Held, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        from mlflow.entities import Param, RunTag

        run: Run = held.content
        params, tags = run.data.params, _tags(record, parent)
        for name, value in record.params.items():
            if params.get(name, value) != value:  # MLflow's params are for ever
                tags[NOW + name] = value
        for name in set(former) - set(tags):
            if name in run.data.tags:
                self._client.delete_tag(held.run, name)
        self._client.log_batch(
            held.run,
            metrics=[*self._metrics(run, record), *self._curves(run, record)],
            params=[Param(n, v) for n, v in record.params.items() if n not in params],
            tags=[RunTag(n, v) for n, v in tags.items() if run.data.tags.get(n) != v],
        )
        missing = self._log_files(run, record) + self._log_model(run, record)
        if missing:
            tags[MISSING] = ", ".join(missing)
            self._client.set_tag(held.run, MISSING, tags[MISSING])
        self._set_status(run, record.status)
        return tuple(tags)

    def _metrics(self, run: "Run", record: Record) -> "list[Metric]":
        """Return the final values that the run has not got, at the step all runs have.

        A value's time is the run's birth, so that sending it twice is sending it once; a
        value that takes another's place needs a later time.
        """
        from mlflow.entities import Metric

        had = run.data.metrics
        return [
            Metric(name, value, _later(run) if name in had else run.info.start_time, 0)
            for name, value in record.metrics.items()
            if had.get(name) != value
        ]

    def _curves(self, run: "Run", record: Record) -> "list[Metric]":
        from mlflow.entities import Metric

        points: list[Metric] = []
        for name, curve in record.curves.items():
            past: list[Metric] = []
            if name in run.data.metrics:
                past = self._client.get_metric_history(run.info.run_id, name)
            had = {m.step: m.value for m in sorted(past, key=lambda metric: metric.timestamp)}
            when = _later(run) if had else run.info.start_time
            points += [Metric(name, v, when, step) for step, v in curve if had.get(step) != v]
        return points

    def _log_files(self, run: "Run", record: Record) -> list[str]:
        """Send the files and return the names of those that are gone."""
        gone = []
        for file, folder in record.artifacts:
            if Path(file).is_file():
                self._client.log_artifact(run.info.run_id, file, folder or None)
            else:
                gone.append(Path(file).name)
        return gone

    def _log_model(self, run: "Run", record: Record) -> list[str]:
        """Make the run's model the record's; return its name if the weights are gone."""
        if record.model is None and not (run.outputs and run.outputs.model_outputs):
            return []
        digest = digest_of(record.model)
        query = f"source_run_id = '{run.info.run_id}'"
        kept = False
        for model in self._client.search_logged_models([self._id], query):
            if model.tags.get(MODEL) == digest and str(model.status) == "READY":
                kept = True
            elif MODEL in model.tags:
                self._client.delete_logged_model(model.model_id)
        if kept or record.model is None:
            return []
        made = None if self._materialise is None else self._materialise(record.model)
        if made is None:
            return ["model"]
        self._send_model(run, record, digest, *made)
        return []

    def _send_model(
        self, run: "Run", record: Record, digest: str, network: torch.nn.Module, example: np.ndarray
    ) -> None:
        # Step by step what mlflow.pytorch.log_model does, without its active run and without
        # its trial of the model as a server: 30 ms instead of 150.
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
        from mlflow.models import Model
        from mlflow.pytorch import save_model

        home = self._client.create_logged_model(
            self._id, "model", run.info.run_id, {MODEL: digest}, dict(record.params)
        )
        self._client.log_outputs(run.info.run_id, [LoggedModelOutput(home.model_id, step=0)])
        with TemporaryDirectory() as scratch:
            save_model(
                network.eval(),
                Path(scratch, "model"),
                mlflow_model=Model(
                    artifact_path=home.artifact_location,
                    run_id=run.info.run_id,
                    model_uuid=home.model_id,
                    model_id=home.model_id,
                ),
                signature=_signature(network, example),
                input_example=example,
                # Given, since MLflow's own search takes seconds; ulrl has to be importable.
                pip_requirements=[f"torch=={version('torch').partition('+')[0]}"],
                serialization_format="pickle",
            )
            self._client.log_model_artifacts(home.model_id, str(Path(scratch, "model")))
        points = [
            Metric(name, value, run.info.start_time, 0, model_id=home.model_id)
            for name, value in record.metrics.items()
        ]
        self._client.log_batch(run.info.run_id, metrics=points)
        self._client.finalize_logged_model(home.model_id, LoggedModelStatus.READY)

    def _set_status(self, run: "Run", status: str) -> None:
        if run.info.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.info.run_id, status=status)
        else:
            self._client.set_terminated(run.info.run_id, status)


def _tags(record: Record, parent: str | None) -> dict[str, str]:
    tags = {**record.tags, "mlflow.runName": record.name, "mlflow.source.name": "orchestrator"}
    return tags if parent is None else {**tags, "mlflow.parentRunId": parent}


def _signature(network: torch.nn.Module, example: np.ndarray) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        logits = network(torch.from_numpy(example)).numpy()
    inputs, outputs = (
        Schema([TensorSpec(array.dtype, (-1, *array.shape[1:]))]) for array in (example, logits)
    )
    return ModelSignature(inputs, outputs)


def _later(run: "Run") -> int:
    """Return the time in milliseconds, which is after the run's birth whatever clocks say."""
    birth: int = run.info.start_time
    return max(time.time_ns() // 1_000_000, birth + 1)
