"""Clusters whose machines have networks of their own: what is lost, cut off, and joins.

Run as root, by ``make cluster-test``; `namespaces` makes the machines. The head of Ray computes
nothing; the driver runs on another machine, as a user's would.
"""

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.cluster.namespaces import RAY, Cluster, Machine, why_not
from tests.system_tests.commands import Command, computed, same, such, title, wait_until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

GRID = """\
name: small
grid:
  attack: [badnets, {name: blended, alpha: 0.3}, {name: sig, poison_ratio: 0.05}]
  dataset: digits
  architecture: {name: preact_resnet18, width: 6}
  seed: [0, 1]
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  reinit_ratio: [1.0, 0.0]
  relearn_epochs: 6
  unlearn_epochs: 8
victim: {epochs: 4, batch_size: 64, min_acc: 0.2, min_asr: 0}
prune: none
mlflow: {log_models: none}
"""
TRIALS = 24
HEAD_LOST = 90.0  # seconds in which a study has to end once the head is lost
WORKER = re.compile(r"^worker    ([\w-]+):", re.MULTILINE)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("alone")) as command:
        command.write(GRID)
        command.run("grid.yaml", "--inline")
        assert len(command.results()) == TRIALS
        yield command


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster() as machines:
        yield machines


@pytest.fixture
def ray(cluster: Cluster) -> Cluster:
    """A head, and a machine for the driver with one worker."""
    cluster.start_ray("head", cpus=0, head=True)
    cluster.start_ray("driver", cpus=1)
    return cluster


Starts = Callable[..., Command]


@pytest.fixture
def on(tmp_path: Path) -> Iterator[Starts]:
    """A function that returns the command as it is on a machine."""
    made: list[Command] = []

    def command_on(machine: Machine, **variables: str) -> Command:
        folder = tmp_path / machine.name
        folder.mkdir(exist_ok=True)
        made.append(Command(folder, before=machine.words(folder), **RAY | variables))
        made[-1].write(GRID)
        return made[-1]

    yield command_on
    for command in made:
        command.__exit__()


def workers(command: Command) -> Counter[str]:
    """Return how many jobs each machine ended, by the logs."""
    logs = (command.folder / "runs" / "small" / "logs").glob("*.log")
    return Counter(name for log in logs for name in WORKER.findall(log.read_text()))


def at_work(machine: Machine) -> list[psutil.Process]:
    """Return the processes of Ray's that compute on a machine, or start others that do."""
    return such(
        machine.processes(),
        lambda one: one.name() == "raylet" or title(one).startswith("ray::"),
    )


def agrees(command: Command, alone: Command) -> None:
    """Assert that a study that has ended has the table of one that ran alone, a row a trial."""
    same(command.results(), alone.results())
    assert set(computed(alone.stages())) <= {
        (row.stage, row.key) for row in command.stages().itertuples()
    }
    locks = command.folder / "runs" / "store" / ".locks"
    wait_until(lambda: not [*locks.glob("*")], "no lock is left", 60)


def test_a_machine_that_joins_is_given_work(ray: Cluster, alone: Command, on: Starts) -> None:
    command = on(ray.machines["driver"])
    process = command.start("grid.yaml", "--address", ray.address)
    command.wait_for_stages(3)
    ray.start_ray("worker", cpus=1)
    _, err = command.end(process)
    assert err == ""
    agrees(command, alone)
    computed(command.stages())
    assert set(workers(command)) == {"driver", "worker"}


def test_a_lost_machine_loses_nothing(ray: Cluster, alone: Command, on: Starts) -> None:
    worker = ray.start_ray("worker", cpus=1)
    command = on(ray.machines["driver"])
    process = command.start("grid.yaml", "--address", ray.address)
    command.wait_until(lambda: workers(command)["worker"], "the worker has ended a job")
    worker.kill()
    listed = command.listed()
    _, err = command.end(process)
    assert listed < len(alone.stages()), "it was lost in the middle"
    assert err == ""
    agrees(command, alone)
    assert worker.name in workers(command)


def test_a_machine_that_was_cut_off_spoils_nothing(
    ray: Cluster, alone: Command, on: Starts
) -> None:
    worker = ray.start_ray("worker", cpus=1)
    command = on(ray.machines["driver"])
    process = command.start("grid.yaml", "--address", ray.address)
    command.wait_until(lambda: workers(command)["worker"], "the worker has ended a job")
    ray.plug("worker", up=False)
    began, before = time.monotonic(), workers(command)
    command.wait_until(
        lambda: workers(command)["driver"] > before["driver"], "the other machine goes on"
    )
    wait_until(lambda: ray.members() == 2, "the head calls the machine dead", 300)
    seconds = time.monotonic() - began
    print(f"called dead {seconds:.0f} s after the cut")  # noqa: T201 - a figure of the docs
    ray.plug("worker", up=True)
    _, err = command.end(process)
    assert err == ""
    # Ray ends on a machine that it has called dead; what was at work there may end a stage first.
    wait_until(lambda: not at_work(worker), "Ray is gone where it was called dead", 120)
    agrees(command, alone)
    command.run("grid.yaml", "--address", ray.address)
    agrees(command, alone)


def test_a_lost_head_ends_the_study_and_a_new_one_resumes_it(
    ray: Cluster, alone: Command, on: Starts
) -> None:
    ray.start_ray("worker", cpus=1)
    command = on(ray.machines["driver"])
    process = command.start("grid.yaml", "--address", ray.address)
    command.wait_for_stages(6)
    ray.machines["head"].kill()
    began = time.monotonic()
    out, err = command.end(process, 3, timeout=4 * HEAD_LOST)
    seconds = time.monotonic() - began
    print(f"ended {seconds:.1f} s after its head")  # noqa: T201 - a figure of the docs
    assert err.startswith("error: Ray is gone: ")
    assert len(err.splitlines()) == 1
    assert "Traceback" not in out
    assert seconds < HEAD_LOST
    before = command.stages()
    for name in ("driver", "worker"):
        ray.machines[name].kill()
    ray.start_ray("head", cpus=0, head=True)
    ray.start_ray("driver", cpus=1)
    again = on(ray.machines["driver"])
    again.run("grid.yaml", "--address", ray.address)
    agrees(again, alone)
    lines = ["stage", "key"]
    after = again.stages()
    assert after[lines].head(len(before)).equals(before[lines])
    computed(after)  # nothing that was listed was computed again


def test_a_driver_with_another_token_is_refused_in_a_line(ray: Cluster, on: Starts) -> None:
    machine = ray.machines["driver"]
    command = on(machine, RAY_AUTH_TOKEN="f" * 64)
    _, err = command.run("grid.yaml", "--address", ray.address, code=3)
    assert err.startswith(f"error: the Ray cluster at {ray.address} cannot be used (it asks for a ")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(
    shutil.which("glusterfsd") is None,
    reason="GlusterFS is not installed; on Debian it is in glusterfs-server",
)
def test_locks_hold_on_a_shared_file_system(ray: Cluster, alone: Command, on: Starts) -> None:
    """GlusterFS, mounted apart on each machine; one that is cut off takes its locks with it."""
    ray.serve_files("files")
    worker = ray.start_ray("worker", cpus=1)
    for name in ("head", "driver", "worker"):
        ray.mount(name, "files")
    store = ray.shared / "store"
    arguments = ("grid.yaml", "--set", f"store={store}")
    one, other = on(ray.machines["driver"]), on(ray.machines["head"])
    first = one.start(*arguments, "--address", ray.address)
    second = other.start(*arguments, "--inline")
    one.wait_until(lambda: workers(one)["worker"], "the worker has ended a job")
    ray.plug("worker", up=False)
    for command, process in ((one, first), (other, second)):
        _, err = command.end(process)
        assert err == ""
        same(command.results(), alone.results())
    worker.kill()
    done = computed(pd.concat([one.stages(), other.stages()]))  # none twice
    assert set(done) == set(computed(alone.stages()))
    assert one.stages().computed.any()
    assert other.stages().computed.any()
    assert set(workers(one)) == {"driver", "worker"}
    assert ray.machines["driver"].run("ls", "-A", str(store / ".locks")) == ""
    assert not [*ray.shared.iterdir()], "the store is on this machine itself"
