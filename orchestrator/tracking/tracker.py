"""Records on their way to MLflow, and the wait for them at the end."""

import os
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from functools import partial
from math import inf
from pathlib import Path

from rich.console import Console
from rich.status import Status

from orchestrator.address import Address
from orchestrator.plan.columns import span
from orchestrator.terminal import PLAIN_EVERY, Interrupts
from orchestrator.tracking.client import Experiment, ModelMaker, load
from orchestrator.tracking.records import Record, fitted
from orchestrator.tracking.sqlite_setup import database_file
from orchestrator.tracking.sync import SyncState, SyncWorker
from orchestrator.tracking.upload_queue import UploadQueue

ENVIRONMENT = {  # a server that is away costs seconds, and MLflow keeps silent
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


class Tracker:
    """A study's way to MLflow; every method returns at once, but `close`.

    The first call imports MLflow, which takes a second or two; make it from the main thread.

    The server may be away, slow or refuse: what it has not got waits in the outbox and is
    delivered once, in order, when it is back or when the study runs again. A run that the
    user deleted is made again at the next start.

    Args:
        uri: ``sqlite:///FILE``, which is made if absent, or the address of a server.
        experiment: The study's name.
        outbox: File of the backlog, in the study's folder.
        maker: Makes records' models; without one, models are named as missing.
    """

    def __init__(
        self, *, uri: Address | str, experiment: str, outbox: Path, maker: ModelMaker | None = None
    ) -> None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        backlog = UploadQueue(outbox)
        self._maker = maker
        address = Address.of(uri).reveal()
        self._load = partial(load, file=database_file(address) is not None)

        def connect() -> Experiment:
            place = Experiment(address, experiment, maker)
            backlog.settle(address, place.name)
            return place

        self._courier = SyncWorker(backlog, backlog.place(address), connect)

    def record(self, record: Record) -> None:
        """Mirror `record` soon, after its parent's; the same record twice is one."""
        self._load()
        self._courier.record(fitted(record))

    def retire(self, present: Collection[str]) -> None:
        """Mark the runs of earlier starts whose keys are not `present` any more."""
        self._courier.retire(present)

    def expect_models(self) -> None:
        """Make ready for records with models, which are yet to come."""
        if self._maker is not None:
            self._maker.prepare()

    def hurry(self) -> None:
        """Make models as fast as this machine can: the study computes nothing any more."""
        if self._maker is not None:
            self._maker.hurry()

    @property
    def makes_model(self) -> bool:
        """Whether a record waits for its model to be made."""
        return self._maker is not None and self._maker.busy

    def flush(
        self, limit: float = inf, *, quiet: float = inf, look: Callable[[int], bool] | None = None
    ) -> None:
        """Wait as `SyncWorker.flush` does."""
        self._load()
        self._courier.flush(limit, quiet=quiet, look=look)

    def close(self, timeout: float) -> SyncState:
        """Deliver what can be delivered within `timeout` seconds, then stop for good."""
        self._load()
        delivery = self._courier.close(timeout)
        if self._maker is not None:
            self._maker.close()
        return delivery

    def run_ids(self) -> Mapping[str, str]:
        """Return run ids by key, of all that has arrived in this run of the study or before."""
        return self._courier.runs()


QUIET_SECONDS = 300.0  # without an arrival; a large model may take minutes to make
SILENT_SECONDS = 5.0  # before a person is told of the wait


class FlushProgress:
    """Waits until MLflow has everything, and says what is left whenever that changes.

    Args:
        tracker: What delivers.
        console: Where to write.
        interrupts: The first signal ends every wait; what is left stays for the next start.
    """

    def __init__(self, tracker: "Tracker", console: Console, interrupts: Interrupts) -> None:
        self._tracker, self._console, self._interrupts = tracker, console, interrupts

    def wait(self) -> None:
        """Wait until all is delivered, the server is away or nothing arrives any more."""
        began, most, said = time.monotonic(), 0, ""
        due = began + SILENT_SECONDS
        self._tracker.hurry()
        live = self._console.status("") if self._console.is_terminal else nullcontext()

        with live as status:

            def look(left: int) -> bool:
                nonlocal most, due, said
                now, most = time.monotonic(), max(most, left)
                what = _waiting(left, model=self._tracker.makes_model)
                pace = (most - left) / max(now - began, 0.1)
                rest = f", about {span(left / pace)}" if left and pace else ""
                text = f"{what}{rest}; Ctrl-C leaves its records for the next start"
                if isinstance(status, Status):
                    status.update(text)
                elif now >= due and what != said:
                    due = now + max(PLAIN_EVERY, (now - began) / 4)  # ever fewer lines
                    said = what
                    self._console.print(text, soft_wrap=True)
                return self._interrupts.signum is None

            self._tracker.flush(quiet=QUIET_SECONDS, look=look)


def _waiting(left: int, *, model: bool) -> str:
    """Return what is waited for; of 0 records that are left nothing is known yet."""
    if not left:
        return "MLflow does not answer yet"
    records = "record" if left == 1 else "records"
    making = ", now the files of a model" if model else ""
    return f"MLflow takes {left:,} more {records}{making}"
