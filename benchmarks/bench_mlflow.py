"""What MLflow's mirror costs: ``python -m benchmarks.bench_mlflow --runs 10000``.

Records are those of real trials in shape: 60 parameters, 33 final values, ten curves of twenty
epochs, tags and a dataset. Three things are measured: what the driver pays to offer a record, how
many a second the delivery thread brings to an SQLite file, empty and with all
runs in it, and how long MLflow takes for what its pages ask. All runs but a few hundred are
copies made by SQL of runs that were delivered, since only their number matters.
"""

import json
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks._common import options, report, table
from orchestrator.tracking.client import Experiment
from orchestrator.tracking.records import Dataset, Record
from orchestrator.tracking.sync import RunTable, SyncWorker, open_sync

DELIVERED = 200  # runs that are really delivered, before and after the copies
SCENARIOS = 40


def study() -> list[Record]:
    """Return the records of a study and its scenarios."""
    parent = Record(key="study", parent=None, name="many", status="RUNNING")
    attack = ("badnets", "blended", "sig", "wanet")
    scenarios = [
        Record(
            key=f"scenario-{number}",
            parent="study",
            name=f"scenario {number}",
            tags={"kind": "scenario", "attack": attack[number % 4]},
        )
        for number in range(SCENARIOS)
    ]
    return [parent, *scenarios]


def trial(number: int) -> Record:
    """Return a record like a trial's."""
    scenario = number % SCENARIOS
    value = (number * 7919 % 10_000) / 10_000
    settings = {f"parameter_{place:02d}": str(place) for place in range(56)}
    names = [f"value_{place:02d}" for place in range(32)]
    curves = [f"{stage}/{name}" for stage in ("unlearn", "relearn") for name in "abcde"]
    return Record(
        key=json.dumps({"trial": number, "padding": "x" * 200}),
        parent=f"scenario-{scenario}",
        name=f"unlearn_threshold={value}",
        params={**settings, "unlearn_threshold": str(value), "reinit_ratio": str(number % 5)},
        metrics={"der_report": value, **dict.fromkeys(names, value / 3)},
        curves={
            name: tuple((epoch, value / (epoch + 1)) for epoch in range(1, 21)) for name in curves
        },
        tags={
            "kind": "trial",
            "status": "pruned" if number % 10 == 0 else "done",
            "attack": ("badnets", "blended", "sig", "wanet")[scenario % 4],
            "best": str(number < SCENARIOS),
            **{f"tag_{place}": "some value" for place in range(8)},
        },
        datasets=(Dataset(name="cifar10", digest="0123456789abcdef", context="defence"),),
        began=1.7e9 + number,
        ended=1.7e9 + number + 30,
    )


def offer_costs(folder: Path, runs: int) -> dict[str, float]:
    """Return what offering records costs the driver while the server is away."""

    def away() -> Experiment:
        raise ConnectionError("nobody is there")

    process = psutil.Process()
    worker = SyncWorker(away, RunTable(folder / "alone.sqlite"), "study-id", "uri")
    for record in study():
        worker.record(record)
    before = process.memory_info().rss
    started = time.process_time()
    for number in range(runs):
        worker.record(trial(number))
    spent = time.process_time() - started
    held = process.memory_info().rss - before
    made = time.process_time()
    for number in range(runs):
        trial(number)
    made = time.process_time() - made
    worker.close(1)
    return {"offer_ms_per_record": 1000 * (spent - made) / runs, "offer_memory_mb": held / 1e6}


def deliver(folder: Path, first: int, count: int, limit: float) -> dict[str, float]:
    """Return how fast so many new trials arrive in the database of a folder."""
    uri = f"sqlite:///{folder}/mlflow.db"
    worker = open_sync(uri, "many", folder / "runs.sqlite", "study-id")
    for record in study():
        worker.record(record)
    worker.flush(limit)
    wall, cpu = time.perf_counter(), time.process_time()
    for number in range(first, first + count):
        worker.record(trial(number))
    worker.flush(limit)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    ended = worker.close(limit)
    if ended.left:
        raise RuntimeError(f"{ended.left} records did not arrive: {ended.error}")
    return {"per_s": count / wall, "cpu_ms": 1000 * cpu / count}


def copy_runs(database: Path, runs: int) -> None:
    """Fill a database up to so many runs with copies of the trials in it."""
    with closing(sqlite3.connect(database)) as connection:
        kinds = "select run_uuid from tags where key = 'kind' and value = 'trial'"
        trials = [row[0] for row in connection.execute(kinds)]
        ((there,),) = connection.execute("select count(*) from runs")
        connection.execute("create temp table copies (old text, new text)")
        pairs = [(trials[n % len(trials)], f"{n:032x}") for n in range(runs - there)]
        connection.executemany("insert into copies values (?, ?)", pairs)
        connection.execute("create index temp.copies_old on copies (old)")
        for table, holder in (
            *((name, "run_uuid") for name in ("runs", "params", "tags", "metrics")),
            *(("latest_metrics", "run_uuid"), ("inputs", "destination_id")),
        ):
            columns = [row[1] for row in connection.execute(f"pragma table_info({table})")]
            fresh = {holder: "copies.new", "input_uuid": "lower(hex(randomblob(16)))"}
            values = ", ".join(fresh.get(name, f"{table}.{name}") for name in columns)
            connection.execute(
                f"insert into {table} ({', '.join(columns)}) select {values} "  # noqa: S608
                f"from {table} join copies on {table}.{holder} = copies.old"
            )
        connection.commit()


def queries(folder: Path, times: int) -> dict[str, tuple[float, float]]:
    """Return what MLflow takes for what its pages ask: seconds, and of the CPU; medians."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("many")
    if experiment is None:
        raise RuntimeError("the study is not there")
    place = [experiment.experiment_id]
    (parent,) = client.search_runs(place, "tags.`mlflow.ulrl.key` = 'scenario-7'")
    child = client.search_runs(place, "tags.kind = 'trial'", max_results=1)[0]
    page: dict[str, Any] = {"max_results": 100}

    def search(query: str = "", order: str = "attributes.start_time DESC") -> Callable[[], Any]:
        return lambda: client.search_runs(place, query, order_by=[order], **page)

    asked: dict[str, Callable[[], Any]] = {
        "newest 100 runs": search(),
        "tags.attack = 'sig'": search("tags.attack = 'sig'"),
        "tags.best = 'True'": search("tags.best = 'True'"),
        "params.reinit_ratio = '3'": search("params.reinit_ratio = '3'"),
        "a scenario's trials": search(f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"),
        "metrics.der_report > 0.9": search("metrics.der_report > 0.9"),
        "all, by metrics.der_report": search(order="metrics.der_report DESC"),
        "a trial": lambda: client.get_run(child.info.run_id),
        "a curve": lambda: client.get_metric_history(child.info.run_id, "relearn/a"),
    }
    found = {}
    for name, ask in asked.items():
        taken = []
        for _ in range(times):
            wall, cpu = time.perf_counter(), time.process_time()
            ask()
            taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        walls, cpus = zip(*taken, strict=True)
        found[name] = (statistics.median(walls), statistics.median(cpus))
    return found


def main(argv: list[str] | None = None) -> None:
    """Print a row per figure and the line of JSON."""
    given = options(__doc__, runs=10_000, delivered=DELIVERED, asked=3).parse_args(argv)
    if given.quick:
        given.runs, given.delivered, given.asked = 100, 5, 1
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found: dict[str, Any] = offer_costs(folder, given.runs)
        empty = deliver(folder, 0, given.delivered, 3600)
        copy_runs(folder / "mlflow.db", given.runs)
        full = deliver(folder, given.delivered, given.delivered, 3600)
        asked = queries(folder, given.asked)
        found |= {f"delivery_empty_{name}": value for name, value in empty.items()}
        found |= {f"delivery_full_{name}": value for name, value in full.items()}
        found["database_mb"] = (folder / "mlflow.db").stat().st_size / 1e6
    found["driver_memory_mb"] = psutil.Process().memory_info().rss / 1e6
    rows = [[name, f"{value:,.2f}"] for name, value in found.items()]
    rows += [[name, f"{wall:.3f} s, {cpu:.3f} s of CPU"] for name, (wall, cpu) in asked.items()]
    table(["what", ""], rows)
    report(
        "mlflow",
        mlflow=version("mlflow"),
        runs=given.runs,
        delivered=2 * given.delivered,
        **found,
        query_s=asked,
    )


if __name__ == "__main__":
    main()
