"""However a study on an embedded Ray ends, no process of it is left.

That is so of every study that a test runs to its end: `Command.end` looks. Here are the ends
that no other test comes to.
"""

import os
import signal
from functools import partial

import psutil
import pytest

from orchestrator.executor.watchdog import GONE
from tests.system_tests.commands import TINY, Command, adopting, left, such, title, wait_until


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("daemon", ["gcs_server", "raylet"])
def test_nothing_is_left_of_a_study_whose_ray_lost(command: Command, daemon: str) -> None:
    command.write(TINY)
    process = command.start("grid.yaml", "--set", "resources.workers=2")
    command.wait_until(command.workers, "a worker is at work")
    assert not named(command, "ray::IDLE"), "one victim, so no worker is started ahead"
    (lost,) = named(command, daemon)
    os.kill(lost.pid, signal.SIGKILL)
    _, err = command.end(process, 3, timeout=60, left_for=20)
    assert err == f"error: {GONE}\n"


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize("moment", ["its workers start", "a worker is at work"])
def test_nothing_is_left_of_a_study_killed_while(command: Command, moment: str) -> None:
    """A worker that comes too late looks for its Ray for a minute, and so do Ray's agents."""
    command.write(TINY)
    with adopting() as descendants:
        process = command.start("grid.yaml")
        there = command.workers if moment == "a worker is at work" else partial(starting, command)
        command.wait_until(there, moment)
        os.kill(process.pid, signal.SIGKILL)
        wait_until(lambda: not descendants(), lambda: left(descendants()), 20)
        command.end(process, -signal.SIGKILL, left_for=0.1)


def named(command: Command, name: str) -> list[psutil.Process]:
    """Return the processes of a name."""
    return such(command.processes(), lambda one: one.name() == name)


def starting(command: Command) -> list[psutil.Process]:
    """Return the workers of Ray that it does not know yet: it gives them another title."""

    def new(process: psutil.Process) -> bool:
        return process.name() != "raylet" and "default_worker.py" in title(process)

    return such(command.processes(), new)
