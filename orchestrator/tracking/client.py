"""MLflow's client: experiments, runs, metrics and the model registry."""

import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import uuid4

from orchestrator.errors import sentence
from orchestrator.processes import scratch
from orchestrator.tracking.records import Dataset, Record, digest_of
from orchestrator.tracking.sqlite_setup import database_file, ensure_database, mend, unfit
from orchestrator.tracking.sync import ModelError, StoredRun

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run


Value: TypeAlias = tuple[str, float, int, int]  # name, value, time in ms since 1970, step
History: TypeAlias = Callable[[str], list[Any]]  # a metric's values so far, by its name


@cache
def load(*, file: bool) -> None:
    """Import what an `Experiment` needs of MLflow, and of what MLflow itself needs.

    MLflow's modules import each other in circles. Two threads that meet inside such a circle
    break each other's import, and Tune imports MLflow in the main thread whether asked to or
    not. So this is to be called there, before another thread may need it.

    Args:
        file: Whether the experiment is in a database file of MLflow's own.
    """
    names = ["mlflow.models", "mlflow.tracking"]
    if file:
        names += ["mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store"]
        names += ["mlflow.store.model_registry.sqlalchemy_store"]
    else:
        names += ["mlflow.store.tracking.rest_store", "mlflow.store.model_registry.rest_store"]
    with suppress(ImportError):  # which opening the experiment meets again, and tells
        for name in names:
            import_module(name)


ALIAS = "best"
LOGGED_MODEL = "ulrl.logged_model"  # tag of a version: not every store says which model it is


def found(get: Callable[..., Any], *arguments: Any) -> Any:
    """Return what MLflow gives, or None if it has no such thing."""
    try:
        return get(*arguments)
    except Exception as error:
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            return None
        raise


def register(client: Any, name: str, model: str, run: str, tags: Mapping[str, str]) -> None:
    """Let the alias of a registered model point to a logged model.

    A logged model is one version, however often this is said; versions whose model has been
    deleted since go.

    Args:
        client: MLflow's client.
        name: Of the registered model, which is made if absent.
        model: Id of the logged model.
        run: Id of the run that it belongs to.
        tags: Of what is made.
    """
    if found(client.get_registered_model, name) is None:
        client.create_registered_model(name, tags=dict(tags))
    known = client.search_model_versions(f"name = '{name}'")
    versions = {one.tags[LOGGED_MODEL]: one for one in known if LOGGED_MODEL in one.tags}
    if model not in versions:
        # By its place: by its id, MLflow would look for it where the process tracks by default.
        place = client.get_logged_model(model).artifact_location
        versions[model] = client.create_model_version(
            name, place, run, tags={**tags, LOGGED_MODEL: model}, model_id=model
        )
    client.set_registered_model_alias(name, ALIAS, versions[model].version)
    for other, version in versions.items():
        if other != model and found(client.get_logged_model, other) is None:
            client.delete_model_version(name, version.version)


KEY, STUDY, PLACE, MODEL = "ulrl.key", "ulrl.study", "ulrl.place", "ulrl.model"
MISSING, NOW = "ulrl.missing", "ulrl.now."


class ModelMaker(Protocol):
    """Makes models where MLflow can take them from."""

    busy: bool  # whether a model is being made now

    def prepare(self) -> None:
        """Be told that models will be wanted, and return at once."""

    def hurry(self) -> None:
        """Make models at the priority of this process from now on: nothing else is computed."""

    def make(self, description: Mapping[str, Any], folder: Path) -> bool:
        """Make `folder` with a model in it; return False if its weights are gone.

        Raises:
            ModelError: It can never be made.
        """

    def close(self) -> None:
        """Make no more."""


class Experiment:
    """One of MLflow's experiments, connected when constructed; a `Place` of `delivery`."""

    def __init__(self, uri: str, name: str, maker: ModelMaker | None) -> None:
        # Filters of warnings are the process's, not the thread's, hence only by module.
        warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
        database = database_file(uri)
        if database is not None:
            ensure_database(database)
            if fault := _fault(database):
                mend(database, fault)
                ensure_database(database)
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        self._maker = maker
        try:
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(name)
        except Exception as error:
            if database is None:
                raise
            mend(database, sentence(error))
            ensure_database(database)
            self._client = MlflowClient(tracking_uri=uri)
            experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None  # a server's own choice; for a file, MLflow's depends on the cwd
            if database is not None:
                location = (database.parent / "mlartifacts" / name).as_uri()
            self.name = uuid4().hex
            self._id = self._client.create_experiment(name, location, tags={PLACE: self.name})
        else:
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
        return {run.data.tags[KEY]: run.info.run_id for run in self._search(query)}

    def deleted(self, study: str) -> set[str]:
        from mlflow.entities import ViewType

        query = f"tags.`{STUDY}` = '{study}'"
        return {run.info.run_id for run in self._search(query, ViewType.DELETED_ONLY)}

    def _search(self, query: str, view: int = 1) -> "Iterator[Run]":
        """Yield the runs that a filter finds; the view is MLflow's, 1 is of active runs."""
        token = None
        while True:
            page = self._client.search_runs([self._id], query, view, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def get(self, run: str) -> StoredRun | None:
        content = found(self._client.get_run, run)
        active = content is not None and content.info.lifecycle_stage == "active"
        return StoredRun(run, content) if active else None

    def create(self, study: str, record: Record, parent: str | None) -> StoredRun:
        # Key and study are there from birth, to find the run if a kill comes before its receipt.
        tags = {KEY: record.key, STUDY: study, **_tags(record, parent)}
        born = None if record.began is None else round(1000 * record.began)
        run = self._client.create_run(self._id, start_time=born, tags=tags)
        return StoredRun(run.info.run_id, run)

    def bring(
        self, held: StoredRun, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        from mlflow.entities import Metric, Param, RunTag

        tags = _tags(record, parent)
        run: Run = held.content
        params = run.data.params
        for name, value in record.params.items():
            if params.get(name, value) != value:  # MLflow's params are for ever
                tags[NOW + name] = value
        for name in set(former) - set(tags):
            if name in run.data.tags:
                self._client.delete_tag(held.run, name)
        values = _missing_values(
            record,
            run.data.metrics,
            run.info.start_time,
            lambda name: self._client.get_metric_history(held.run, name),
        )
        self._client.log_batch(
            held.run,
            metrics=[Metric(*value) for value in values],
            params=[Param(n, v) for n, v in record.params.items() if n not in params],
            tags=[RunTag(n, v) for n, v in tags.items() if run.data.tags.get(n) != v],
        )
        inputs = list(_inputs(run, record))
        if inputs:
            self._client.log_inputs(held.run, inputs)
        missing = self._log_files(run, record) + self._log_model(run, record)
        if missing:
            tags[MISSING] = ", ".join(missing)
            self._client.set_tag(held.run, MISSING, tags[MISSING])
        self._set_status(run, record)
        return tuple(tags)

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
        """Make the run's model the record's; return its name if there can be none."""
        if record.model is None and not (run.outputs and run.outputs.model_outputs):
            return []
        digest = digest_of(record.model)
        query = f"source_run_id = '{run.info.run_id}'"
        kept = ""
        for model in self._client.search_logged_models([self._id], query):
            if model.tags.get(MODEL) == digest and str(model.status) == "READY":
                kept = model.model_id
            elif MODEL in model.tags:
                self._client.delete_logged_model(model.model_id)
        if record.model is None:
            return []
        if not kept:
            try:
                kept = self._send_model(run, record, digest)
            except ModelError as error:  # another attempt would end the same
                return [f"model ({error})"]
        if kept and record.registered:
            mine = {STUDY: run.data.tags[STUDY]}
            register(self._client, record.registered, kept, run.info.run_id, mine)
        return [] if kept else ["model"]

    def _send_model(self, run: "Run", record: Record, digest: str) -> str:
        """Send a model as mlflow.pytorch.log_model would; return its id, "" if it is gone."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
        from mlflow.models import Model

        with scratch() as place:
            folder = place / "model"
            if self._maker is None or not self._maker.make(record.model or {}, folder):
                return ""
            home = self._client.create_logged_model(
                self._id, "model", run.info.run_id, {MODEL: digest}, dict(record.params)
            )
            self._client.log_outputs(run.info.run_id, [LoggedModelOutput(home.model_id, step=0)])
            content = Model.load(str(folder)).to_dict()
            Model.from_dict(
                {
                    **content,
                    "artifact_path": home.artifact_location,
                    "run_id": run.info.run_id,
                    "model_uuid": home.model_id,
                    "model_id": home.model_id,
                }
            ).save(str(folder / "MLmodel"))
            self._client.log_model_artifacts(home.model_id, str(folder))
        points = [
            Metric(name, value, run.info.start_time, 0, model_id=home.model_id)
            for name, value in record.metrics.items()
        ]
        self._client.log_batch(run.info.run_id, metrics=points)
        self._client.finalize_logged_model(home.model_id, LoggedModelStatus.READY)
        return str(home.model_id)

    def _set_status(self, run: "Run", record: Record) -> None:
        if run.info.status == record.status:
            return
        if record.status == "RUNNING":
            self._client.update_run(run.info.run_id, status=record.status)
        else:
            ended = None if record.ended is None else round(1000 * record.ended)
            self._client.set_terminated(run.info.run_id, record.status, ended)


def _fault(database: Path) -> str:
    """Return why MLflow cannot use a database, or "": it would find out half-way, in SQL."""
    from mlflow.store.db.base_sql_model import Base
    from mlflow.store.db.utils import _get_latest_schema_revision

    tables = {name: list(table.columns.keys()) for name, table in Base.metadata.tables.items()}
    version = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    return unfit(database, version, tables)


def _inputs(run: "Run", record: Record) -> "Iterator[DatasetInput]":
    """Yield the datasets of a record that its run does not show yet."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    shown = run.inputs.dataset_inputs if run.inputs else ()
    had = {(one.dataset.name, one.dataset.digest) for one in shown}
    for one in record.datasets:
        if (one.name, one.digest) in had:
            continue
        facts = json.dumps(dict(one.facts))
        yield DatasetInput(
            Dataset(one.name, one.digest, "code", _source_of(one), profile=facts),
            [InputTag("mlflow.data.context", one.context)],
        )


def _tags(record: Record, parent: str | None) -> dict[str, str]:
    tags = {**record.tags, "mlflow.runName": record.name, "mlflow.source.name": "orchestrator"}
    return tags if parent is None else {**tags, "mlflow.parentRunId": parent}


def _missing_values(
    record: Record, had: Mapping[str, float], birth: int, history: History
) -> list[Value]:
    """Return the values of `record` that the run does not hold yet.

    A value's time is the run's birth, so that sending it twice is sending it once; a value
    that takes another's place needs a later time. Final values stand at step 0 in all runs.

    Args:
        record: What the run is to hold.
        had: Its last values.
        birth: When it began, in ms since 1970.
        history: Asked for the curves that it has begun.
    """
    return [*_finals(record, had, birth), *_points(record, had, birth, history)]


def _finals(record: Record, had: Mapping[str, float], birth: int) -> Iterator[Value]:
    for name, value in record.metrics.items():
        if had.get(name) != value:
            yield name, value, _later(birth) if name in had else birth, 0


def _points(
    record: Record, had: Mapping[str, float], birth: int, history: History
) -> Iterator[Value]:
    for name, curve in record.curves.items():
        past = sorted(history(name) if name in had else (), key=lambda point: point.timestamp)
        held = {point.step: point.value for point in past}
        when = _later(birth) if held else birth
        for step, value in curve:
            if held.get(step) != value:
                yield name, value, when, step


def _later(birth: int) -> int:
    """Return the time in milliseconds, which is after `birth` whatever clocks say."""
    return max(time.time_ns() // 1_000_000, birth + 1)


def _source_of(dataset: Dataset) -> str:
    """Return where a dataset comes from, in MLflow's words for "from code"."""
    return json.dumps({"tags": {"mlflow.source.name": f"ulrl.datasets: {dataset.name}"}})
