"""Studies that several tests look at, run once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system_tests.commands import SMALL, Command


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    with Command(tmp_path) as command:
        yield command


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The small study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("undisturbed")) as command:
        command.write(SMALL)
        command.run("grid.yaml", "--inline")
        yield command
