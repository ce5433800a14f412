"""Runs that are written whole, against the same runs as MLflow's client writes them."""

import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.tracking import bulk_insert
from orchestrator.tracking.bulk_insert import TABLES, BulkInsert
from orchestrator.tracking.records import Dataset, Record
from orchestrator.tracking.sqlite_setup import ensure_database
from orchestrator.tracking.tracker import Tracker

DIGITS = Dataset(name="digits", digest="beef", context="defence", facts={"images": 64})
STUDY = Record(key="study", parent=None, name="demo", status="RUNNING", began=1e9)
SCENARIO = Record(
    key="scenario",
    parent="study",
    name="badnets digits é",
    params={"attack": "badnets", "alpha": "0.1"},
    metrics={"acc": 0.1 + 0.2, "seconds/train_victim": 5e-324},
    curves={"train/acc": ((1, 1 / 3), (2, 2 / 3))},
    tags={"attack": "badnets", "empty": ""},
    status="FAILED",
    datasets=(DIGITS, replace(DIGITS, name="other"), replace(DIGITS, context="second")),
    began=1e9 + 0.2504,
    ended=1e9 + 7.5,
)
TRIAL = Record(
    key='it\'s "a" trial',
    parent="scenario",
    name="threshold 0.2",
    params={f"p{number}": str(number) for number in range(130)},
    metrics={"der": 1 - 2**-53, "asr": -0.0, "acc": 3.0},
    curves={
        "relearn/acc": tuple((epoch, epoch / 7) for epoch in range(20)),
        "system/cpu": ((1_000_000_031, 75.0), (1_000_000_001, 50.0)),
        "none": (),
    },
    tags={"attack": "badnets", "status": "done", "ulrl.flagged": "[0, 3]"},
    datasets=(DIGITS,),
    began=1e9 + 1,
    ended=1e9 + 8,
)
TREE = (STUDY, SCENARIO, TRIAL)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    return path


@pytest.fixture
def database(tmp_path: Path, template: Path) -> Path:
    return Path(shutil.copyfile(template, tmp_path / "mlflow.db"))


def send(database: Path, *records: Record) -> None:
    """Send records to a database from a folder of its own, with nothing known there yet."""
    outbox = database.with_suffix(".jsonl")
    tracker = Tracker(uri=f"sqlite:///{database}", experiment="demo", outbox=outbox)
    for record in records:
        tracker.record(record)
    ended = tracker.close(60)
    assert (ended.left, ended.error) == (0, None)


def rows(database: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.execute(query))


def content(database: Path) -> dict[str, list[str]]:
    """Return the tables of runs, with a name for each id that MLflow made up."""
    names = dict(rows(database, "select run_uuid, name from runs"))
    names |= dict(rows(database, "select dataset_uuid, name from datasets"))
    edges = "select input_uuid, source_id, destination_id from inputs"
    names |= {one: f"{names[a]} of {names[b]}" for one, a, b in rows(database, edges)}
    studies = rows(database, "select value from tags where key = 'ulrl.study'")
    names |= {one: "study tag" for (one,) in studies}
    names[str(database.parent)] = "folder"

    def named(row: tuple[Any, ...]) -> str:
        text = repr(row)
        for old, new in names.items():
            text = text.replace(old, new)
        return text

    return {
        table: sorted(
            map(named, rows(database, f"select {', '.join(columns.split())} from {table}"))
        )
        for table, columns in TABLES.items()
    }


def by_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BulkInsert, "write", lambda *_: "")


def calls_of_client(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with the runs that MLflow's client makes."""
    from mlflow import MlflowClient

    made = []
    create = MlflowClient.create_run

    def counted(self: MlflowClient, *arguments: Any, **options: Any) -> Any:
        made.append(options["tags"]["ulrl.key"])
        return create(self, *arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_run", counted)
    return made


def test_it_is_what_the_client_writes_to_the_byte(
    database: Path, tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of_client(monkeypatch)
    back = ((2, 0.5), (1, 0.75), (2, 0.5), (2, 0.25))
    tree = STUDY, SCENARIO, replace(TRIAL, curves={**TRIAL.curves, "comes back": back})
    send(database, *tree)
    assert made == []
    other = tmp_path / "client" / "mlflow.db"
    other.parent.mkdir()
    shutil.copyfile(template, other)
    by_client(monkeypatch)
    send(other, *tree)
    assert made == [record.key for record in TREE]
    whole = content(database)
    assert whole == content(other)
    assert [len(whole[table]) for table in ("runs", "params", "metrics")] == [3, 132, 32]
    assert not re.search(r"[0-9a-f]{32}", str(whole))


def test_what_follows_finds_nothing_to_add(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    send(database, *TREE)
    before = content(database)
    database.with_suffix(".jsonl").unlink()
    by_client(monkeypatch)
    send(database, *TREE)
    assert content(database) == before


def test_a_changed_record_goes_on_in_the_run(database: Path) -> None:
    send(database, *TREE)
    longer = {**TRIAL.curves, "relearn/acc": (*TRIAL.curves["relearn/acc"], (20, 0.125))}
    send(database, replace(TRIAL, curves=longer, metrics={**TRIAL.metrics, "ra": 0.5}))
    assert len(rows(database, "select * from runs")) == 3
    assert len(rows(database, "select * from metrics")) == 31


@pytest.mark.parametrize(
    "odd",
    [
        replace(TRIAL, params={"a-name/with, commas? no": "1"}),
        replace(TRIAL, name=""),
        replace(TRIAL, tags={"x" * 251: "long"}),
        replace(TRIAL, metrics={"../up": 1.0}),
        replace(TRIAL, metrics={"a//b": 1.0}),
        replace(TRIAL, datasets=(replace(DIGITS, digest="d" * 37),)),
    ],
)
def test_what_is_odd_is_left_to_the_client(database: Path, odd: Record) -> None:
    place = BulkInsert(database, "0")
    assert place.write(odd, odd.tags) == ""
    assert rows(database, "select * from runs") == []


def test_what_the_client_does_better_is_left_to_it(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of_client(monkeypatch)
    report = tmp_path / "report.html"
    report.write_text("<p>report")
    send(database, STUDY, replace(SCENARIO, artifacts=((str(report), ""),)), TRIAL)
    assert made == ["scenario"]
    assert list(tmp_path.rglob("artifacts/report.html"))


@pytest.mark.parametrize(
    "change",
    ["alter table runs add column owner text", "alter table metrics rename column step to place"],
)
def test_tables_of_another_mlflow_are_left_alone(database: Path, change: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(change)
    assert BulkInsert(database, "0").write(STUDY, {}) == ""


def test_an_experiment_that_is_not_there_to_be_written_is_left_alone(database: Path) -> None:
    send(database, STUDY)
    place = BulkInsert(database, "1")
    assert BulkInsert(database, "7").write(TRIAL, {}) == ""
    assert place.write(TRIAL, {}) != ""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("update experiments set lifecycle_stage = 'deleted'")
        connection.commit()
    assert place.write(TRIAL, {}) == ""


def test_a_failure_half_way_leaves_nothing_and_the_client_goes_on(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = bulk_insert._fill

    def failing(connection: sqlite3.Connection, table: str, some: Any) -> None:
        if table == "input_tags":
            raise sqlite3.OperationalError("disk I/O error")
        fill(connection, table, some)

    monkeypatch.setattr(bulk_insert, "_fill", failing)
    made = calls_of_client(monkeypatch)
    send(database, *TREE)
    assert made == ["scenario", TRIAL.key]
    monkeypatch.undo()
    assert len(rows(database, "select * from runs")) == 3
    assert len(rows(database, "select * from input_tags")) == 3


def test_a_database_that_another_program_writes_is_waited_for_and_then_left_to_the_client(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_insert, "BUSY", 0.05)
    send(database, STUDY)
    place = BulkInsert(database, "1")
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        assert place.write(TRIAL, {}) == ""
    assert place.write(TRIAL, {}) != ""
