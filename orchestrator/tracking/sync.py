"""Delivery of a study's runs to MLflow, by a background thread that retries.

Nothing waits for MLflow while a study runs. What MLflow holds of which run is noted in a table
in the study folder; a start of the study offers all records again, and the table says which of
them are still to be sent.
"""

import json
import os
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from math import inf
from pathlib import Path
from time import monotonic
from typing import NamedTuple, Self

from rich.console import Console

from orchestrator.address import Address
from orchestrator.errors import sentence
from orchestrator.plan.columns import span
from orchestrator.terminal import PLAIN_EVERY, Interrupts
from orchestrator.tracking.client import MISSING, Experiment, load
from orchestrator.tracking.records import Record, digest_of, fitted, text_digest, to_plain
from orchestrator.tracking.sqlite_setup import database_file

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts while a server is away
LOOK = 0.5  # seconds between two looks at a backlog
ATTEMPTS = 3  # for a record that a server refuses; the next run of the study tries again
RETIRED = "retired"  # in place of a digest: the run's scenario or trial left the grid
FORMER = "mlflow.jsonl"  # the journal of earlier versions, which begins with the study's name
ENVIRONMENT = {  # a server that is away costs seconds, and MLflow keeps silent
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


@dataclass(frozen=True)
class SyncState:
    """What became of the records.

    Attributes:
        delivered: Times that a run was made or brought up to date.
        left: Runs that wait for the next time.
        error: Last thing that went wrong, or None if nothing is left.
    """

    delivered: int
    left: int
    error: str | None


@dataclass(frozen=True)
class SyncedRun:
    """What MLflow holds of one key.

    Attributes:
        run: The run's id; "" where a kill may have come between its creation and this note.
        digest: Of the record as it arrived; "" where the run's content is unknown.
        parent: Id of the run above it, or "".
        tags: Names of the tags that were set, to remove those that a later record lacks.
        model: Digest of the model that was logged, or that cannot be.
    """

    run: str = ""
    digest: str = ""
    parent: str = ""
    tags: Sequence[str] = ()
    model: str = ""


class RunTable:
    """Which run holds what, in each experiment that the study was sent to: an SQLite file.

    It may be lost: runs are then found by their tags. Safe between threads.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        try:
            self._file = self._open(path)
        except sqlite3.OperationalError as error:
            raise OSError(f"{path}: {error}") from error
        except sqlite3.DatabaseError:  # damaged
            path.unlink()
            path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
            self._file = self._open(path)

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        # One driver holds the folder, whose file system may know no locks.
        uri = f"{path.absolute().as_uri()}?nolock=1"
        file = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        file.execute("pragma synchronous = off")  # it need not survive a loss of power
        runs = "runs (place text, key text, held text, primary key (place, key))"
        for table in (runs, "places (uri text primary key, place text)"):
            file.execute(f"create table if not exists {table}")
        return file

    def _execute(self, statement: str, *cells: str) -> list[tuple[str, ...]]:
        with self._lock:
            return self._file.execute(statement, cells).fetchall()

    def runs(self, place: str) -> dict[str, SyncedRun]:
        """Return what is known of an experiment's runs, by key."""
        rows = self._execute("select key, held from runs where place = ?", place)
        return {key: SyncedRun(*json.loads(held)) for key, held in rows}

    def write(self, place: str, key: str, held: SyncedRun) -> None:
        """Note what an experiment holds of a key."""
        text = json.dumps(astuple(held))
        self._execute("insert or replace into runs values (?, ?, ?)", place, key, text)

    def settle(self, uri: str, place: str) -> None:
        """Note which experiment an address leads to; the address itself may hold a secret."""
        self._execute("insert or replace into places values (?, ?)", text_digest(uri), place)

    def place(self, uri: str) -> str:
        """Return the experiment that an address led to last, or ""."""
        rows = self._execute("select place from places where uri = ?", text_digest(uri))
        return rows[0][0] if rows else ""

    def close(self) -> None:
        """Close the file: what a late thread writes raises an error."""
        with self._lock:
            self._file.close()


class _Offer(NamedTuple):
    """A record that waits."""

    record: Record
    digest: str
    model: str  # digest of its model, or ""


class SyncWorker:
    """Takes records at once and delivers them in the background; safe between threads.

    A server that is away is tried again after growing pauses. A record that an answering
    server refuses is set aside, so that the others pass. A run that the user deleted is made
    again at the next start.

    Args:
        connect: Opens the experiment; it may raise anything.
        table: What has arrived.
        study: Identifier of the study.
        uri: Address of the experiment's store.

    Attributes:
        experiment_id: MLflow's, once it was reached; "" before.
    """

    def __init__(
        self, connect: Callable[[], Experiment], table: RunTable, study: str, uri: str
    ) -> None:
        self._connect, self._table, self._study, self._uri = connect, table, study, uri
        self._experiment: Experiment | None = None
        self.experiment_id = ""
        self._name, self._seen = table.place(uri), ""  # experiments: of before, of this start
        self._runs = table.runs(self._name)
        self._change = threading.Condition(threading.RLock())
        self._queue: dict[str, _Offer | None] = {}  # None marks what left the grid
        self._refused: dict[str, _Offer | None] = {}
        self._refusals: Counter[str] = Counter()
        self._models: dict[str, _Offer] = {}
        self._present: Collection[str] | None = None
        self._delivered, self._error = 0, ""
        self._closing = self._stopped = self._away = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> None:
        """Deliver `record` soon, after its parent's; the same record twice is one."""
        model = "" if record.model is None else digest_of([record.model, record.registered])
        offer = _Offer(record := fitted(record), digest_of(to_plain(record)), model)
        key = record.key
        with self._change:
            self._models.pop(key, None)
            if model:
                self._models[key] = offer
            # Until the experiment is reached nobody knows which runs the user deleted.
            if self._experiment is not None and self._has(key, offer):
                self._queue.pop(key, None)
                return
            self._refused.pop(key, None)
            self._refusals.pop(key, None)
            self._queue[key] = offer
            if len(self._queue) == 1:  # a needless wake-up costs more than the record
                self._change.notify_all()

    def retire(self, present: Collection[str]) -> None:
        """Mark the runs whose keys are not `present`; a later record of a key takes it back."""
        with self._change:
            self._present = present
            if self._experiment is not None:
                self._queue = self._lacking()
                self._change.notify_all()

    def run_ids(self) -> Mapping[str, str]:
        """Return run ids by key, of all that has arrived in this run of the study or before."""
        with self._change:
            return {key: held.run for key, held in self._runs.items() if held.digest}

    def models(self) -> dict[str, tuple[str, Record]]:
        """Return run id and record, by key, of runs that have arrived but for their model.

        While the server is away there are none.
        """
        with self._change:
            if self._experiment is None:
                return {}
            return {
                key: (self._runs[key].run, offer.record)
                for key, offer in self._models.items()
                if self._has(key, offer) and self._runs[key].model != offer.model
            }

    def settle_model(self, key: str) -> None:
        """Note that the model of a key is logged, or that it can never be."""
        with self._change:
            held, model = self._runs[key], self._models[key].model
            self._note(key, replace(held, model=model, tags=[*held.tags, MISSING]))

    def flush(
        self, limit: float = inf, *, quiet: float = inf, look: Callable[[int], bool] | None = None
    ) -> None:
        """Wait until all is delivered, the server turns out to be away, or time is up.

        A server that took something since may be away for a minute.

        Args:
            limit: Seconds to wait at most.
            quiet: Seconds to wait at most without an arrival.
            look: Called now and then with the number of records left, 0 while the server is not
                reached; returns whether to wait on.
        """
        with self._change:
            self._away = False
            self._change.notify_all()
            first = seen = self._delivered
        began = last = monotonic()

        def over() -> bool:
            return self._delivered == first if self._away else not self._queue

        while True:
            with self._change:
                step = min(LOOK, began + limit - monotonic())
                if self._change.wait_for(over, max(0.0, step)):
                    return
                left = 0 if self._experiment is None else len(self._queue)
                patience = LONGEST_PAUSE if self._away else quiet
                if self._delivered > seen:
                    seen, last = self._delivered, monotonic()
            now = monotonic()
            if now - began >= limit or now - last >= patience:
                return
            if look is not None and not look(left):
                return

    def close(self, timeout: float) -> SyncState:
        """Deliver what can be delivered within `timeout` seconds, then stop for good."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join(timeout)
        with self._change:
            self._stopped = True
            self._table.close()
            left = len(self._lacking() | self._refused)
            error = self._error or f"not finished within {timeout:g} s"
            return SyncState(delivered=self._delivered, left=left, error=error if left else None)

    def _above(self, record: Record) -> SyncedRun | None:
        """Return what the experiment holds of a record's parent; nothing where it has none."""
        return SyncedRun() if record.parent is None else self._runs.get(record.parent)

    def _has(self, key: str, offer: _Offer) -> bool:
        """Return whether the experiment holds a record, under its parent."""
        held, above = self._runs.get(key), self._above(offer.record)
        if held is None or above is None:
            return False
        return (held.digest, held.parent) == (offer.digest, above.run)

    def _lacking(self) -> dict[str, _Offer | None]:
        """Return what the experiment lacks of the queue, and marks of runs that left the grid."""
        lacking = {
            key: offer
            for key, offer in self._queue.items()
            if offer is None or not self._has(key, offer)
        }
        if self._present is not None:
            for key, held in self._runs.items():
                if held.run and held.digest != RETIRED and key not in self._present:
                    lacking[key] = None
        return lacking

    def _note(self, key: str, held: SyncedRun) -> None:
        self._table.write(self._name, key, held)
        self._runs[key] = held

    def _work(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopped:
            key = None
            try:
                with self._change:
                    self._change.wait_for(lambda: self._queue or self._closing)
                    if not self._queue:
                        return
                experiment = self._reach()
                with self._change:
                    key, offer = next(iter(self._queue.items()), (None, None))
                if key is not None:
                    self._deliver(experiment, key, offer)
                pause = FIRST_PAUSE
            except Exception as error:  # noqa: BLE001 - whatever happens here, the study goes on
                self._error = sentence(error)
                if key is not None and self._answers():
                    self._set_aside(key)
                    continue
                with self._change:
                    self._experiment, self._away = None, True
                    self._change.notify_all()
                    if self._closing:
                        return
                    self._change.wait_for(lambda: self._closing or not self._away, pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _reach(self) -> Experiment:
        if self._experiment is not None:
            return self._experiment
        experiment = self._connect()
        runs = self._runs
        if experiment.name != self._seen:
            runs = self._table.runs(experiment.name)
            if not runs:  # the table was lost, or the experiment is new to it
                found = experiment.find(self._study)
                runs = {key: SyncedRun(run=run) for key, run in found.items()}
            deleted = experiment.deleted(self._study)
            runs = {key: held for key, held in runs.items() if held.run not in deleted}
            self._table.settle(self._uri, experiment.name)
        with self._change:
            self._name = self._seen = experiment.name
            self.experiment_id = experiment.id
            self._runs, self._experiment, self._away = runs, experiment, False
            self._queue = self._lacking()
            self._change.notify_all()
        return experiment

    def _answers(self) -> bool:
        with suppress(Exception):  # any failure is a no
            return self._experiment is not None and self._experiment.answers()
        return False

    def _set_aside(self, key: str) -> None:
        with self._change:
            self._refusals[key] += 1
            last = self._refusals[key] >= ATTEMPTS
            (self._refused if last else self._queue)[key] = self._queue.pop(key)
            self._change.notify_all()

    def _deliver(self, experiment: Experiment, key: str, offer: _Offer | None) -> None:
        """Bring the run of `key` up to date."""
        held = self._runs.get(key)
        if offer is None:
            held = held or SyncedRun()
            tags = dict.fromkeys(["in_grid", *({"best"} & {*held.tags})], "False")
            experiment.tag(held.run, tags)
            arrived = replace(held, digest=RETIRED, tags=[*held.tags, *tags])
        else:
            record = offer.record
            above = self._above(record)
            if above is None or (record.parent is not None and not above.run):
                raise RuntimeError(f"{key}: its parent is not there")
            if held is None:
                self._note(key, SyncedRun())  # if a kill follows, the run is looked for by its tag
            known = (None, ()) if held is None else (held.run, held.tags)
            run, names = experiment.upsert(self._study, record, above.run, *known)
            same = held is not None and (held.run, held.model) == (run, offer.model)
            arrived = SyncedRun(run, offer.digest, above.run, names, offer.model if same else "")
        with self._change:
            if self._stopped:
                return
            self._note(key, arrived)
            self._delivered += 1
            if self._queue.get(key) is offer:  # else a newer record came
                self._queue.pop(key, None)
            self._change.notify_all()


class NoSync(SyncWorker):
    """Stands for the worker in a study without MLflow: it drops records and has no runs."""

    def __init__(self) -> None:
        self.experiment_id = ""

    def record(self, record: Record) -> None:
        del record

    def retire(self, present: Collection[str]) -> None:
        del present

    def run_ids(self) -> Mapping[str, str]:
        return {}

    def models(self) -> dict[str, tuple[str, Record]]:
        return {}

    def flush(
        self, limit: float = inf, *, quiet: float = inf, look: Callable[[int], bool] | None = None
    ) -> None:
        del limit, quiet, look

    def close(self, timeout: float) -> SyncState:
        del timeout
        return SyncState(delivered=0, left=0, error=None)


def open_sync(uri: Address | str | None, experiment: str, file: Path, study: str) -> SyncWorker:
    """Return a study's way to MLflow, which is imported here: call this in the main thread.

    Args:
        uri: ``sqlite:///FILE``, which is made if absent, or the address of a server. None is no
            MLflow: nothing is imported.
        experiment: The study's name.
        file: Of the table, in the study's folder; beside it lies what an earlier version wrote.
        study: The study's identifier.

    Raises:
        OSError: The table cannot be written.
    """
    if uri is None:
        return NoSync()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = Address.of(uri).reveal()
    load(file=database_file(address) is not None)
    table = RunTable(file)
    with suppress(OSError, ValueError, KeyError, IndexError):
        former = (file.parent / FORMER).read_text(encoding="utf-8").splitlines()
        study = str(json.loads(former[0])["study"])  # so its runs are found, not doubled
    return SyncWorker(lambda: Experiment(address, experiment), table, study, address)


QUIET_SECONDS = 300.0  # without an arrival; a large model may take minutes to make
SILENT_SECONDS = 5.0  # before the wait is shown


class EndProgress:
    """Shows what the end of a study waits for, on a terminal always, else ever less often.

    Args:
        console: Where to write.
        interrupts: The first signal ends every wait; what is left stays for the next start.
    """

    def __init__(self, console: Console, interrupts: Interrupts) -> None:
        self._console, self._interrupts = console, interrupts
        self._status = console.status("") if console.is_terminal else None
        self._began, self._said = monotonic(), ""
        self._due = self._began + SILENT_SECONDS

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, what: str, done: int, left: int) -> bool:
        """Show what is waited for, with an estimate of the time, and return whether to wait on."""
        now = monotonic()
        pace = done / max(now - self._began, 0.1)
        rest = f", about {span(left / pace)}" if left and pace else ""
        text = f"{what}{rest}; Ctrl-C leaves the rest for the next start"
        if self._status is not None:
            self._status.update(text)
        elif now >= self._due and what != self._said:
            self._due = now + max(PLAIN_EVERY, (now - self._began) / 4)
            self._said = what
            self._console.print(text, soft_wrap=True)
        return self._interrupts.signum is None

    def flush(self, worker: SyncWorker) -> None:
        """Wait until all is delivered, the server is away or nothing arrives any more."""
        most = 0

        def look(left: int) -> bool:
            nonlocal most
            most = max(most, left)
            records = "record" if left == 1 else "records"
            what = f"MLflow takes {left:,} more {records}" if left else "MLflow does not answer yet"
            return self.show(what, most - left, left)

        worker.flush(quiet=QUIET_SECONDS, look=look)
