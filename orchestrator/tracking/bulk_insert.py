"""New runs as one transaction in MLflow's own SQLite file.

MLflow's client takes four calls and six transactions for a run with numbers in it, through an
object for each number: 50 ms of CPU time for a trial. Here it is one transaction of a
few. What is unusual in any way is left to the client, which also says what is wrong with it.
"""

import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

from orchestrator.tracking.records import LONGEST_PARAM, LONGEST_TAG, Dataset, Record
from orchestrator.tracking.sqlite_setup import columns_of

Value: TypeAlias = tuple[str, float, int, int]  # name, value, time in ms since 1970, step
History: TypeAlias = Callable[[str], list[Any]]  # a metric's values so far, by its name

SYSTEM = "system/"  # metrics of the machine: their steps are seconds since 1970


def lacking(record: Record, had: Mapping[str, float], birth: int, history: History) -> list[Value]:
    """Return the values of `record` that a run has not got.

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
                yield name, value, 1000 * step if name.startswith(SYSTEM) else when, step


def _later(birth: int) -> int:
    """Return the time in milliseconds, which is after `birth` whatever clocks say."""
    return max(time.time_ns() // 1_000_000, birth + 1)


TABLES = {  # as MLflow 3.17 has them
    "runs": "run_uuid name source_type source_name entry_point_name user_id status start_time "
    "end_time source_version lifecycle_stage artifact_uri experiment_id deleted_time",
    "tags": "key value run_uuid",
    "params": "key value run_uuid",
    "metrics": "key value timestamp run_uuid step is_nan",
    "latest_metrics": "key value timestamp step is_nan run_uuid",
    "datasets": "dataset_uuid experiment_id name digest dataset_source_type dataset_source "
    "dataset_schema dataset_profile",
    "inputs": "input_uuid source_type source_id destination_type destination_id step",
    "input_tags": "input_uuid name value",
}
PLAIN = re.compile(r"\w[\w .:-]*(/\w[\w .:-]*)*", re.ASCII)  # names that MLflow takes as they are
LONGEST_NAME, LONGEST_DIGEST, LONGEST_CONTEXT = 250, 36, 500
BUSY = 20.0  # seconds to wait for another writer, as MLflow does


class BulkInsert:
    """Writes new runs of one experiment, each whole or not at all.

    Args:
        path: A database that MLflow made.
        experiment: The experiment's id.
    """

    def __init__(self, path: Path, experiment: str) -> None:
        self._path, self._experiment = path, int(experiment)
        self._usual = all(
            columns_of(path, table) == set(columns.split()) for table, columns in TABLES.items()
        )

    def write(self, record: Record, tags: Mapping[str, str]) -> str:
        """Return the id of a new run that holds `record` with `tags`, "" if it was not made."""
        if not (self._usual and _usual(record, tags)):
            return ""
        run = uuid4().hex
        try:
            with closing(self._connect()) as database:
                database.execute("begin immediate")
                home = self._home(database)
                if not home:
                    return ""
                self._insert(database, run, f"{home}/{run}/artifacts", record, tags)
                database.execute("commit")
        except sqlite3.Error:
            return ""
        return run

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=BUSY, isolation_level=None)

    def _home(self, database: sqlite3.Connection) -> str:
        """Return the folder of the experiment's files if it is there to be written, else ""."""
        query = "select artifact_location, lifecycle_stage from experiments where experiment_id = ?"
        home, stage = database.execute(query, (self._experiment,)).fetchone() or ("", "")
        simple = ":/" in home and not set(home) & set("?#")
        return home if stage == "active" and simple else ""

    def _insert(
        self,
        database: sqlite3.Connection,
        run: str,
        files: str,
        record: Record,
        tags: Mapping[str, str],
    ) -> None:
        now = time.time_ns() // 1_000_000
        began = now if record.began is None else round(1000 * record.began)
        ended = now if record.ended is None else round(1000 * record.ended)
        end = None if record.status == "RUNNING" else ended
        words = (run, record.name, "UNKNOWN", "", "", "unknown", record.status, began, end)
        _fill(database, "runs", [(*words, "", "active", files, self._experiment, None)])
        _fill(database, "tags", ((name, value, run) for name, value in tags.items()))
        _fill(database, "params", ((name, value, run) for name, value in record.params.items()))
        values = dict.fromkeys(lacking(record, {}, began, lambda _: []))
        _fill(database, "metrics", ((n, v, when, run, step, 0) for n, v, when, step in values))
        latest: dict[str, tuple[int, int, float]] = {}
        for name, value, when, step in values:
            latest[name] = max((step, when, value), latest.get(name, (step, when, value)))
        _fill(
            database,
            "latest_metrics",
            ((name, v, when, step, 0, run) for name, (step, when, v) in latest.items()),
        )
        contexts = {self._dataset(database, one): one.context for one in record.datasets[::-1]}
        for source, context in contexts.items():
            edge = uuid4().hex
            _fill(database, "inputs", [(edge, "DATASET", source, "RUN", run, 0)])
            _fill(database, "input_tags", [(edge, "mlflow.data.context", context)])

    def _dataset(self, database: sqlite3.Connection, dataset: Dataset) -> str:
        place = (self._experiment, dataset.name, dataset.digest)
        query = "select dataset_uuid from datasets where (experiment_id, name, digest) = (?, ?, ?)"
        found = database.execute(query, place).fetchone()
        if found is not None:
            return str(found[0])
        fresh, facts = uuid4().hex, json.dumps(dict(dataset.facts))
        _fill(database, "datasets", [(fresh, *place, "code", source_of(dataset), None, facts)])
        return fresh


def source_of(dataset: Dataset) -> str:
    """Return where a dataset comes from, in MLflow's words for "from code"."""
    return json.dumps({"tags": {"mlflow.source.name": f"ulrl.datasets: {dataset.name}"}})


def _fill(database: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    columns = TABLES[table].split()
    places = ", ".join("?" * len(columns))
    names = ", ".join(columns)
    database.executemany(f"insert into {table} ({names}) values ({places})", rows)  # noqa: S608


def _usual(record: Record, tags: Mapping[str, str]) -> bool:
    """Return whether MLflow's client would write exactly what the record says, in one go."""
    if record.artifacts or record.model is not None or not record.name:
        return False
    names = (*tags, *record.params, *record.metrics, *record.curves)
    return (
        all(len(name) <= LONGEST_NAME and PLAIN.fullmatch(name) for name in names)
        and all(len(value) <= LONGEST_TAG for value in tags.values())
        and all(len(value) <= LONGEST_PARAM for value in record.params.values())
        and all(
            len(one.digest) <= LONGEST_DIGEST and len(one.context) <= LONGEST_CONTEXT
            for one in record.datasets
        )
    )
