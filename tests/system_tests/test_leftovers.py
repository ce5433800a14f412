"""However a study on an embedded Ray ends, no process of it is left.

That is so of every study that a test runs to its end: `Command.end` looks. Here are the ends
that no other test comes to.
"""

import os
import signal

import pytest

from tests.system_tests.commands import Command
from tests.system_tests.test_faults import TINY


@pytest.mark.usefixtures("tables")
@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--set", "victim.epochs=0"), 2),
        (("--set", "budget.trials=1"), 4),
    ],
)
def test_nothing_is_left_of_a_study_that_ended(
    command: Command, arguments: tuple[str, ...], code: int
) -> None:
    command.write(TINY)
    command.run("grid.yaml", "--set", "resources.workers=1", *arguments, code=code)


@pytest.mark.usefixtures("tables")
def test_nothing_is_left_of_a_study_whose_ray_lost_its_head(command: Command) -> None:
    command.write(TINY)
    process = command.start("grid.yaml", "--set", "resources.workers=1")
    command.wait_until(command.workers, "a worker is at work")
    (head,) = (one for one in command.processes() if one.name() == "gcs_server")
    os.kill(head.pid, signal.SIGKILL)
    command.end(process, 3, timeout=200)
