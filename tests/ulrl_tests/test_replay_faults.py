"""What recording does where something goes wrong, on a stand-in for CUDA: no GPU is needed."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from ulrl import fitting, replay
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.randomness import generator
from ulrl.replay import RecordingError, Replay
from ulrl.training_hooks import NO_HOOKS, TrainingHooks

CPU = torch.device("cpu")
WAIT = "called a synchronizing CUDA operation (Triggered internally at ...)"


class Stream:
    device = CPU

    def __init__(self) -> None:
        self.calls: list[str] = []

    def wait_stream(self, other: object) -> None:
        del other
        self.calls.append("wait")

    def synchronize(self) -> None:
        self.calls.append("synchronize")


class Graph:
    """A graph that notes what is done to it; torch's ends with an error if CUDA gave it up."""

    made: list["Graph"] = []  # noqa: RUF012 - emptied by each test
    given_up = False

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.made.append(self)

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        del pool, capture_error_mode
        self.calls.append("begin")

    def capture_end(self) -> None:
        self.calls.append("end")
        if self.given_up:
            raise RuntimeError("operation failed due to a previous error during capture")

    def replay(self) -> None:
        self.calls.append("replay")

    def reset(self) -> None:
        self.calls.append("reset")


@pytest.fixture(autouse=True)
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stream, Stream]]:
    """Stand in for CUDA; return the stream outside and the one that records."""
    outside, side = Stream(), Stream()
    monkeypatch.setattr(replay, "_side", lambda _: side)
    for name, stand_in in {
        "CUDAGraph": Graph,
        "graph_pool_handle": lambda: (0, 1),
        "current_stream": lambda _: outside,
        "stream": lambda _: nullcontext(),
        "memory_reserved": lambda: 0,
        "memory_allocated": lambda: 0,
        "get_sync_debug_mode": lambda: 0,
        "set_sync_debug_mode": lambda _: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(Graph, "made", [])
    monkeypatch.setattr(Graph, "given_up", False)
    yield outside, side
    assert gc.isenabled()


class Work:
    """Notes the batches that Python works on, and fails at one of them."""

    def __init__(self, at: int = 0, error: BaseException | None = None, says: str = "") -> None:
        self.seen: list[list[int]] = []
        self._at, self._error, self._says = at, error, says

    def __call__(self, index: Tensor) -> None:
        self.seen.append(index.tolist())
        if self._says and len(self.seen) == 1:  # torch is asked about the first batch
            warnings.warn(self._says, stacklevel=1)
        if len(self.seen) == self._at and self._error is not None:
            raise self._error


def run(work: Work, *batches: list[int], made: Replay | None = None) -> Replay:
    made = made or Replay(work, CPU)
    with made.running():
        for batch in batches:
            made(torch.tensor(batch))
    return made


def test_the_second_batch_of_a_length_is_recorded_and_replayed_with_later_ones() -> None:
    work = Work()
    run(work, [1, 2], [3, 4], [5], [6, 7], [8]).close()
    assert work.seen == [[1, 2], [3, 4], [5], [8]]
    calls = [graph.calls for graph in Graph.made]
    assert calls == [
        ["begin", "end", "replay", "replay", "reset"],
        ["begin", "end", "replay", "reset"],
    ]


def test_what_waits_for_the_device_is_never_recorded() -> None:
    work = Work(says=WAIT)
    run(work, [1], [2], [3])
    assert work.seen == [[1], [2], [3]]
    assert Graph.made == []


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("no memory"), TimeoutError("too late"), KeyboardInterrupt()]
)
def test_what_breaks_off_a_recording_arrives_as_it_is(
    error: BaseException, streams: tuple[Stream, Stream]
) -> None:
    with pytest.raises(type(error)) as raised:
        run(Work(at=2, error=error), [1], [2])
    assert raised.value is error
    assert [graph.calls for graph in Graph.made] == [["begin", "end"]]
    outside, side = streams
    assert outside.calls == side.calls == ["wait"]


def test_a_recording_that_cuda_gave_up_is_told_with_the_way_out(
    streams: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graph, "given_up", True)
    work = Work(at=2, error=RuntimeError("operation not permitted"))
    made = Replay(work, CPU)
    with pytest.raises(RecordingError, match=r"ULRL_REPLAY=0 .*operation not permitted"):
        run(work, [1], [2], made=made)
    made.close()
    outside, side = streams
    assert outside.calls == []  # whatever waits for a broken stream would hide the words above
    assert side.calls == ["wait"]


def test_only_a_gpu_replays_and_only_what_nobody_controls(model_spec: ModelSpec) -> None:
    classifier = initialise(model_spec, generator(0, "weights"), CPU)
    there = Classifier(model_spec, torch.nn.Linear(1, 1), CPU)
    there.device = torch.device("cuda")
    assert fitting._replays(there, NO_HOOKS)
    assert not fitting._replays(classifier, NO_HOOKS)
    assert not fitting._replays(there, TrainingHooks())
