"""CUDA graphs: a training step is recorded once and then replayed by a single launch.

A step of a small network is some hundred kernels of a few microseconds each, and launching them
one by one from Python takes longer than they do.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

SPARE = 2_000_000_000  # bytes that torch may keep besides a recording's

Work: TypeAlias = Callable[[Int64[Tensor, " b"]], None]


class Replay:
    """Does the same work on one batch after the other, recorded by length of batch.

    The first batch of each length is worked on as ever, which warms up what the libraries keep;
    the second is recorded, and from then on the recording is replayed. The kernels are the
    same, so are the numbers. Work that cannot be recorded, since it waits for the device, is
    done as ever each time.

    Args:
        work: Does all it does on `device`, with tensors that stay where they are from batch to
            batch, and branches on nothing that changes.
        device: A GPU.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work = work
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = torch.cuda.graph_pool_handle()  # one for all: they never run at once
        self._warm: set[int] = set()
        self._recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do what is done inside on the stream that records, after and before all else."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outside.wait_stream(self._stream)

    def __call__(self, index: Int64[Tensor, " b"]) -> None:
        """Do the work on a batch, inside `running`."""
        length = len(index)
        if length in self._warm and length not in self._recordings:
            self._recordings[length] = self._record(index)
        recording = self._recordings.get(length)
        if recording is None:
            self._warm.add(length)
            self._work(index)
            return
        graph, place = recording
        place.copy_(index)
        graph.replay()

    def _record(self, index: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        graph, place = torch.cuda.CUDAGraph(), index.clone()
        # A recording has memory of its own; of what the first batch took, the rest is given back.
        if torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > SPARE:
            torch.cuda.empty_cache()
        # By hand, as `torch.cuda.graph` collects garbage and gives all kept memory back first.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            self._work(place)
        except RuntimeError:
            with suppress(RuntimeError):  # which says again that nothing was recorded
                graph.capture_end()
            return None
        graph.capture_end()
        return graph, place
