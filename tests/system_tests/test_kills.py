"""A study that is ended again and again, however it is, ends as if nothing had happened."""

import os
import signal
import subprocess
import time
from random import Random

import psutil
import pytest

from tests.system_tests.commands import SECONDS, SMALL, Command, computed, same, wait_until

KILLS = 4


def kill(process: subprocess.Popen[str]) -> None:
    """Kill the driver alone, as the machine's owner or its memory manager would."""
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def frozen_at_work(command: Command) -> psutil.Process:
    """Return a worker that was stopped in the midst of an item, so that it cannot end it."""
    found: list[psutil.Process] = []

    def freeze() -> bool:
        for worker in command.workers():
            worker.suspend()
            if worker.pid in {one.pid for one in command.workers()}:
                found.append(worker)
                return True
            worker.resume()
        return False

    command.wait_until(freeze, "a worker is seen at work")
    return found[0]


@pytest.mark.usefixtures("tables")
def test_killed_drivers_and_workers_lose_nothing(command: Command, undisturbed: Command) -> None:
    """An inline driver, then one with Ray, then a worker: the study goes on from each."""
    command.write(SMALL)
    process = command.start("grid.yaml", "--inline")
    command.wait_for_stages(4)
    kill(process)

    process = command.start("grid.yaml")
    command.wait_for_stages(command.listed() + 3)
    command.wait_until(command.workers, "a worker is at work")
    kill(process)

    process = command.start("grid.yaml")
    worker = frozen_at_work(command)
    done, alive = command.listed(), process.poll() is None
    worker.kill()
    assert alive
    assert done < len(undisturbed.stages()), "the study was over before the worker was killed"
    _, err = command.end(process, timeout=300)
    assert err == ""
    assert not worker.is_running()
    assert command.listed() > done
    same(command.results(), undisturbed.results())
    # What a worker on Ray does ahead of a decision may be more than was needed.
    assert set(computed(undisturbed.stages())) <= set(computed(command.stages()))
    wait_until(lambda: not command.processes(), "nothing of the killed ones is left", SECONDS)


@pytest.mark.usefixtures("tables")
def test_signals_keep_everything_and_say_how_to_go_on(
    command: Command, undisturbed: Command
) -> None:
    command.write(SMALL)
    for arguments, signum, code in (
        (("--inline",), signal.SIGTERM, 143),
        ((), signal.SIGINT, 130),
        (("--set", "resources.workers=1"), signal.SIGUSR1, 138),  # to Ray Tune it is a Ctrl-C
    ):
        process = command.start("grid.yaml", *arguments)
        command.wait_for_stages(command.listed() + 3)
        if "--inline" not in arguments:
            command.wait_until(command.workers, "a worker is at work")
        os.kill(process.pid, signum)
        _, err = command.end(process, code, timeout=60)
        again = " ".join(["python -m orchestrator.study grid.yaml", *arguments])
        name = signal.Signals(signum).name
        assert err == f"stopped by {name}; nothing finished is lost. To go on: {again}\n"
        assert (command.results().status == "pending").any()
    command.run("grid.yaml", "--inline")
    same(command.results(), undisturbed.results())
    assert set(computed(undisturbed.stages())) <= set(computed(command.stages()))


@pytest.mark.usefixtures("tables")
def test_a_driver_killed_at_random_moments_loses_nothing(
    command: Command, undisturbed: Command
) -> None:
    """Moments in time, not between stages: some fall into the writing of a file."""
    command.write(SMALL)
    source = Random(20261125)
    whole = len(undisturbed.stages())
    killed = 0
    while killed < KILLS:
        listed = command.listed()
        process = command.start("grid.yaml", "--inline")
        if listed < whole * killed // KILLS:  # let the kills be spread over the study
            command.wait_for_stages(listed + 1 + source.randrange(whole // KILLS))
        time.sleep(source.random() / 3)
        if process.poll() is None:
            kill(process)
            killed += 1
        assert command.listed() < whole, "the study was over before the last kill"
    command.run("grid.yaml", "--inline")
    same(command.results(), undisturbed.results())
    assert computed(command.stages()) == computed(undisturbed.stages())
