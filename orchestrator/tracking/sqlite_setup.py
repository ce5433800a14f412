"""A local database for MLflow: it is whole or absent, whatever kill comes while it is made."""

import os
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from orchestrator.errors import sentence
from orchestrator.files import ASIDE, aside_of, remove_left
from orchestrator.plan.columns import count
from orchestrator.processes import scratch

QUIET = 30.0  # seconds without a change: no program is making this database any more


def database_file(uri: str) -> Path | None:
    """Return the file that an address of MLflow's means, or None if it means something else."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def ensure_database(path: Path) -> None:
    """Make the database if there is none; of two drivers that do, one comes first.

    MLflow itself makes the tables in place, over seconds, and cannot use a half of them. One
    that a kill left so, or of another MLflow's schema, is moved aside if it holds no run.

    Raises:
        RuntimeError: There is something that MLflow cannot use, or it cannot make one; the
            text says what to do.
    """
    if path.exists():
        written = path.stat().st_mtime  # before SQLite opens it, which may take a change back
        problem = _problem(path)
        if not problem:
            return
        _move_aside(path, problem, written)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left(path.parent.glob(f".{path.name}{ASIDE}"))
    partial = aside_of(path)
    with scratch() as folder:
        fresh = folder / path.name
        _make_tables(fresh)
        try:
            shutil.copyfile(fresh, partial)
            os.link(partial, path)  # unlike a rename, never onto what another driver has begun
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)


def _problem(path: Path) -> str:
    """Return why MLflow cannot use a database, or ""; its version is the last thing it gets."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    tables = {name for (name,) in _ask(path, "select name from sqlite_master")}
    made = "alembic_version" in tables and not any(t.startswith("_alembic_tmp") for t in tables)
    versions = _ask(path, "select version_num from alembic_version") if made else []
    if not versions:
        return "it is half made"
    latest = _get_latest_schema_revision()  # type: ignore[no-untyped-call]
    if versions[0][0] != latest:
        return f"its schema is {versions[0][0]}, this MLflow's is {latest}"
    return ""


def _move_aside(path: Path, problem: str, written: float) -> None:
    there = _ask(path, "select 1 from sqlite_master where type = 'table' and name = 'runs'")
    runs = int(_ask(path, "select count(*) from runs")[0][0]) if there else 0
    if runs:
        raise RuntimeError(
            f"MLflow cannot use {path}, with {count(runs, 'run')} in it: {problem}. Copy it, then "
            f"run: mlflow db upgrade sqlite:///{path}; if that fails move it away, and each "
            f"study's command writes its runs again"
        )
    if path.stat().st_size and time.time() - written < QUIET:
        raise RuntimeError(
            f"{path} is half made, by another program just now or until it was killed; once it "
            f"has been so for {QUIET:.0f} s it is made again"
        )
    for file in (path, path.with_name(f"{path.name}-journal")):
        if file.exists():
            file.rename(file.with_name(f"{file.name}.half-made-{uuid4().hex[:8]}"))


def _ask(path: Path, query: str) -> list[tuple[Any, ...]]:
    try:
        with closing(sqlite3.connect(path, timeout=20)) as connection:
            return list(connection.execute(query))
    except sqlite3.OperationalError as error:
        raise RuntimeError(f"{path} cannot be read: {error}") from error
    except sqlite3.DatabaseError as error:
        raise RuntimeError(
            f"{path} is no database of MLflow's ({error}); move it away, or name another with "
            f"mlflow.uri"
        ) from error


def _make_tables(path: Path) -> None:
    from mlflow.store.db import utils as untyped

    utils: Any = untyped
    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    try:
        utils._initialize_tables(engine)  # noqa: SLF001 - as `mlflow db upgrade` does it
    except Exception as error:
        raise RuntimeError(f"MLflow cannot make {path.name}: {sentence(error)}") from error
    finally:
        engine.dispose()
