"""A database that a kill left half made is mended or named, and never costs a run."""

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.tracking import sqlite_setup
from orchestrator.tracking.records import Record
from orchestrator.tracking.sqlite_setup import database_file, ensure_database
from orchestrator.tracking.sync import open_sync

STUDY = Record(key="study", parent=None, name="demo")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    return path


@pytest.fixture(autouse=True)
def _quick(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whole databases be copies: how MLflow makes one is seen elsewhere."""
    monkeypatch.setattr(
        sqlite_setup, "_make_tables", lambda fresh: shutil.copyfile(template, fresh)
    )


def send(path: Path) -> tuple[int, str | None]:
    """Return how many records a driver did not get into a database, and why."""
    worker = open_sync(f"sqlite:///{path}", "demo", path.with_name("mlflow.sqlite"), "study-id")
    worker.record(STUDY)
    delivery = worker.close(60)
    return delivery.left, delivery.error


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def grow_old(path: Path) -> None:
    os.utime(path, (time.time() - 60, time.time() - 60))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.half-made-*"))


HALVES = {
    "empty": None,
    "no version": ("delete from alembic_version",),
    "a migration that began": ("create table _alembic_tmp_runs (name text)",),
}


@pytest.mark.parametrize("half", HALVES)
def test_halves_are_mended(half: str, tmp_path: Path, template: Path) -> None:
    path = tmp_path / "mlflow.db"
    if half == "empty":
        path.touch()
    else:
        shutil.copyfile(template, path)
    change(path, *(HALVES[half] or ()))
    grow_old(path)
    assert send(path) == (0, None)


def test_a_half_that_somebody_may_be_making_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    change(path, "create table experiments (name text)")
    left, error = send(path)
    assert left == 1
    assert error is not None
    assert error.startswith(f"{path} is half made, by another program just now or until it was")
    assert leftovers(tmp_path) == []


def test_runs_are_never_moved_aside(tmp_path: Path, template: Path) -> None:
    path = tmp_path / ("long" * 50) / "mlflow.db"  # however long, the way out is there
    path.parent.mkdir()
    shutil.copyfile(template, path)
    assert send(path) == (0, None)
    change(path, "delete from alembic_version")
    grow_old(path)
    path.with_name("mlflow.sqlite").unlink()
    left, error = send(path)
    assert left == 1
    assert error is not None
    assert error.startswith(f"MLflow cannot use {path}, with 1 run in it: it is half made. Copy")
    assert f"mlflow db upgrade sqlite:///{path}; if that fails move it away" in error
    assert leftovers(path.parent) == []


@pytest.mark.parametrize("version", ["451aebb31d03", "ffffffffffff"])  # earlier, and later
def test_another_mlflows_schema_is_named_and_costs_no_run(
    version: str, tmp_path: Path, template: Path
) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    change(path, f"update alembic_version set version_num = '{version}'")
    grow_old(path)
    empty = tmp_path / "empty" / "mlflow.db"
    empty.parent.mkdir()
    shutil.copy2(path, empty)
    change(path, "insert into runs (run_uuid, experiment_id) values ('a', 0)")
    grow_old(path)
    before = path.read_bytes()
    left, error = send(path)
    assert left == 1
    assert error is not None
    assert re.match(rf"MLflow cannot use {path}, with 1 run in it: .*{version}.*Copy it, ", error)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []
    assert send(empty) == (0, None)  # made again, since it holds no run
    assert len(leftovers(empty.parent)) == 1


def test_another_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("no database at all, but something that somebody wants to keep\n" * 50)
    left, error = send(path)
    assert left == 1
    assert error is not None
    assert error.startswith(f"{path} is no database of MLflow's (file is not a database); move it")


def test_a_kill_while_the_database_is_made_leaves_none(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    dying = f"""
import os, shutil
from pathlib import Path
from orchestrator.tracking import sqlite_setup
sqlite_setup._make_tables = lambda fresh: None
shutil.copyfile = lambda fresh, partial: (partial.write_bytes(b"half"), os._exit(9))
sqlite_setup.ensure_database(Path({str(path)!r}))
"""
    done = subprocess.run([sys.executable, "-c", dying], check=False)
    assert done.returncode == 9
    assert not path.exists()
    monkeypatch.setattr(
        sqlite_setup, "_make_tables", lambda fresh: shutil.copyfile(template, fresh)
    )
    ensure_database(path)
    assert path.read_bytes() == template.read_bytes()


def test_drivers_that_make_the_database_at_once_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    meet = threading.Barrier(4, timeout=60)  # one that fails must not hold the others

    def tables(fresh: Path) -> None:
        fresh.write_text(threading.current_thread().name)
        meet.wait()

    monkeypatch.setattr(sqlite_setup, "_make_tables", tables)
    threads = [threading.Thread(target=ensure_database, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {thread.name for thread in threads}
    assert list(tmp_path.iterdir()) == [path]


def test_only_files_of_sqlite_are_made() -> None:
    assert database_file("sqlite:////data/mlflow.db?timeout=5") == Path("/data/mlflow.db")
    assert database_file("sqlite:///runs/mlflow.db") == Path.cwd() / "runs" / "mlflow.db"
    assert database_file("sqlite:///:memory:") is None
    assert database_file("http://server:5000") is None
    assert database_file("postgresql://server/mlflow") is None
