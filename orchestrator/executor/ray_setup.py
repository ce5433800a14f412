"""What has to be right around Ray before it is started or joined."""

import os
import secrets
import socket
import stat
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.address import Address
from orchestrator.errors import ResourceError
from orchestrator.plan.jobs import OUT_OF_MEMORY
from orchestrator.plan.resources import Node
from orchestrator.spec.model import Resources

KNOCK_SECONDS = 10.0  # until an address counts as unreachable
PINGS = {  # seconds between two, and to wait for an answer
    "RAY_grpc_client_keepalive_time_ms": 15,
    "RAY_grpc_client_keepalive_timeout_ms": 20,
}
TOKEN = secrets.token_hex(32)  # of this process' embedded Rays
_set_by_ray: set[str] = set()  # variables, by the first Ray of this process
REFUSED = "InvalidAuthToken"  # Ray's word for it, which only its log has
UNAUTHORISED = (
    "it asks for a token, which is missing here or another one; set RAY_AUTH_MODE=token, and "
    "RAY_AUTH_TOKEN_PATH to a file with the token that the cluster was started with"
)
PACKAGES = str(Path(__file__).parents[2])  # where this package was imported from
LOOK_SECONDS = 300.0  # for a node to start a process and import what a study needs


def configure(threads: int) -> None:
    """Switch off what a study has no use for, and fix what results depend on.

    Some of it Ray reads when it is imported.
    """
    os.environ |= {
        "OMP_NUM_THREADS": str(threads),  # Ray would take a worker's CPUs, which may be more
        "PYTHONPATH": _with_this_package(os.environ.get("PYTHONPATH", "")),
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ENABLE_AUTO_CONNECT": "0",  # Tune's last words to a Ray must not start another
        "RAY_CHDIR_TO_TRIAL_DIR": "0",
        "RAY_preload_python_modules": "orchestrator.executor.ray_tune",  # by an embedded Ray
        "RAY_prestart_worker_first_driver": "0",  # one a CPU, which may be more than workers
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",  # the study has its own
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",  # Tune's own snapshots are never read
        "TUNE_MAX_PENDING_TRIALS_PG": "1000000",  # the study counts its workers; not one by one
    }


def _with_this_package(paths: str) -> str:
    """Return ``PYTHONPATH`` by which workers import the driver's package, installed or not.

    They import it before Ray sends them the driver's paths.
    """
    installed = sysconfig.get_path("purelib") == PACKAGES
    known = filter(None, paths.split(os.pathsep))
    return os.pathsep.join(known if installed else dict.fromkeys([PACKAGES, *known]))


def notice_cuts() -> dict[str, str]:
    """Have cut connections between machines noticed in seconds; return what workers need for it.

    A connection that waits for an answer finds out by a ping that its other end is gone, by
    default after five minutes. A server refuses more pings than it would send itself, so the
    driver and its workers have to agree; the head sends pings of its own. Ray reads this when
    it is imported.
    """
    for name, seconds in PINGS.items():
        os.environ.setdefault(name, str(1000 * seconds))
    return {name: os.environ[name] for name in PINGS}


@contextmanager
def own_token() -> Iterator[None]:
    """Give what is started now a token for Ray, unless the user chose one.

    Ray itself would keep one in the home folder, which batch jobs may not be able to write to.
    """
    chosen = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} - _set_by_ray
    if any(name in os.environ for name in chosen):
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = TOKEN
    try:
        yield
    finally:
        del os.environ["RAY_AUTH_TOKEN"]
        _set_by_ray.update({"RAY_AUTH_MODE"} & os.environ.keys())


def knock(address: Address) -> list[tuple[str, int]]:
    """Refuse an address that accepts no connection; Ray itself would retry for minutes.

    Returns the place that answered; none for "auto" and the like, which Ray resolves.

    Raises:
        ResourceError: There is no such cluster.
    """
    text = address.reveal()
    if text.startswith("ray://"):
        raise ResourceError(
            f"{address} is a Ray Client, through which a study cannot run; start the command "
            f"on a node of the cluster and name its HOST:PORT, or auto"
        )
    if not text.rpartition(":")[2].isdigit():
        return []
    try:
        place = place_of(text)
        socket.create_connection(place, timeout=KNOCK_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ResourceError(f"the Ray cluster at {address} cannot be used ({error})") from error
    return [place]


def listen_in() -> Callable[[], str]:
    """Return a function that returns what was written to standard error since, if it is a file."""
    begin = os.fstat(2).st_size

    def said() -> str:
        if not stat.S_ISREG(os.fstat(2).st_mode):
            return ""
        with Path("/proc/self/fd/2").open("rb") as file:
            file.seek(begin)
            return file.read().decode(errors="replace")

    return said


def place_of(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def embedded_cpus(resources: Resources, most: int) -> int:
    """Return the CPUs that an embedded Ray offers: what is asked for, or the machine's.

    Args:
        resources: Of the study.
        most: CPUs of the item that asks for most.
    """
    if resources.workers is not None:
        return max(resources.workers * resources.cpu, most)
    return max(os.cpu_count() or 1, most)


@contextmanager
def few_processes() -> Iterator[None]:
    """Let a Ray that is started now consist of what a study uses.

    Ray itself would also start an autoscaler, a log monitor and a dashboard without pages, and
    wait for the last: 3 of the 10 seconds of computing that its start takes.
    """
    from ray._private import node

    former = node.Node

    class Node(former):  # type: ignore[misc, valid-type]
        def start_monitor(self) -> None:
            """Nothing is to be scaled."""

        def start_log_monitor(self) -> None:
            """The driver asks for no worker's output."""

        def start_api_server(self, **arguments: Any) -> None:
            """The dashboard is not used."""

    node.Node = Node  # type: ignore[misc]
    try:
        yield
    finally:
        node.Node = former  # type: ignore[misc]


def use_plain_workers() -> None:
    """Let Tune ask for workers with the environment of the driver, which an embedded Ray gives all.

    With variables of its own each would be started by a second process, once another has
    answered, and none of those that are there already could be used.
    """
    from ray.tune.execution import class_cache

    class_cache.DEFAULT_ENV_VARS.clear()
    class_cache.ENV_VARS_TO_PROPAGATE.clear()


def last_line(error: object) -> str:
    """Return the end of an error's text, which is where Ray says what happened."""
    lines = str(error or "no reason given").strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def reason_of(file: str | None) -> str:
    """Return why a worker died, in a line, from the file that Tune has just written it to.

    Tune's own question for it looks where the file is copied to later.
    """
    try:
        text = Path(file or "").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    for line in text.splitlines():
        if "running low on memory" in line:
            return f"{OUT_OF_MEMORY}: {line.strip()}"
    return last_line(text or None)


def fit_node(node: Mapping[str, Any], answer: Mapping[str, Any]) -> Node:
    """Return a node of Ray's list as a study sees it.

    Raises:
        ResourceError: It answered that it lacks something.
    """
    if answer["lacks"]:
        raise ResourceError(f"{name_of(node)} cannot run a study: {answer['lacks']}")
    there = node["Resources"]
    return Node(cpus=there.get("CPU", 0), gpus=there.get("GPU", 0), memory=answer["memory"])


def name_of(node: Mapping[str, Any]) -> str:
    """Return how a message calls a node."""
    return f"the node {node['NodeManagerAddress']}"


def examine() -> Callable[[Address, str], dict[str, Any]]:
    """Return the function that looks whether a study can run where it is called.

    It is made here so that it travels by its code: a node that lacks what this package
    imports can run it all the same, and say so.
    """

    def look(store: Address, beacon: str) -> dict[str, Any]:
        lacks, memory = "", 0
        later = ("sklearn", "timm", "torchvision")  # imported where a model or dataset needs it
        try:
            from importlib.util import find_spec

            from orchestrator.pipeline.stages import StageRunner
            from orchestrator.plan.resources import this_machine
            from orchestrator.store.store import Store

            del StageRunner  # what it imports is what a worker needs
            memory = this_machine().memory
            if absent := [name for name in later if find_spec(name) is None]:
                lacks = f"no {', '.join(absent)}; install this package's dependencies there"
            elif not Store(store).sees(beacon):
                lacks = f"it does not see the store {store}; name a path or URL that all nodes see"
        except ImportError as error:
            lacks = f"{error}; install this package's dependencies there"
        except Exception as error:  # noqa: BLE001 - reported by the driver, in one line
            lacks = f"{type(error).__name__}: {error}"
        return {"lacks": " ".join(lacks.split()), "memory": memory}

    return look
