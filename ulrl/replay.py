"""CUDA graphs: a training step is recorded once and then replayed by a single launch.

A step of a small network is some hundred kernels of a few microseconds each, and launching them
one by one from Python takes longer than they do.
"""

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

SPARE = 2_000_000_000  # bytes that torch may keep besides a recording's
SWITCH = "ULRL_REPLAY"  # in the environment: 0 does without

Work: TypeAlias = Callable[[Int64[Tensor, " b"]], None]

# What Python's `warnings` notes of those that were passed on.
_shown: dict[str | tuple[str, type[Warning], int], int] = {}


class RecordingError(RuntimeError):
    """A recording broke off in a way from which torch has no way back in this process."""


class Replay:
    """Does the same work on one batch after the other, recorded by length of batch.

    The first batch of each length is worked on as ever, which warms up what libraries keep; the
    second is recorded, and from then on the recording is replayed. The kernels are the same,
    and so is every bit. Work that was seen to wait for the device cannot be recorded and is
    done as ever.

    Args:
        work: Does all it does on `device`, with tensors that stay where they are from batch to
            batch, and branches on nothing that changes.
        device: A GPU.
    """

    def __init__(self, work: Work, device: torch.device) -> None:
        self._work = work
        self._stream = _side(device)
        self._pool: Any = torch.cuda.graph_pool_handle()  # one for all: they never run at once
        self._broken = False
        self._recordable = os.environ.get(SWITCH, "1") != "0"
        self._warm: set[int] = set()
        self._recordings: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    @contextmanager
    def running(self) -> Iterator[None]:
        """Do what is done inside on the stream that records, after and before all else."""
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            if not self._broken:
                outside.wait_stream(self._stream)

    def __call__(self, index: Int64[Tensor, " b"]) -> None:
        """Do the work on a batch, inside `running`.

        Raises:
            RecordingError: It can neither be recorded nor was that to be seen. CUDA is of no use
                to this process any more.
        """
        length = len(index)
        if not self._recordable:
            self._work(index)
        elif length not in self._warm:
            self._warm.add(length)
            with _noted() as waits:
                self._work(index)
            self._recordable = not waits
        else:
            if length not in self._recordings:
                self._recordings[length] = self._record(index)
            graph, place = self._recordings[length]
            place.copy_(index)
            graph.replay()

    def close(self) -> None:
        """Forget the recordings, and with them their memory."""
        if self._broken:
            return
        self._stream.synchronize()
        for graph, _ in self._recordings.values():
            graph.reset()
        self._recordings.clear()

    def _record(self, index: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph, place = torch.cuda.CUDAGraph(), index.clone()
        # A recording has memory of its own; of what the first batch took, the rest is given back.
        if torch.cuda.memory_reserved() - torch.cuda.memory_allocated() > SPARE:
            torch.cuda.empty_cache()
        # By hand, as `torch.cuda.graph` collects garbage and gives all kept memory back first.
        # No garbage is collected: the end of another training would wait for the device.
        collects = gc.isenabled()
        gc.disable()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            self._capture(graph, place)
        finally:
            if collects:
                gc.enable()
        return graph, place

    def _capture(self, graph: torch.cuda.CUDAGraph, place: Tensor) -> None:
        """Do the work for a recording that was begun; whatever happens, it is ended."""
        try:
            self._work(place)
        except BaseException as error:  # memory or time that ran out, too
            try:
                graph.capture_end()
            except RuntimeError:
                self._broken = True
                raise RecordingError(
                    f"a training step of this network cannot be recorded as a CUDA graph; "
                    f"{SWITCH}=0 in the environment does without ({error})"
                ) from error
            raise
        graph.capture_end()


@lru_cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of all recordings: for each stream cuBLAS keeps some 70 MB for good."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _noted() -> Iterator[list[str]]:
    """Collect what torch says inside of waits for the device, which a recording cannot do."""
    waits: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode(before)
    for warning in said:
        text = str(warning.message)
        if "synchronizing CUDA operation" in text:
            waits.append(text)
        elif "Synchronization debug mode" not in text:  # torch's word on what it does here
            warnings.warn_explicit(
                text, warning.category, warning.filename, warning.lineno, registry=_shown
            )
