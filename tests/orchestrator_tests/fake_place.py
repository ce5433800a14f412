"""A place in memory for records, which can be away, refuse, and lose its answers."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import StoredRun, SyncWorker

STUDY = Record(key="study", parent=None, name="demo")


def trial(number: int, parent: str = "study") -> Record:
    return Record(key=f"trial-{number}", parent=parent, name=f"trial {number}")


class AwayError(Exception):
    """The server cannot be reached."""


class RefusalError(Exception):
    """The server says no."""


@dataclass
class FakePlace:
    """A store that keeps runs as pairs of record and parent, in the order of their birth."""

    name: str = "here"
    away: bool = False
    refused: set[str] = field(default_factory=set)
    forget_after_create: set[str] = field(default_factory=set)
    runs: dict[str, tuple[str, Record | None, str | None]] = field(default_factory=dict)
    trash: dict[str, tuple[str, Record | None, str | None]] = field(default_factory=dict)
    births: list[str] = field(default_factory=list)
    brought: list[str] = field(default_factory=list)

    def connect(self) -> "FakePlace":
        self._reach()
        return self

    def answers(self) -> bool:
        self._reach()
        return True

    def find(self, study: str, key: str | None = None) -> dict[str, str]:
        self._reach()
        mine = f"{study}/"
        keys = {born.removeprefix(mine): run for run, (born, _, _) in self.runs.items()}
        return {k: run for k, run in keys.items() if key in (None, k)}

    def deleted(self, study: str) -> set[str]:
        self._reach()
        return {run for run, (born, _, _) in self.trash.items() if born.startswith(f"{study}/")}

    def delete(self, key: str) -> None:
        """Be a user who deletes the run of a key."""
        run = next(run for run, (_, record, _) in self.runs.items() if record and record.key == key)
        self.trash[run] = self.runs.pop(run)

    def get(self, run: str) -> StoredRun | None:
        self._reach()
        return StoredRun(run, None) if run in self.runs else None

    def create(self, study: str, record: Record, parent: str | None) -> StoredRun:
        self._reach()
        run = f"run{len(self.births)}"
        self.births.append(record.key)
        self.runs[run] = (f"{study}/{record.key}", None, parent)
        if record.key in self.forget_after_create:
            self.forget_after_create.discard(record.key)
            raise AwayError("the answer was lost")
        return StoredRun(run, None)

    def bring(
        self, held: StoredRun, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        del former
        self._reach()
        if record.key in self.refused:
            raise RefusalError(f"no {record.key} here\nsecond line")
        self.brought.append(record.key)
        self.runs[held.run] = (self.runs[held.run][0], record, parent)
        return ()

    def content(self) -> dict[str, tuple[str, str | None]]:
        """Return name and parent's key of each run that holds a record, by key."""
        keys: dict[str | None, str | None] = {None: None}
        keys |= {run: record.key for run, (_, record, _) in self.runs.items() if record}
        held = [(record, keys[parent]) for _, record, parent in self.runs.values() if record]
        assert len({record.key for record, _ in held}) == len(held)
        return {record.key: (record.name, parent) for record, parent in held}

    def _reach(self) -> None:
        if self.away:
            raise AwayError("nobody at http://user:secret@server/")


Start = Callable[[FakePlace], SyncWorker]
