"""Being part of a Ray: one of a study's own, or a running cluster."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from orchestrator.address import Address
from orchestrator.errors import ResourceError
from orchestrator.executor import cleanup, ray_setup
from orchestrator.executor.watchdog import Listeners, RayDaemons, RayWatchdog
from orchestrator.plan.plan import Scenario
from orchestrator.plan.resources import Node, Shares, this_machine
from orchestrator.processes import place_for_sockets, scratch
from orchestrator.spec.model import Study
from orchestrator.store.store import Store
from orchestrator.terminal import spared

DAEMONS = ("gcs_server", "raylet")  # of an embedded Ray, which cannot do without either
FOLLOW_SECONDS = 3.0  # between looks for nodes that joined or left


@dataclass(frozen=True)
class Membership:
    """A Ray that this process is part of.

    Attributes:
        current: Returns its machines that can run a study, as they are now.
        guard: Ends the process if the Ray dies under it.
    """

    current: Callable[[], tuple[Node, ...]]
    guard: RayWatchdog

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.current()

    def leave(self) -> None:
        """Be no part of it any more: it may die."""
        _leave(self.guard)


@contextmanager
def joined(address: Address, study: Study, store: Store, errors: Console) -> Iterator[Membership]:
    """Be part of a running cluster whose nodes have each been found fit for a study.

    Args:
        address: Of the cluster, as Ray takes it.
        study: What is to run there.
        store: That every node has to see.
        errors: Where a user reads that the cluster died.

    Raises:
        ResourceError: There is no such cluster, a node lacks what a study needs, or does not see
            the store.
    """
    guard = RayWatchdog(Listeners(ray_setup.knock(address)), errors)
    here = Path(__file__).resolve().parents[1]
    code = {"py_modules": [str(here), str(here.parent / "ulrl")]}
    threads = {"OMP_NUM_THREADS": str(study.resources.cpu)}
    variables = {"env_vars": threads | ray_setup.notice_cuts()}
    with ExitStack() as stack:
        stack.callback(_leave, guard)
        guard.start()
        _init(
            f"the Ray cluster at {address}",
            address=address.reveal(),
            runtime_env=code | variables,
        )
        guard.watch(Listeners(_places()))
        roster = Roster(store.url, stack.enter_context(store.beacon()))
        stack.enter_context(roster.followed())
        yield Membership(lambda: roster.nodes, guard)


@contextmanager
def embedded(
    study: Study, shares: Shares, scenarios: Sequence[Scenario], errors: Console
) -> Iterator[Membership]:
    """Run a Ray of one's own on this machine; nothing of it outlives this process.

    Args:
        study: What is to run there.
        shares: What each of its items takes.
        scenarios: Of the study.
        errors: Where a user reads that Ray died.

    Raises:
        ResourceError: Ray cannot be started.
    """
    guard = RayWatchdog(RayDaemons(DAEMONS), errors)
    most = max(share.cpu for share in shares.all(scenarios))
    cpus = ray_setup.embedded_cpus(study.resources, most)
    workers = shares.likely([replace(this_machine(), cpus=cpus)], scenarios)
    if workers == cpus <= len(scenarios):  # each worker has a victim to train at once
        os.environ |= {"RAY_prestart_worker_first_driver": "1"}
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch(place_for_sockets()))
            stack.enter_context(cleanup.watched(folder))
        except OSError as error:
            raise ResourceError(f"an embedded Ray cannot be used ({error})") from error
        stack.callback(_leave, guard)
        guard.start()
        with spared(), ray_setup.own_token(), ray_setup.few_processes():
            _init(
                "an embedded Ray",
                address="local",  # whatever else runs on this machine
                num_cpus=cpus,
                include_dashboard=False,
                _node_ip_address="127.0.0.1",
                _temp_dir=str(folder),
            )
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        memory = this_machine().memory
        node = Node(cpus=there.get("CPU", 0), gpus=there.get("GPU", 0), memory=memory)
        yield Membership(lambda: (node,), guard)


class EmbeddedRay:
    """An embedded Ray that starts while its user does something else.

    Linux ends Ray's processes together with the thread that started them, so one thread starts
    and ends them, and waits in between.

    Args:
        arguments: Of `embedded`.
    """

    def __init__(self, *arguments: Any) -> None:
        self._member: Future[Membership] = Future()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._host, args=arguments, daemon=True)
        self._thread.start()

    def member(self) -> Membership:
        """Return the Ray once it has started.

        Raises:
            ResourceError: It cannot be started.
        """
        return self._member.result()

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._thread.join()

    def _host(self, *arguments: Any) -> None:
        try:
            with embedded(*arguments) as member:
                self._member.set_result(member)
                self._over.wait()
        except Exception as error:  # noqa: BLE001 - raised where the Ray is asked for
            self._member.set_exception(error)


def _leave(guard: RayWatchdog) -> None:
    with guard.leaving(), suppress(Exception):  # whatever it says: the study is done with it
        ray.shutdown()


def _init(what: str, **arguments: Any) -> None:
    said = ray_setup.listen_in()
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **arguments)
    except ray.exceptions.AuthenticationError as error:
        raise ResourceError(f"{what} cannot be used ({ray_setup.UNAUTHORISED})") from error
    except Exception as error:  # a start that takes too long raises a bare one
        reason = ray_setup.UNAUTHORISED if ray_setup.REFUSED in said() else error
        raise ResourceError(f"{what} cannot be used ({reason})") from error


def _nodes() -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in nodes if node["Alive"]]


def _places() -> list[tuple[str, int]]:
    """Return where the processes listen that this one cannot do without: head, own raylet."""
    context = ray.get_runtime_context()
    own = next(node for node in _nodes() if node["NodeID"] == context.get_node_id())
    raylet = (own["NodeManagerAddress"], own["NodeManagerPort"])
    return [ray_setup.place_of(context.gcs_address), raylet]


class Roster:
    """The nodes of a running cluster that can run a study, while nodes join and leave.

    Args:
        store: That every node has to see.
        beacon: In the store.

    Raises:
        ResourceError: A node that is there now cannot run a study.
    """

    def __init__(self, store: Address, beacon: str) -> None:
        self._store, self._beacon = store, beacon
        self._over = threading.Event()
        there = _nodes()
        looks = [self._look(node) for node in there]
        fit = map(_answered, there, looks)
        self._known: dict[str, Node | None] = dict(zip(map(_id_of, there), fit, strict=True))
        self._asked: dict[str, Any] = {}
        self.nodes = self._fit(self._known)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep `nodes` up to date, until left.

        A thread asks: while the head does not answer, the one who asks it waits.
        """
        threading.Thread(target=self._follow, daemon=True).start()
        try:
            yield
        finally:
            self._over.set()

    def _follow(self) -> None:
        while not self._over.wait(FOLLOW_SECONDS):
            with suppress(Exception):  # asked again; that Ray is gone the watchdog finds out
                self._update()

    def _update(self) -> None:
        there = {_id_of(node): node for node in _nodes()}
        for name in there.keys() - self._known.keys() - self._asked.keys():
            self._asked[name] = self._look(there[name])
        for name, look in list(self._asked.items()):
            if name not in there:
                del self._asked[name]
            elif ray.wait([look], timeout=0)[0]:
                del self._asked[name]
                self._known[name] = None  # unless it proves fit; one that is not is left out
                self._known[name] = _answered(there[name], look)
        self.nodes = self._fit(there)

    def _fit(self, there: Collection[str]) -> tuple[Node, ...]:
        return tuple(node for name, node in self._known.items() if node and name in there)

    def _look(self, node: dict[str, Any]) -> Any:
        where = NodeAffinitySchedulingStrategy(_id_of(node), soft=False)
        look = ray.remote(ray_setup.examine())
        return look.options(num_cpus=0, scheduling_strategy=where).remote(self._store, self._beacon)


def _id_of(node: dict[str, Any]) -> str:
    return str(node["NodeID"])


def _answered(node: dict[str, Any], look: Any) -> Node:
    name, seconds = ray_setup.name_of(node), ray_setup.LOOK_SECONDS
    try:
        return ray_setup.fit_node(node, ray.get(look, timeout=seconds))
    except ray.exceptions.GetTimeoutError as error:
        raise ResourceError(f"{name} does not answer in {seconds:g} seconds") from error
    except ray.exceptions.RayError as error:
        raise ResourceError(f"{name} cannot run a study: {ray_setup.last_line(error)}") from error
