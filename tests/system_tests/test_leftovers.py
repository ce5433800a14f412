"""However a study on an embedded Ray ends, no process of it is left."""

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from tests.system_tests.commands import Command, wait_until
from tests.system_tests.test_command import FAILING
from tests.system_tests.test_faults import TINY

SECONDS = 60.0  # for what was told to end, or has lost its driver


def gone(command: Command) -> bool:
    return not command.processes()


@pytest.mark.parametrize(
    ("text", "arguments", "code"),
    [
        (TINY, (), 0),
        (FAILING, (), 1),
        (TINY, ("--set", "victim.epochs=0"), 2),
        (TINY, ("--set", "budget.trials=1"), 4),
    ],
)
def test_nothing_is_left_of_a_study_that_ended(
    command: Command, text: str, arguments: tuple[str, ...], code: int
) -> None:
    command.write(text)
    command.run("grid.yaml", "--set", "resources.workers=1", *arguments, code=code)
    wait_until(lambda: gone(command), "nothing is left", SECONDS)


def head(command: Command) -> int:
    """Return the process without which no other of Ray's can do."""
    found: list[psutil.Process] = [p for p in command.processes() if p.name() == "gcs_server"]
    return found[0].pid


@pytest.mark.parametrize(
    ("signum", "whom", "code"),
    [
        (signal.SIGINT, None, 130),
        (signal.SIGTERM, None, 143),
        (signal.SIGKILL, None, -9),
        (signal.SIGKILL, head, 3),
    ],
)
def test_nothing_is_left_of_a_study_that_was_ended(
    command: Command, signum: signal.Signals, whom: Callable[[Command], int] | None, code: int
) -> None:
    command.write(TINY)
    process = command.start("grid.yaml", "--set", "resources.workers=1")
    wait_until(command.workers, "a worker is at work")
    os.kill(process.pid if whom is None else whom(command), signum)
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, out + err
    wait_until(lambda: gone(command), "nothing is left", SECONDS)
