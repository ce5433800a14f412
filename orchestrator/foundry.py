"""MLflow's folders of models, made in a process of its own at the lowest priority.

Exporting a network changes things that belong to the whole process while it lasts; the driver,
which may be training at the moment, is left alone.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from threading import Lock
from typing import Any, TextIO

from orchestrator.warden import unmarked

PROGRAM = "model.pt2"  # in the folder `data` of a model


class Foundry:
    """Makes models by their descriptions from what a store holds, one after the other."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._lock = Lock()  # one thread wants a model while another closes or prepares
        self._process: subprocess.Popen[str] | None = None
        self._scratch: str | None = None
        self._closed = False

    def prepare(self) -> None:
        """Start the process, which takes seconds to be ready, and return at once."""
        with suppress(RuntimeError):  # the first model that is wanted meets it again, and tells
            self._running()

    def make(self, description: Mapping[str, Any], folder: Path) -> bool:
        """Make `folder` with a model in it; return False if its weights are gone.

        Raises:
            RuntimeError: It cannot be made; the text says why in one line.
        """
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process that makes models has no pipes")
        try:
            request = {"description": dict(description), "folder": str(folder)}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except (OSError, ValueError):
            line = ""
        if not line:
            with self._lock:
                self._end()
            raise RuntimeError("the process that makes models ended")
        answer = json.loads(line)
        if answer["error"]:
            raise RuntimeError(f"the model cannot be made: {answer['error']}")
        return bool(answer["made"])

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
        self._scratch = mkdtemp(prefix="ulrl-models-")
        command = [sys.executable, "-W", "ignore", "-m", "orchestrator.foundry"]
        return subprocess.Popen(  # noqa: S603 - our interpreter, our module
            [*command, self._store, self._scratch],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=unmarked(),
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which ends it by its pipe
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        scratch, self._scratch = self._scratch, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError, ValueError):
                        pipe.close()
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


class Moulds:
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
            RuntimeError: The model does not say what the network says.
        """
        import torch

        from orchestrator.tracking.portable import save_portable

        mould = self._names.get(kind)
        if mould is None:
            mould = self._names[kind] = self._folder / str(len(self._names))
            save_portable(network, example, mould)
        shutil.copytree(mould, folder)
        program = torch.export.load(mould / "data" / PROGRAM)
        state = network.state_dict()
        if set(program.state_dict) - set(state):
            raise RuntimeError("its graph holds weights that the network lacks")
        for name, old in program.state_dict.items():
            kept = isinstance(old, torch.nn.Parameter)
            program.state_dict[name] = torch.nn.Parameter(state[name]) if kept else state[name]
        torch.export.save(program, folder / "data" / PROGRAM)
        with torch.inference_mode():
            images = torch.rand(3, *example.shape[1:], generator=torch.Generator().manual_seed(0))
            says, shall = program.module()(images), network(images)
        if not torch.allclose(says, shall, rtol=1e-3, atol=1e-4):
            raise RuntimeError("its graph does not say what the network says")


def warm_up(moulds: Moulds, folder: Path) -> None:
    """Make a first model, of next to nothing: most of its seconds are imports."""
    import numpy as np
    import torch

    network = torch.nn.Flatten().eval()
    moulds.cast("nothing", network, np.zeros((2, 1, 2, 2), dtype=np.float32), folder)


def serve(store: str, scratch: Path, requests: TextIO, answers: TextIO) -> None:
    """Answer requests, a line each, until there are no more."""
    import torch

    from orchestrator.delivery import sentence
    from orchestrator.modelling import materialise
    from orchestrator.store import Store

    torch.set_num_threads(1)
    place, moulds = Store(store), Moulds(scratch)
    with suppress(Exception):  # what is wrong is told of the first real one
        warm_up(moulds, scratch / "first")
    for line in requests:
        request, error, made = json.loads(line), "", None
        description = request["description"]
        weights = ("stage", "key")
        kind = {name: value for name, value in description.items() if name not in weights}
        try:
            made = materialise(place, description)
            if made is not None:
                text = json.dumps(kind, sort_keys=True)
                moulds.cast(text, *made, Path(request["folder"]))
        except Exception as failure:  # noqa: BLE001 - told to who asked
            error = sentence(failure)
        answers.write(json.dumps({"made": made is not None, "error": error}) + "\n")
        answers.flush()


def yield_to_others() -> None:
    """Take only what processors have to spare.

    Linux shares them out among sessions first, where it groups by session, and a process' own
    niceness counts within its session alone. This one has a session of its own.
    """
    os.nice(10)
    with suppress(OSError):  # another kernel, or it does not group
        Path("/proc/self/autogroup").write_text("10", encoding="ascii")


def main() -> None:
    """Serve the driver that started this process."""
    yield_to_others()
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        scratch = Path(sys.argv[2])
        try:
            serve(sys.argv[1], scratch, sys.stdin, answers)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # a driver that was killed does not


if __name__ == "__main__":
    main()
