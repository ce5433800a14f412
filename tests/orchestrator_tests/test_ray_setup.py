"""What surrounds Ray: a terminal without its messages, what its errors say."""

import os
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.address import Address
from orchestrator.errors import ResourceError
from orchestrator.executor import ray_cluster
from orchestrator.executor.ray_setup import (
    PINGS,
    few_processes,
    last_line,
    notice_cuts,
    own_token,
    reason_of,
    use_plain_workers,
)
from orchestrator.plan.resources import Node
from orchestrator.terminal import apart


@pytest.mark.parametrize("verbose", [False, True])
def test_what_libraries_write_goes_to_a_file(tmp_path: Path, *, verbose: bool) -> None:
    text = f"""
import os, sys
from pathlib import Path
from rich.console import Console
from orchestrator.plan.resources import Node
from orchestrator.terminal import apart
console = Console()
with apart(console, Path("ray.log"), verbose={verbose}) as errors:
    print("a library")
    os.write(2, b"another\\n")
    console.print("the study")
    errors.print("an error")
    os.system("echo a child")
print("after"); console.print("after all")
with apart(console, Path("empty.log"), verbose={verbose}): console.print("more")
"""
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    wanted = ["the study", "after", "after all", "more"]
    if verbose:
        assert set(done.stdout.splitlines()) == {*wanted, "a library", "a child"}
        assert set(done.stderr.splitlines()) == {"another", "an error"}
    else:
        assert done.stdout.splitlines() == wanted
        assert done.stderr == "an error\n"
        log = (tmp_path / "ray.log").read_text()
        assert set(log.splitlines()) == {"a library", "another", "a child"}
    assert not (tmp_path / "empty.log").exists()


def test_a_console_elsewhere_stays_there(tmp_path: Path) -> None:
    console = Console(file=StringIO())
    with apart(console, tmp_path / "log", verbose=False):
        console.print("here")
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == "here\n"


@pytest.mark.parametrize(
    ("error", "line"), [(None, "no reason given"), ("a\n b \n", "b"), (ValueError(), "ValueError")]
)
def test_the_last_line_of_an_error(error: object, line: str) -> None:
    assert last_line(error) == line


KILLED = """Failure # 1 (occurred at 2026-11-26_04-27-55)
1 worker(s) were killed due to the node running low on memory. Memory on the node was 6.09GB used
OOM kill reason: Memory usage 6515220480B exceeded threshold of 2022121088B
To disable worker killing, set the environment variable
"""
DIED = """Failure # 1 (occurred at 2026-11-26_04-27-55)
The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            KILLED,
            f"out of memory: {KILLED.splitlines()[1]}",
        ),
        (
            DIED,
            "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR",
        ),
        ("", "no reason given"),
    ],
)
def test_why_a_worker_died(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text(text)
    assert reason_of(str(file)) == reason


def test_why_a_worker_died_when_nobody_wrote_it_down(tmp_path: Path) -> None:
    assert reason_of(str(tmp_path / "absent")) == reason_of(None) == "no reason given"


def test_a_cut_connection_is_noticed_within_a_minute_or_as_the_user_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in PINGS:
        monkeypatch.delenv(name, raising=False)
    wanted = notice_cuts()
    assert sum(map(int, wanted.values())) <= 60_000
    assert {name: os.environ[name] for name in wanted} == wanted
    own = "RAY_grpc_client_keepalive_time_ms"
    monkeypatch.setenv(own, "70000")
    assert notice_cuts() == {**wanted, own: "70000"}


@pytest.mark.parametrize("chosen", [None, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_an_embedded_ray_has_a_token_of_its_own(
    chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(chosen, "the user's")
    before = dict(os.environ)
    with own_token():
        if chosen is None:
            assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        else:
            assert dict(os.environ) == before
    assert dict(os.environ) == before


@pytest.mark.parametrize(("place", "heard"), [("file", "after\n"), ("pipe", "")])
def test_what_a_library_says_is_listened_to_where_it_is_kept(
    place: str, heard: str, tmp_path: Path
) -> None:
    text = """
import os, sys
from orchestrator.executor.ray_setup import listen_in
os.write(2, b"before\\n")
said = listen_in()
os.write(2, b"after\\n")
print(repr(said()))
"""
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", text],
            stdout=subprocess.PIPE,
            stderr=log if place == "file" else subprocess.PIPE,
            text=True,
            check=True,
        )
    assert done.stdout == f"{heard!r}\n"


def test_an_embedded_ray_starts_what_a_study_uses_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names are Ray's own: a version that renames them would start more, and slower."""
    from ray._private import node
    from ray.tune.execution import class_cache

    ray_node = node.Node
    with few_processes():
        own = vars(node.Node).keys() & {"start_monitor", "start_log_monitor", "start_api_server"}
        assert len(own) == 3
        assert own <= vars(ray_node).keys()
        assert issubclass(node.Node, ray_node)
    assert node.Node is ray_node
    monkeypatch.setattr(class_cache, "DEFAULT_ENV_VARS", {**class_cache.DEFAULT_ENV_VARS})
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {*class_cache.ENV_VARS_TO_PROPAGATE})
    use_plain_workers()
    cache: Any = class_cache._ActorClassCache  # untyped
    remote = cache().get(type("Nothing", (), {}))
    assert remote._default_options["runtime_env"] == {}


def test_a_ray_that_cannot_be_started_says_so_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ResourceError("no room")

    monkeypatch.setattr(ray_cluster, "embedded", fail)
    ray = ray_cluster.EmbeddedRay()
    with pytest.raises(ResourceError, match=r"^no room$"):
        ray.member()
    ray.close()


class Nodes:
    """A cluster by the names of its nodes, each of 2 CPUs, and how each answers a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: list[str] = []
        self.lacks: dict[str, str] = {}
        self.silent: set[str] = set()
        self.looks: list[str] = []
        monkeypatch.setattr(ray_cluster, "_nodes", lambda: list(map(self._node, self.there)))
        monkeypatch.setattr(ray_cluster.Roster, "_look", self._look)
        monkeypatch.setattr("ray.wait", self._wait)
        monkeypatch.setattr("ray.get", self._get)

    def _node(self, name: str) -> dict[str, Any]:
        return {"NodeID": name, "NodeManagerAddress": name, "Resources": {"CPU": 2.0}}

    def _look(self, node: dict[str, Any]) -> str:
        self.looks.append(node["NodeID"])
        return self.looks[-1]

    def _wait(self, looks: list[str], timeout: float) -> tuple[list[str], list[str]]:
        assert timeout == 0
        return [look for look in looks if look not in self.silent], []

    def _get(self, look: str, timeout: float) -> dict[str, Any]:
        assert timeout > 0
        return {"lacks": self.lacks.get(look, ""), "memory": 0}


def test_nodes_that_join_and_leave_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch)
    nodes.there = ["a"]
    monkeypatch.setattr(ray_cluster, "FOLLOW_SECONDS", 0.01)
    roster = ray_cluster.Roster(Address("/store"), "beacon")
    with roster.followed():

        def come_to(count: int) -> None:
            until = time.monotonic() + 30
            while len(roster.nodes) != count:
                assert time.monotonic() < until, roster.nodes
                time.sleep(0.01)
            assert roster.nodes == (Node(cpus=2, gpus=0),) * count

        come_to(1)
        nodes.lacks["unfit"], nodes.silent = "no timm", {"slow"}
        nodes.there = ["a", "unfit", "slow", "b"]
        come_to(2)
        nodes.silent.clear()
        come_to(3)
        nodes.there = ["slow", "unfit"]
        come_to(1)
        nodes.there = ["slow", "unfit", "a"]  # a cut that Ray did not notice
        come_to(2)
    assert sorted(nodes.looks) == ["a", "b", "slow", "unfit"]


def test_a_cluster_that_has_an_unfit_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = Nodes(monkeypatch)
    nodes.there, nodes.lacks = ["a", "unfit"], {"unfit": "no timm"}
    with pytest.raises(ResourceError, match=r"^the node unfit cannot run a study: no timm$"):
        ray_cluster.Roster(Address("/store"), "beacon")
