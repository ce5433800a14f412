"""Export of models to MLflow at the end of a study, in one process for all of them.

To export a network takes seconds and gigabytes, and changes things that belong to the whole
process. The driver only shows how far it is, so it can always stop waiting.
"""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from select import select
from tempfile import TemporaryFile
from time import monotonic
from typing import IO, Any, TextIO, cast

from orchestrator.address import Address
from orchestrator.errors import sentence
from orchestrator.plan.jobs import Job
from orchestrator.processes import end_with
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Verdict
from orchestrator.tracking.client import MISSING, Experiment
from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import LOOK, QUIET_SECONDS, EndProgress, SyncWorker

SENT = ("key", "model", "registered", "params", "metrics")  # of a record
LOGGED, GONE, IMPOSSIBLE, LATER = "logged", "gone", "impossible", "later"


@dataclass(kw_only=True)
class ExportState:
    """What became of the models.

    Attributes:
        logged: How many MLflow has now.
        gone: How many the store does not hold.
        impossible: Why networks cannot be exported, a line for each; they are not tried again.
        left: How many wait for the next start.
        error: Why, in one line.
    """

    logged: int = 0
    gone: int = 0
    impossible: list[str] = field(default_factory=list)
    left: int = 0
    error: str = ""


class ModelExporter(StudyCallback):
    """The process that exports models.

    It imports what an export needs, which takes some seconds, while the last trials still run.

    Args:
        trials: Number of the study's trials.
        last: The process starts when no more of them are undecided; 0 starts it by `export` only.
    """

    def __init__(self, trials: int = 0, last: int = 0) -> None:
        self._undecided, self._last = trials, last
        self._process: subprocess.Popen[bytes] | None = None
        self._request: IO[bytes] | None = None

    def started(self, job: Job) -> None:
        del job
        if 0 < self._last >= self._undecided and self._process is None:
            with suppress(OSError):  # the export reports it
                self._start()

    def decided(self, verdict: Verdict) -> None:
        del verdict
        self._undecided -= 1

    def export(
        self,
        worker: SyncWorker,
        uri: Address | str | None,
        experiment: str,
        store: Address | str,
        progress: EndProgress,
    ) -> ExportState:
        """Export the models that runs lack; of what fails the state says why.

        Args:
            worker: Has delivered the runs.
            uri: As for the worker.
            experiment: Likewise.
            store: Where the weights are.
            progress: Shows the wait, and says when a person ends it.
        """
        from ulrl.plugins import loaded

        jobs, state = worker.models(), ExportState()
        if uri is None or not jobs:
            return state
        request = {
            "uri": Address.of(uri).reveal(),
            "experiment": experiment,
            "store": Address.of(store).reveal(),
            "plugins": [asdict(plugin) for plugin in loaded()],
            "jobs": [
                {"run": run} | {name: getattr(record, name) for name in SENT}
                for run, record in jobs.values()
            ],
        }
        try:
            for key, result, text in self._answers(request, len(jobs), progress):
                if result == LATER:
                    state.error = text
                    continue
                worker.settle_model(key)
                state.logged += result == LOGGED
                state.gone += result == GONE
                state.impossible += [text] * (result == IMPOSSIBLE)
        except (OSError, RuntimeError, ValueError, sqlite3.Error) as error:
            state.error = sentence(error)
        state.left = len(worker.models())
        return state

    def close(self) -> None:
        """End the process."""
        if self._process is None or self._request is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._request, self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _start(self) -> tuple["subprocess.Popen[bytes]", IO[bytes]]:
        """Return the process and the file of its request, which has no name for others to see."""
        if self._process is None or self._request is None:
            self._request = TemporaryFile()  # noqa: SIM115 - closed by `close`
            place = self._request.fileno()
            command = [sys.executable, "-W", "ignore", "-m", "orchestrator.tracking.model_export"]
            self._process = subprocess.Popen(  # noqa: S603 - our interpreter, our module
                [*command, str(os.getpid()), str(place)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,  # so that no line waits where `select` does not see it
                start_new_session=True,  # Ctrl-C is for the driver, which ends it
                pass_fds=[place],
            )
        return self._process, self._request

    def _answers(
        self, request: Mapping[str, Any], total: int, progress: EndProgress
    ) -> Iterator[list[str]]:
        """Yield key, result and reason of each of `total` models.

        Raises:
            OSError: The process cannot be started.
            RuntimeError: It ended before all was done, says nothing, or is waited for no more.
            ValueError: Its answer is none.
        """
        process, file = self._start()
        file.write(json.dumps(request).encode())
        file.flush()
        stdin, stdout = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        stdin.close()  # the request is there
        done, last = 0, monotonic()
        while done < total:
            what = f"MLflow takes model {done + 1:,} of {total:,}"
            if not progress.show(what, done, total - done):
                raise RuntimeError("interrupted")
            if monotonic() - last > QUIET_SECONDS:
                raise RuntimeError(f"no model was exported within {QUIET_SECONDS:.0f} s")
            if select([stdout], [], [], LOOK)[0]:
                line = stdout.readline()
                if not line:
                    code = process.wait()
                    raise RuntimeError(f"the export of models ended with exit code {code}")
                done, last = done + 1, monotonic()
                yield json.loads(line)


def warm_up() -> None:
    """Import what an export needs; torch imports most of its exporter with the first export."""
    import torch

    torch.set_num_threads(1)
    for name in ("orchestrator.tracking.models", "mlflow.pytorch"):
        importlib.import_module(name)
    torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(2, 1),))


def serve(request: Mapping[str, Any], answers: TextIO) -> None:
    """Export models one after the other, and answer a line for each."""
    from orchestrator.store.store import Store
    from ulrl.plugins import Plugin, load_plugin

    for plugin in request["plugins"]:
        load_plugin(Plugin(**plugin))
    uri = Address.of(request["uri"]).reveal()  # so that no error shows its secret
    experiment = Experiment(uri, request["experiment"])
    store = Store(request["store"])
    for job in request["jobs"]:
        result, reason = _export(experiment, store, job)
        answers.write(json.dumps([job["key"], result, reason]) + "\n")
        answers.flush()


def _export(experiment: Experiment, store: Any, job: Mapping[str, Any]) -> tuple[str, str]:
    """Return how the export of a model went, and the reason if it went wrong."""
    from orchestrator.tracking.models import materialise, save_portable

    failures: list[Exception] = []

    def make(folder: Path) -> bool:
        try:
            made = materialise(store, job["model"])
            if made is not None:
                save_portable(*made, folder)
        except Exception as error:
            failures.append(error)
            raise
        return made is not None

    record = Record(parent=None, name="", **{name: job[name] for name in SENT})
    try:
        return (LOGGED if experiment.log_model(job["run"], record, make) else GONE), ""
    except Exception as error:  # noqa: BLE001 - sent to the driver
        if not failures or isinstance(error, OSError | MemoryError):  # those may pass
            return LATER, sentence(error)
        reason = f"the model cannot be exported: {sentence(error)}"
        with suppress(Exception):
            experiment.tag(job["run"], {MISSING: f"model ({reason})"})
        return IMPOSSIBLE, reason


def main() -> None:
    """Serve the driver that started this process, and end with it."""
    end_with(int(sys.argv[1]))
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)  # whatever a library prints is no answer
        warm_up()
        sys.stdin.read()  # until the request is there
        with os.fdopen(int(sys.argv[2])) as request:
            request.seek(0)
            serve(json.load(request), answers)


if __name__ == "__main__":
    main()
