"""MLflow's client: experiments, runs, metrics and the model registry."""

import getpass
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from orchestrator.processes import commit, scratch
from orchestrator.tracking.records import Record, digest_of
from orchestrator.tracking.sqlite_setup import database_file, ensure_database
from orchestrator.tracking.views import DESCRIPTION, ID, LINK

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Run


@cache
def load(*, file: bool) -> None:
    """Import what an `Experiment` needs of MLflow, and of what MLflow itself needs.

    MLflow's modules import each other in circles. Two threads that meet inside such a circle
    break each other's import, and Tune imports MLflow in the main thread whether asked to or
    not. So this is to be called there, before another thread may need it.

    Args:
        file: Whether the experiment is in a database file of MLflow's own.
    """
    kind = "sqlalchemy_store" if file else "rest_store"
    names = ["mlflow.models", "mlflow.tracking", f"mlflow.store.tracking.{kind}"]
    names += [f"mlflow.store.model_registry.{kind}", *(["mlflow.store.db.utils"] if file else [])]
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


# Tags that begin with "mlflow." are not shown to a person.
KEY, STUDY = "mlflow.ulrl.key", "mlflow.ulrl.study"
FORMER_KEY, FORMER_STUDY = "ulrl.key", "ulrl.study"  # of earlier versions
PLACE, MODEL = "ulrl.place", "ulrl.model"
MISSING, NOW = "ulrl.missing", "ulrl.now."
LONGEST_NAME = 200  # characters of a model's


class Experiment:
    """One of MLflow's experiments, connected when constructed. Any method may raise anything.

    Attributes:
        name: The same wherever the experiment is reached, another one when it is made again.
        id: MLflow's.
    """

    def __init__(self, uri: str, name: str) -> None:
        # Filters of warnings are the process's, not the thread's, hence only by module.
        warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)\b")
        database = database_file(uri)
        if database is not None:
            ensure_database(database)  # before MLflow opens what may be moved aside
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"].upper())
        self._client = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None  # a server's own choice; for a file, MLflow's depends on the cwd
            if database is not None:
                location = (database.parent / "mlartifacts" / name).as_uri()
            self.name = uuid4().hex
            self.id = self._client.create_experiment(name, location, tags={PLACE: self.name})
        else:
            self.id = experiment.experiment_id
            if experiment.lifecycle_stage != "active":
                self._client.restore_experiment(self.id)
            self.name = experiment.tags.get(PLACE) or uuid4().hex
            if PLACE not in experiment.tags:
                self._client.set_experiment_tag(self.id, PLACE, self.name)

    def answers(self) -> bool:
        """Return whether the experiment is there to be written."""
        return self._client.get_experiment(self.id).lifecycle_stage == "active"

    def find(self, study: str, key: str | None = None) -> dict[str, str]:
        """Return run ids by key of the runs made for `study`, at least that of `key`."""
        runs: dict[str, str] = {}
        for of, by in ((FORMER_STUDY, FORMER_KEY), (STUDY, KEY)):
            query = f"tags.`{of}` = '{study}'"
            if key is not None and "'" not in key:  # which nothing escapes
                query += f" and tags.`{by}` = '{key}'"
            runs |= {run.data.tags[by]: run.info.run_id for run in self._search(query)}
        return runs

    def deleted(self, study: str) -> set[str]:
        """Return the ids of runs made for `study` that the user deleted."""
        from mlflow.entities import ViewType

        queries = [f"tags.`{of}` = '{study}'" for of in (FORMER_STUDY, STUDY)]
        return {run.info.run_id for q in queries for run in self._search(q, ViewType.DELETED_ONLY)}

    def _search(self, query: str, view: int = 1) -> "Iterator[Run]":
        """Yield the runs that a filter finds; the view is MLflow's, 1 is of active runs."""
        token = None
        while True:
            page = self._client.search_runs([self.id], query, view, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _get(self, run: str | None) -> "Run | None":
        """Return a run, or None if there is none or the user deleted it."""
        there = found(self._client.get_run, run) if run else None
        active = there is not None and there.info.lifecycle_stage == "active"
        return there if active else None

    def upsert(
        self, study: str, record: Record, parent: str, run: str | None, former: Collection[str]
    ) -> tuple[str, tuple[str, ...]]:
        """Make a run hold `record`, and return its id and the names of the tags that were set.

        Args:
            study: Identifier of the study.
            record: What the run is to hold.
            parent: Id of the run above it, or "".
            run: Id of the run; "" if a kill may have hidden it, None if there is none yet.
            former: Names of tags that were set before; those that the record lacks go.
        """
        there = self._get(run)
        if there is None and run == "":
            there = self._get(self.find(study, record.key).get(record.key))
        if there is None:
            # Key and study are there from the start: the run is found if a kill follows.
            tags = {KEY: record.key, STUDY: study, **_made_by(), **_tags(record, parent)}
            began = None if record.began is None else round(1000 * record.began)
            there = self._client.create_run(self.id, start_time=began, tags=tags)
        run = there.info.run_id
        names = self._update(there, record, parent, former)
        if record.experiment:
            self._describe(record.experiment)
        if there.info.status != record.status and record.status == "RUNNING":
            self._client.update_run(run, status=record.status)
        elif there.info.status != record.status:
            ended = None if record.ended is None else round(1000 * record.ended)
            self._client.set_terminated(run, record.status, ended)
        return run, names

    def _describe(self, tags: Mapping[str, str]) -> None:
        """Set tags of the experiment, but leave a description that a person wrote."""
        had = self._client.get_experiment(self.id).tags
        own = LINK in had.get(DESCRIPTION, LINK)
        for name, value in tags.items():
            text = value.replace(ID, self.id)
            if had.get(name) != text and (own or name != DESCRIPTION):
                self._client.set_experiment_tag(self.id, name, text)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run, if it is there."""
        if self._get(run) is not None:
            for name, value in tags.items():
                self._client.set_tag(run, name, value)

    def _update(
        self, run: "Run", record: Record, parent: str, former: Collection[str]
    ) -> tuple[str, ...]:
        from mlflow.entities import Metric, Param, RunTag

        tags, name_of = _tags(record, parent), run.info.run_id
        params = run.data.params
        for name, value in record.params.items():
            if params.get(name, value) != value:  # MLflow's params cannot be changed
                tags[NOW + name] = value
        for name in set(former) - set(tags):
            if name in run.data.tags:
                self._client.delete_tag(name_of, name)
        values = _missing_values(record, run, self._client.get_metric_history)
        self._client.log_batch(
            name_of,
            metrics=[Metric(*value) for value in values],
            params=[Param(n, v) for n, v in record.params.items() if n not in params],
            tags=[RunTag(n, v) for n, v in tags.items() if run.data.tags.get(n) != v],
        )
        inputs = list(_inputs(run, record))
        if inputs:
            self._client.log_inputs(name_of, inputs)
        missing = []
        for file, folder in record.artifacts:
            if Path(file).is_file():
                self._client.log_artifact(name_of, file, folder or None)
            else:
                missing.append(Path(file).name)
        if missing:
            tags[MISSING] = ", ".join(missing)
            self._client.set_tag(name_of, MISSING, tags[MISSING])
        if record.model is None and run.outputs and run.outputs.model_outputs:
            self._delete_models(name_of)
        return tuple(tags)

    def log_model(self, run: str, record: Record, make: Callable[[Path], bool]) -> bool:
        """Make the run's model the record's, as mlflow.pytorch.log_model would.

        Args:
            run: The run's id.
            record: With a model.
            make: Makes a folder with the model in it; returns False if its weights are gone.

        Returns:
            Whether the run has its model.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
        from mlflow.models import Model

        digest = digest_of(record.model)
        model = self._delete_models(run, digest)
        if not model:
            with scratch() as place:
                folder = place / "model"
                if not make(folder):
                    self._client.set_tag(run, MISSING, "model")
                    return False
                home = self._client.create_logged_model(
                    self.id, model_name(record.name), run, {MODEL: digest}, dict(record.params)
                )
                model = str(home.model_id)
                self._client.log_outputs(run, [LoggedModelOutput(model, step=0)])
                content = {
                    **Model.load(str(folder)).to_dict(),
                    "artifact_path": home.artifact_location,
                    "run_id": run,
                    "model_uuid": model,
                    "model_id": model,
                }
                Model.from_dict(content).save(str(folder / "MLmodel"))
                self._client.log_model_artifacts(model, str(folder))
            began = self._client.get_run(run).info.start_time
            values = record.metrics.items()
            points = [Metric(name, value, began, 0, model_id=model) for name, value in values]
            self._client.log_batch(run, metrics=points)
            self._client.finalize_logged_model(model, LoggedModelStatus.READY)
        if record.registered:
            had = self._client.get_run(run).data.tags
            tags = {STUDY: had.get(STUDY) or had[FORMER_STUDY]}
            register(self._client, record.registered, model, run, tags)
        return True

    def _delete_models(self, run: str, but: str = "") -> str:
        """Delete a run's models but for the whole one of digest `but`, whose id is returned."""
        left = ""
        query = f"source_run_id = '{run}'"
        for model in self._client.search_logged_models([self.id], query):
            if model.tags.get(MODEL) == but and str(model.status) == "READY":
                left = str(model.model_id)
            elif MODEL in model.tags:
                self._client.delete_logged_model(model.model_id)
        return left


def _inputs(run: "Run", record: Record) -> "Iterator[DatasetInput]":
    """Yield the datasets of a record that its run does not show yet."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    shown = run.inputs.dataset_inputs if run.inputs else ()
    had = {(one.dataset.name, one.dataset.digest) for one in shown}
    for one in record.datasets:
        if (one.name, one.digest) not in had:
            facts = json.dumps(dict(one.facts))
            source = {"tags": {"mlflow.source.name": f"ulrl.datasets: {one.name}"}}
            yield DatasetInput(
                Dataset(one.name, one.digest, "code", json.dumps(source), profile=facts),
                [InputTag("mlflow.data.context", one.context)],
            )


@cache
def _made_by() -> dict[str, str]:
    """Return who makes a run, and with which commit of this project."""
    with suppress(OSError, KeyError):  # a user without a name
        user = {"mlflow.user": getpass.getuser()}
    return {**user, **({"mlflow.source.git.commit": made} if (made := commit()) else {})}


def model_name(text: str) -> str:
    """Return a run's name as the name of its model, in which MLflow admits fewer characters."""
    return re.sub(r"[^\w=,+ -]+", "-", text)[:LONGEST_NAME].strip("- ,") or "model"


def _tags(record: Record, parent: str) -> dict[str, str]:
    tags = {**record.tags, "mlflow.runName": record.name, "mlflow.source.name": "orchestrator"}
    return {**tags, "mlflow.parentRunId": parent} if parent else tags


def _missing_values(
    record: Record, run: "Run", history: Callable[[str, str], list[Any]]
) -> Iterator[tuple[str, float, int, int]]:
    """Yield name, value, time and step of the values of `record` that its run does not hold yet.

    A value's time is the run's start, so that sending it twice is sending it once; a value
    that takes another's place needs a later time. Final values stand at step 0 in all runs.
    """
    had, began = run.data.metrics, run.info.start_time
    later = max(time.time_ns() // 1_000_000, began + 1)  # whatever clocks say
    for name, value in record.metrics.items():
        if had.get(name) != value:
            yield name, value, later if name in had else began, 0
    for name, curve in record.curves.items():
        past = history(run.info.run_id, name) if name in had else []
        held = {p.step: p.value for p in sorted(past, key=lambda point: point.timestamp)}
        for step, value in curve:
            if held.get(step) != value:
                yield name, value, later if held else began, step
