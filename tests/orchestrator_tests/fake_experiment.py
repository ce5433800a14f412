"""An experiment in memory, which can be away, refuse, and lose its answers."""

from collections.abc import Callable, Collection, Mapping
from time import sleep

from orchestrator.tracking.client import Experiment
from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import SyncWorker

STUDY = Record(key="study", parent=None, name="demo")


def trial(number: int, parent: str = "study") -> Record:
    return Record(key=f"trial-{number}", parent=parent, name=f"trial {number}")


class AwayError(Exception):
    """The server cannot be reached."""


class RefusalError(Exception):
    """The server says no."""


class FakeExperiment(Experiment):
    """Keeps runs by id as study, record (None if it never came), id of the parent and tags.

    Attributes:
        made: Keys of runs in the order of their creation.
        sent: Keys of records in the order of their arrival.
        gone: First and last call that nobody answers, by their count.
        pause: Seconds that a record takes.
    """

    def __init__(self, name: str = "here", *, away: bool = False) -> None:
        self.name, self.id, self.away = name, "7", away
        self.refused: set[str] = set()
        self.forget_after_create: set[str] = set()
        self.runs: dict[str, tuple[str, Record | None, str, dict[str, str]]] = {}
        self.keys: dict[str, str] = {}
        self.trash: set[str] = set()
        self.made: list[str] = []
        self.sent: list[str] = []
        self.gone, self.calls, self.pause = (-1, -1), 0, 0.0

    def connect(self) -> "FakeExperiment":
        self._reach()
        return self

    def answers(self) -> bool:
        self._reach()
        return True

    def find(self, study: str, key: str | None = None) -> dict[str, str]:
        self._reach()
        own = {self.keys[run]: run for run, (of, *_) in self.runs.items() if of == study}
        return {k: run for k, run in own.items() if key in (None, k)}

    def deleted(self, study: str) -> set[str]:
        del study
        self._reach()
        return self.trash

    def delete(self, key: str) -> None:
        """Be a user who deletes the run of a key."""
        run = next(run for run in self.runs if self.keys[run] == key)
        del self.runs[run]
        self.trash.add(run)

    def upsert(
        self, study: str, record: Record, parent: str, run: str | None, former: Collection[str]
    ) -> tuple[str, tuple[str, ...]]:
        self._reach()
        sleep(self.pause)
        if run == "":
            run = self.find(study, record.key).get(record.key)
        if run not in self.runs:
            run = f"run{len(self.made)}"
            self.made.append(record.key)
            self.keys[run] = record.key
            self.runs[run] = (study, None, parent, {})
            if record.key in self.forget_after_create:
                self.forget_after_create.discard(record.key)
                raise AwayError("the answer was lost")
        if record.key in self.refused:
            raise RefusalError(f"no {record.key} here\nsecond line")
        tags = {name: v for name, v in self.runs[run][3].items() if name not in former}
        self.sent.append(record.key)
        self.runs[run] = (study, record, parent, tags | dict(record.tags))
        return run, tuple(record.tags)

    def tag(self, run: str, tags: Mapping[str, str]) -> None:
        self._reach()
        if run in self.runs:
            self.runs[run][3].update(tags)

    def content(self) -> dict[str, tuple[str, str | None]]:
        """Return name and parent's key of each run that holds a record, by key."""
        held = [(record, parent) for _, record, parent, _ in self.runs.values() if record]
        assert len({record.key for record, _ in held}) == len(held)
        return {record.key: (record.name, self.keys.get(parent)) for record, parent in held}

    def tags(self) -> dict[str, dict[str, str]]:
        """Return the tags of each run by its key."""
        return {self.keys[run]: tags for run, (*_, tags) in self.runs.items()}

    def _reach(self) -> None:
        self.calls += 1
        if self.away or self.gone[0] <= self.calls <= self.gone[1]:
            raise AwayError("nobody at http://user:secret@server/")


Start = Callable[[FakeExperiment], SyncWorker]
