"""A running cluster of several nodes: what it refuses, what it survives, and its end."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system_tests.clusters import CLUSTER, Cluster
from tests.system_tests.commands import ROOT, TINY, Command, computed, same

# The GPUs are declared: Ray's bookkeeping of them is real, the computing is done on the CPU.
SHARES = """\
resources:
  device: cpu
  gpu: 0.5
  stages: {train_victim: {gpu: 1}}
  architectures: {preact_resnet18: {stages: {unlearn: {gpu: 0.25}}}}
"""
SHARED = f"{TINY}{SHARES}".replace("attack: badnets\n", "attack: badnets\n  seed: [0, 1]\n")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as users install it, apart from the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    command = [
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
        *("--no-build-isolation", f"--target={place}", str(ROOT)),
    ]
    subprocess.run(command, check=True)
    return place


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in nodes' way: packages of our names that cannot be imported."""
    place = tmp_path_factory.mktemp("broken")
    for name in ("orchestrator", "ulrl"):
        (place / name).mkdir()
        (place / name / "__init__.py").write_text("raise ImportError('not the code that came')")
    return place


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("alone")) as command:
        command.write(SHARED)
        command.run("grid.yaml", "--inline")
        yield command


@pytest.fixture(scope="module")
def cluster(broken: Path) -> Iterator[Cluster]:
    with Cluster() as nodes:
        nodes.start(cpus=1, gpus=1, path=broken)
        yield nodes


@pytest.fixture
def joining(tmp_path: Path, wheel: Path) -> Iterator[Command]:
    with Command(tmp_path, PYTHONPATH=str(wheel), **CLUSTER) as command:
        yield command


def test_a_node_lost_and_another_joined_change_nothing(
    joining: Command, alone: Command, cluster: Cluster, broken: Path
) -> None:
    """From a wheel, on nodes that have no code of ours but what the driver sends them."""
    second = cluster.start(cpus=1, gpus=1, path=broken)
    joining.write(SHARED)
    process = joining.start("grid.yaml", "--address", cluster.address)
    joining.wait_for_stages(3)
    cluster.kill(second)
    done = joining.listed()
    assert process.poll() is None
    assert done < len(alone.stages())
    cluster.start(cpus=1, gpus=1, path=broken)
    _, err = joining.end(process)
    assert err == ""
    same(joining.results(), alone.results())
    assert set(computed(alone.stages())) <= set(computed(joining.stages()))


def unplaced(message: str) -> str:
    """Return a message without the node's address, for which Ray takes the machine's own."""
    return re.sub(r"the node \d+(\.\d+){3} ", "the node HERE ", message)


def test_what_could_never_run_is_refused(joining: Command, cluster: Cluster) -> None:
    joining.write(SHARED)
    arguments = ("grid.yaml", "--address", cluster.address, "--set")
    _, err = joining.run(*arguments, "resources.stages.train_victim.gpu=2", code=3)
    assert err == (
        "error: resources asks for 1 CPU and 2 GPU for train_victim of preact_resnet18, and no "
        "node has that; this Ray has 2 CPUs and 2 GPUs on 2 nodes\n"
    )
    _, err = joining.run(*arguments, "store=/proc/self/cwd/here", code=3)
    assert unplaced(err) == (
        "error: the node HERE cannot run a study: it does not see the store /proc/self/cwd/here; "
        "name a path or URL that all nodes see\n"
    )
    _, err = joining.run(*arguments, "resources={gpu: 1}", code=3)
    assert err == (
        "error: resources asks for a GPU, and torch finds none where Ray counts some; fix that, "
        "or compute on the CPU with resources.device: cpu\n"
    )


def test_the_head_gone_is_told_in_a_line_and_the_study_goes_on_elsewhere(
    joining: Command, alone: Command, cluster: Cluster
) -> None:
    joining.write(SHARED)
    process = joining.start("grid.yaml", "--address", cluster.address)
    joining.wait_for_stages(3)
    cluster.kill(cluster.head)
    out, err = joining.end(process, 3, timeout=100)
    assert err.startswith("error: Ray is gone: ")
    assert len(err.splitlines()) == 1
    assert "raylet" not in out
    assert "Traceback" not in out
    joining.run("grid.yaml", "--inline")
    same(joining.results(), alone.results())


def test_a_node_without_our_dependencies_is_told_in_a_line(
    joining: Command, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("lacking")
    missing = "raise ModuleNotFoundError(\"No module named 'safetensors'\")"
    (place / "safetensors.py").write_text(missing)
    joining.write(TINY)
    with Cluster() as lacking:
        lacking.start(cpus=2, gpus=0, path=place)
        _, err = joining.run("grid.yaml", "--address", lacking.address, code=3)
    assert unplaced(err) == (
        "error: the node HERE cannot run a study: No module named 'safetensors'; install this "
        "package's dependencies there\n"
    )
