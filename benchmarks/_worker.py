"""A process that works as a worker of a study does, for contenders that are ours.

Workers keep freed memory on a CPU (`orchestrator.pipeline.tools`), which holds for all of a
process. So what is ours is done in a process of its own, and what stands beside it in one left
alone.
"""

import multiprocessing
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from benchmarks._common import Clock, clock, the_device
from orchestrator.pipeline.tools import keep_memory

Acts = Mapping[str, Callable[[], object]]


class WorkerProcess:
    """A process that does one of several acts at a time, and tells how long it took.

    Args:
        threads: Of torch.
        make: Returns the acts by name; a function of a module, called there.
        material: What `make` takes; it travels.
    """

    def __init__(self, threads: int, make: Callable[..., Acts], *material: object) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, threads, make, material))
        self._process.start()
        there.close()
        self._hear()
        self.results: dict[str, Any] = {}

    def act(self, name: str) -> Callable[[], Clock]:
        """Return a contender that does an act there; its result is in `results`."""

        def run() -> Clock:
            self._pipe.send(name)
            taken: Clock
            taken, self.results[name] = self._hear()
            return taken

        return run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.kill()

    def _hear(self) -> Any:
        try:
            return self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process of our contenders ended; its words are above") from None


def _serve(
    pipe: Connection, threads: int, make: Callable[..., Acts], material: tuple[object, ...]
) -> None:
    torch.set_num_threads(threads)
    if the_device().type == "cpu":
        keep_memory()
    acts = make(*material)
    pipe.send("ready")
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        with clock() as taken:
            result = acts[name]()
        pipe.send((taken, result))
