"""A local database for MLflow: it is whole or absent, whatever kill comes while it is made."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

TIMEOUT = 300  # seconds; the tables take 2 to 8


def database_file(uri: str) -> Path | None:
    """Return the file that an address of MLflow's means, or None if it means something else."""
    if not uri.startswith("sqlite:///"):
        return None
    name = uri.removeprefix("sqlite:///").partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def ensure_database(path: Path) -> None:
    """Make the database if there is none; of two drivers that do, one comes first.

    MLflow itself would make the tables in place, over seconds, and cannot use a half of them.

    Raises:
        RuntimeError: MLflow cannot make it; the text is its own.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.part")
    with TemporaryDirectory() as scratch:
        fresh = Path(scratch, path.name)
        _make_tables(fresh)
        try:
            shutil.copyfile(fresh, partial)
            os.link(partial, path)  # unlike a rename, never onto what another driver has begun
        except FileExistsError:
            pass
        finally:
            partial.unlink(missing_ok=True)


def _make_tables(path: Path) -> None:
    # In a process of its own: migrations rest on global state, which Optuna's use too.
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{path}"]
    done = subprocess.run(  # noqa: S603 - nothing in it but our interpreter and our path
        command, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no word of why"]
        raise RuntimeError(f"MLflow cannot make {path.name}: {lines[-1]}")
