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

MAKE_TABLES = sqlite_setup._make_tables
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


def kill_half_way(path: Path) -> None:
    """Let MLflow make a database, and kill it when some of the tables are there."""
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as making:
        until = time.monotonic() + 120
        while not (path.exists() and path.stat().st_size > 40_000) and time.monotonic() < until:
            time.sleep(0.005)
        making.kill()


def test_what_mlflow_was_making_when_it_was_killed_is_made_anew(
    tmp_path: Path, template: Path
) -> None:
    path = tmp_path / "mlflow.db"
    whole = template.stat().st_size
    for _ in range(5):  # the kill may come too late where this process has to wait for its turn
        path.unlink(missing_ok=True)
        kill_half_way(path)
        if path.exists() and path.stat().st_size < whole:
            break
    assert 40_000 < path.stat().st_size < whole
    grow_old(path)
    assert send(path) == (0, None)
    with closing(sqlite3.connect(path)) as connection:
        ((runs,),) = connection.execute("select count(*) from runs")
    assert runs == 1


def test_a_change_that_a_kill_cut_in_two_makes_no_half_look_young(
    tmp_path: Path, template: Path
) -> None:
    path, other = tmp_path / "mlflow.db", tmp_path / "other.db"
    shutil.copyfile(template, other)
    change(other, "delete from alembic_version")
    with closing(sqlite3.connect(other, isolation_level=None)) as connection:
        connection.execute("pragma cache_size = 1")  # so that a change is written before its end
        connection.execute("begin")
        connection.execute("update experiments set name = 'x'")
        connection.execute("create table filler as select hex(randomblob(100000)) as text")
        for end in ("", "-journal"):
            shutil.copyfile(f"{other}{end}", f"{path}{end}")
    assert path.with_name("mlflow.db-journal").stat().st_size > 0
    grow_old(path)
    assert send(path) == (0, None)


HALVES = {
    "empty": None,
    "a table": ("create table experiments (name text)",),
    "no version": ("delete from alembic_version",),
    "a migration that began": ("create table _alembic_tmp_runs (name text)",),
}


@pytest.mark.parametrize("half", HALVES)
def test_halves_are_mended(half: str, tmp_path: Path, template: Path) -> None:
    path = tmp_path / "mlflow.db"
    if half in ("empty", "a table"):
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
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    assert send(path) == (0, None)
    change(path, "delete from alembic_version")
    grow_old(path)
    (tmp_path / "mlflow.sqlite").unlink()
    left, error = send(path)
    assert left == 1
    assert error is not None
    assert error.startswith(f"MLflow cannot use {path}, with 1 runs in it: it is half made. Copy")
    assert f"mlflow db upgrade sqlite:///{path}; if that fails move it away" in error
    assert leftovers(tmp_path) == []


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
    assert re.match(rf"MLflow cannot use {path}, with 1 runs in it: .*{version}.*Copy it, ", error)
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
    meet = threading.Barrier(4)

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


def test_a_database_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(sqlite_setup, "_make_tables", MAKE_TABLES)
    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", fail)
    with pytest.raises(RuntimeError, match=r"^MLflow cannot make mlflow\.db: no space$"):
        ensure_database(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_sqlite_are_made() -> None:
    assert database_file("sqlite:////data/mlflow.db?timeout=5") == Path("/data/mlflow.db")
    assert database_file("sqlite:///runs/mlflow.db") == Path.cwd() / "runs" / "mlflow.db"
    assert database_file("sqlite:///:memory:") is None
    assert database_file("http://server:5000") is None
    assert database_file("postgresql://server/mlflow") is None
