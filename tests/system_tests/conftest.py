"""Studies that several tests look at, run once."""

from pathlib import Path

import pytest

from tests.system_tests.commands import SMALL, Command


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """The small study, run inline from start to end."""
    command = Command(tmp_path_factory.mktemp("undisturbed"))
    command.write(SMALL)
    command.run("grid.yaml", "--inline")
    return command
