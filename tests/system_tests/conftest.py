"""Studies that several tests look at, run once."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.tracking.sqlite_setup import ensure_database
from tests.system_tests.commands import SMALL, Command

LONGEST = ("kills", "cluster", "executors", "command", "leftovers", "search", "plugins", "limits")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first, so that no process is left alone with one at the end."""

    def rank(item: pytest.Item) -> int:
        name = item.path.stem.removeprefix("test_")
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with Command(tmp_path) as command:
        yield command


@pytest.fixture(scope="session")
def made_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with no run in it."""
    path = tmp_path_factory.mktemp("tables") / "mlflow.db"
    ensure_database(path)
    return path


@pytest.fixture
def tables(command: Command, made_tables: Path) -> None:
    """MLflow's database is there already, as after any first study: to make it takes seconds."""
    (command.folder / "runs").mkdir()
    shutil.copy(made_tables, command.folder / "runs")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The small study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("undisturbed")) as command:
        command.write(SMALL)
        command.run("grid.yaml", "--inline")
        yield command
