"""MLflow's folders of models, made in a process of its own at low priority.

Exporting a network changes things that belong to the whole process while it lasts; the driver,
which may be training at the moment, is left alone.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TextIO

from orchestrator.address import Address
from orchestrator.processes import end_with, scratch
from orchestrator.tracking.sync import ModelError

PROGRAM = "model.pt2"  # in the folder `data` of a model
NICE = 10  # while the study computes


class ModelExporter:
    """Makes models by their descriptions from what a store holds, one after the other.

    Attributes:
        impossible: Why models cannot be made, a line for each.
    """

    def __init__(self, store: Address | str) -> None:
        self._store = Address.of(store)
        self._lock = Lock()  # one thread wants a model while another closes or prepares
        self._process: subprocess.Popen[str] | None = None
        self._scratch = ExitStack()
        self._closed = self._urgent = False
        self.busy = False  # whether a model is being made now
        self.impossible: list[str] = []

    def prepare(self) -> None:
        """Start the process, which takes seconds to be ready, and return at once."""
        with suppress(RuntimeError):  # the first model that is wanted meets it again, and tells
            self._running()

    def make(self, description: Mapping[str, Any], folder: Path) -> bool:
        """Make `folder` with a model in it; return False if its weights are gone.

        Raises:
            ModelError: It can never be made.
            RuntimeError: It cannot be made now; the text says why in one line.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process that makes models has no pipes")
        self.busy = True
        try:
            request = {
                "store": self._store.reveal(),  # on the pipe: others can list a process's arguments
                "description": dict(description),
                "folder": str(folder),
                "urgent": self._urgent,
            }
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        finally:
            self.busy = False
        if not line:
            with self._lock:
                self._end()
            raise RuntimeError("the process that makes models ended")
        answer = json.loads(line)
        if answer["error"]:
            if answer["final"]:
                self.impossible.append(answer["error"])
                raise ModelError(answer["error"])
            raise RuntimeError(answer["error"])
        return bool(answer["made"])

    def hurry(self) -> None:
        """Make models at the driver's priority from now on: it has nothing else to do."""
        with self._lock:
            self._urgent = True
            if self._process is not None:
                _share_processors(self._process.pid, 0)

    def close(self) -> None:
        """End the process for good; what it is at is given up."""
        with self._lock:
            self._closed = True
            self._end()

    def _running(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise RuntimeError("no more models are made")
            if self._process is None:
                try:
                    self._process = self._start()
                except OSError as error:
                    self._end()
                    text = f"the process that makes models cannot be started: {error}"
                    raise RuntimeError(text) from error
            return self._process

    def _start(self) -> subprocess.Popen[str]:
        folder = self._scratch.enter_context(scratch())
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator.tracking.model_export"]
        return subprocess.Popen(  # noqa: S603 - our interpreter, our module
            [*command, str(folder), str(os.getpid()), *["urgent"] * self._urgent],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which ends it by its pipe
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError, ValueError):
                        pipe.close()
        self._scratch.close()


class ExportedGraphs:
    """Models of one network differ in their weights alone: its graph is made once.

    Args:
        folder: Where a model of each network is kept to be cast again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: dict[str, Path] = {}

    def cast(self, kind: str, network: Any, example: Any, folder: Path) -> None:
        """Make `folder` with the model of a network in it.

        Args:
            kind: Equal for networks that differ in their weights alone.
            network: In eval mode.
            example: A batch of two of its input.
            folder: Absent yet.

        Raises:
            ModelError: The model does not say what the network says.
        """
        import torch

        from orchestrator.tracking.models import save_portable

        mould = self._names.get(kind)
        if mould is None:
            mould = self._names[kind] = self._folder / str(len(self._names))
            save_portable(network, example, mould)
        shutil.copytree(mould, folder)
        program = torch.export.load(mould / "data" / PROGRAM)
        state = network.state_dict()
        if set(program.state_dict) - set(state):
            raise ModelError("its graph holds weights that the network lacks")
        for name, old in program.state_dict.items():
            kept = isinstance(old, torch.nn.Parameter)
            program.state_dict[name] = torch.nn.Parameter(state[name]) if kept else state[name]
        torch.export.save(program, folder / "data" / PROGRAM)
        with torch.inference_mode():
            images = torch.rand(3, *example.shape[1:], generator=torch.Generator().manual_seed(0))
            says, shall = program.module()(images), network(images)
        if not torch.allclose(says, shall, rtol=1e-3, atol=1e-4):
            raise ModelError("its graph does not say what the network says")


def warm_up(moulds: ExportedGraphs, folder: Path) -> None:
    """Make a first model, of next to nothing: most of its seconds are imports."""
    import numpy as np
    import torch

    network = torch.nn.Flatten().eval()
    moulds.cast("nothing", network, np.zeros((2, 1, 2, 2), dtype=np.float32), folder)


def serve(folder: Path, requests: TextIO, answers: TextIO, *, urgent: bool = False) -> None:
    """Answer requests, a line each, until there are no more.

    Args:
        folder: For files of its own.
        requests: As `ModelExporter.make` writes them.
        answers: As it reads them.
        urgent: Whether the study computes nothing any more.
    """
    moulds = ExportedGraphs(folder)
    with suppress(Exception):  # what is wrong is told of the first real one
        _run(partial(warm_up, moulds, folder / "first"), urgent=urgent)
    for line in requests:
        request = json.loads(line)
        answer = _run(partial(_answer, moulds, request), urgent=request["urgent"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(moulds: ExportedGraphs, request: Mapping[str, Any]) -> dict[str, Any]:
    from orchestrator.errors import sentence
    from orchestrator.store.store import Store
    from orchestrator.tracking.models import materialise

    error, made, final = "", None, False
    description = request["description"]
    weights = ("stage", "key")
    kind = {name: value for name, value in description.items() if name not in weights}
    try:
        made = materialise(Store(request["store"]), description)
        if made is not None:
            text = json.dumps(kind, sort_keys=True)
            moulds.cast(text, *made, Path(request["folder"]))
    except Exception as failure:  # noqa: BLE001 - sent to the caller
        error = f"the model cannot be made: {sentence(failure)}"
        final = not isinstance(failure, OSError | MemoryError)  # those may pass
    return {"made": made is not None, "error": error, "final": final}


def _run(work: Callable[[], Any], *, urgent: bool) -> Any:
    """Return what a function returns, called in a thread of low priority unless it is urgent.

    Niceness is a thread's own on Linux, and no user may take it back.
    """
    found: list[Any] = []

    def run() -> None:
        import torch

        if not urgent:
            os.nice(NICE)
        torch.set_num_threads(1)
        found.append(work())

    thread = Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def _share_processors(pid: int | str, nice: int) -> None:
    """Give the session of a process its share of the processors.

    Linux shares them out among sessions first, where it groups by session, and a thread's own
    niceness counts within its session alone. A foundry has a session of its own.
    """
    with suppress(OSError):  # another kernel, or it does not group
        Path(f"/proc/{pid}/autogroup").write_text(str(nice), encoding="ascii")


def main() -> None:
    """Serve the driver that started this process, and end with it."""
    folder, driver, *words = sys.argv[1:]
    end_with(int(driver))
    _share_processors("self", 0 if words else NICE)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        serve(Path(folder), sys.stdin, answers, urgent=bool(words))


if __name__ == "__main__":
    main()
