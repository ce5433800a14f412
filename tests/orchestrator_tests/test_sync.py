"""Delivery to an experiment in memory that can be away, refuse, and lose its answers."""

import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from time import monotonic, sleep

import pytest
from rich.console import Console

from orchestrator.terminal import Interrupts
from orchestrator.tracking import sync
from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import EndProgress, RunTable, SyncState, SyncWorker
from tests.orchestrator_tests.fake_experiment import STUDY, FakeExperiment, Start, trial


def send(worker: SyncWorker, *records: Record) -> SyncState:
    for record in records:
        worker.record(record)
    return worker.close(5)


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 10
    while not condition():
        assert monotonic() < end
        sleep(0.005)


# What arrives, and how often.


def test_records_arrive_in_order_under_their_parents(start: Start) -> None:
    there = FakeExperiment()
    worker = start(there)
    assert send(worker, STUDY, trial(1), trial(2, "trial-1")) == SyncState(3, 0, None)
    assert there.made == ["study", "trial-1", "trial-2"]
    assert there.content() == {
        "study": ("demo", None),
        "trial-1": ("trial 1", "study"),
        "trial-2": ("trial 2", "trial-1"),
    }
    assert worker.run_ids() == {"study": "run0", "trial-1": "run1", "trial-2": "run2"}


def test_a_second_start_sends_what_has_changed(start: Start) -> None:
    there = FakeExperiment()
    send(start(there), STUDY, trial(1), replace(trial(2), tags={"old": "1"}))
    again = start(there)
    assert again.run_ids() == {"study": "run0", "trial-1": "run1", "trial-2": "run2"}
    changed = replace(trial(2), name="better", tags={"new": "2"})
    assert send(again, STUDY, trial(1), changed) == SyncState(1, 0, None)
    assert there.made == ["study", "trial-1", "trial-2"]
    assert there.content()["trial-2"] == ("better", "study")
    assert there.tags()["trial-2"] == {"new": "2"}
    assert send(start(there), STUDY, trial(1), changed) == SyncState(0, 0, None)


def test_a_server_that_is_away_gets_everything_from_the_next_start(start: Start) -> None:
    there = FakeExperiment(away=True)
    away = SyncState(0, 2, "nobody at http://***@server/")
    assert send(start(there), STUDY, trial(1)) == away
    second = start(there)
    second.record(STUDY)
    second.record(trial(1))
    sleep(0.05)
    assert there.made == []
    there.away = False
    wait_until(lambda: len(second.run_ids()) == 2)
    assert there.made == ["study", "trial-1"]
    assert second.close(5) == SyncState(2, 0, None)


def test_a_run_whose_creation_was_not_answered_is_found_not_doubled(start: Start) -> None:
    there = FakeExperiment()
    there.forget_after_create = {"trial-1"}
    assert send(start(there), STUDY, trial(1), trial(2)) == SyncState(3, 0, None)
    assert sorted(there.made) == ["study", "trial-1", "trial-2"]
    assert there.content()["trial-1"] == ("trial 1", "study")


def test_a_refused_record_lets_the_others_pass_and_is_tried_again_next_time(start: Start) -> None:
    there = FakeExperiment()
    there.refused = {"trial-1"}
    records = (STUDY, trial(1), trial(2), trial(3, "trial-1"))
    assert send(start(there), *records).left == 2
    assert there.sent == ["study", "trial-2"]
    there.refused.clear()
    assert send(start(there), *records) == SyncState(2, 0, None)
    assert there.made == ["study", "trial-1", "trial-2", "trial-3"]


@pytest.mark.parametrize("damage", [None, b"no database", b"SQLite format 3\0" + b"x" * 5000])
def test_a_table_that_is_lost_or_damaged_doubles_nothing(
    start: Start, tmp_path: Path, damage: bytes | None
) -> None:
    there = FakeExperiment()
    send(start(there), STUDY, trial(1))
    there.runs["run9"], there.keys["run9"] = ("other-study", None, "", {}), "trial-2"
    (tmp_path / "runs.sqlite").unlink()
    if damage is not None:
        (tmp_path / "runs.sqlite").write_bytes(damage)
    assert send(start(there), STUDY, trial(1), trial(2)) == SyncState(3, 0, None)
    assert there.made == ["study", "trial-1", "trial-2"]
    assert there.runs["run9"] == ("other-study", None, "", {})


def test_runs_that_the_user_deleted_are_made_again_at_the_next_start(start: Start) -> None:
    there = FakeExperiment()
    records = (STUDY, trial(1), trial(2, "trial-1"), trial(3))
    send(start(there), *records)
    there.delete("trial-1")
    again = start(there)
    # The child is sent again too: it hung under the run that is gone.
    assert send(again, *records) == SyncState(2, 0, None)
    assert again.run_ids() == {
        "study": "run0",
        "trial-1": "run4",
        "trial-2": "run2",
        "trial-3": "run3",
    }
    assert there.content()["trial-2"] == ("trial 2", "trial-1")
    assert send(start(there), *records) == SyncState(0, 0, None)
    assert there.made == ["study", "trial-1", "trial-2", "trial-3", "trial-1"]


def test_what_left_the_grid_is_marked_until_it_is_back(start: Start) -> None:
    there = FakeExperiment()
    best = replace(trial(1), tags={"best": "True"})
    send(start(there), STUDY, best, trial(2))

    def shrunk() -> SyncState:
        worker = start(there)
        worker.record(STUDY)
        worker.retire({"study", "trial-2"})
        return worker.close(5)

    assert shrunk() == SyncState(1, 0, None)
    marked = {"best": "False", "in_grid": "False"}
    assert there.tags() == {"study": {}, "trial-1": marked, "trial-2": {}}
    assert shrunk() == SyncState(0, 0, None)
    assert send(start(there), STUDY, best) == SyncState(1, 0, None)
    assert there.tags()["trial-1"] == {"best": "True"}
    shrunk()
    there.delete("trial-1")
    assert shrunk() == SyncState(0, 0, None)  # what left the grid and was deleted stays deleted
    assert there.made == ["study", "trial-1", "trial-2"]


def test_the_table_holds_no_secret_of_an_address(tmp_path: Path) -> None:
    table = RunTable(tmp_path / "runs.sqlite")
    assert table.place("http://user:secret@server") == ""
    table.settle("http://user:secret@server", "here")
    table.close()
    again = RunTable(tmp_path / "runs.sqlite")
    assert (again.place("http://user:secret@server"), again.place("http://other")) == ("here", "")
    again.close()
    assert b"secret" not in (tmp_path / "runs.sqlite").read_bytes()


# How long delivery is waited for.


def test_flushing_waits_for_what_can_be_delivered_and_no_longer(start: Start) -> None:
    there = FakeExperiment()
    there.refused = {"trial-1"}
    worker = start(there)
    for record in (STUDY, trial(1), trial(2)):
        worker.record(record)
    worker.flush(5)
    assert set(worker.run_ids()) == {"study", "trial-2"}
    there.away = True
    worker.record(trial(3))
    begin = monotonic()
    worker.flush(5)
    assert monotonic() - begin < 2
    there.away = False
    worker.flush(5)
    assert set(worker.run_ids()) == {"study", "trial-2", "trial-3"}
    ended = worker.close(5)
    assert (ended.delivered, ended.left) == (3, 1)


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LOOK", 0.01)


@pytest.mark.usefixtures("quick_looks")
def test_flushing_goes_on_while_records_arrive_and_tells_how_many_are_left(start: Start) -> None:
    there, seen = FakeExperiment(), []
    there.pause = 0.02
    worker = start(there)
    for record in (STUDY, *map(trial, range(20))):
        worker.record(record)

    def look(left: int) -> bool:
        seen.append(left)
        return True

    worker.flush(quiet=30, look=look)
    assert len(worker.run_ids()) == 21
    seen = seen[seen.count(0) :]
    assert seen == sorted(seen, reverse=True)
    assert len(set(seen)) > 5
    assert set(seen) <= set(range(1, 22))


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize(("gone", "whole"), [((8, 10), True), ((8, 10**6), False)])
def test_a_server_that_took_something_and_goes_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch, gone: tuple[int, int], *, whole: bool
) -> None:
    monkeypatch.setattr(sync, "LONGEST_PAUSE", 0.5)
    there = FakeExperiment()
    there.gone, there.pause = gone, 0.02
    worker = start(there)
    for record in (STUDY, *map(trial, range(6))):
        worker.record(record)
    worker.flush()
    assert (len(worker.run_ids()) == 7) is whole
    worker.close(0.1)


# What a person sees of the wait.


class Clock:
    """Time as a test wants it."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A worker with so many records left at each look, four seconds apart."""

    def __init__(self, clock: Clock, left: list[int]) -> None:
        self._clock, self._left, self.looks = clock, left, 0

    def flush(self, *, quiet: float, look: Callable[[int], bool]) -> None:
        assert quiet > 60
        for left in self._left:
            self._clock.now += 4
            self.looks += 1
            if not look(left):
                return


def shown(monkeypatch: pytest.MonkeyPatch, left: list[int], *, terminal: bool = False) -> list[str]:
    """Return the lines that a wait for so many records prints."""
    clock, text = Clock(), StringIO()
    monkeypatch.setattr(sync, "monotonic", clock)
    console = Console(file=text, force_terminal=terminal, width=100, highlight=False)
    with EndProgress(console, Interrupts()) as progress:
        progress.flush(Slow(clock, left))  # type: ignore[arg-type]
    return text.getvalue().splitlines()


def test_a_long_wait_says_what_is_left_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    end = "; Ctrl-C leaves the rest for the next start"
    assert shown(monkeypatch, [40]) == [], "a short wait says nothing"
    assert shown(monkeypatch, [0, 0, 4200, 3800, 3400, 1]) == [
        f"MLflow does not answer yet{end}",
        f"MLflow takes 3,400 more records, about 1:25{end}",
    ]
    assert 10 < len(shown(monkeypatch, list(range(900, 0, -1)))) < 30, "lines become fewer"
    assert len(shown(monkeypatch, [19] * 40 + [18] * 40)) == 2, "nothing is said twice"
    on_terminal = shown(monkeypatch, [2, 1], terminal=True)
    assert any(f"MLflow takes 1 more record, about 0:08{end}" in line for line in on_terminal)


def test_a_signal_ends_the_wait() -> None:
    interrupts, worker = Interrupts(), Slow(Clock(), [3, 2, 1])
    interrupts.signum = signal.SIGINT
    with EndProgress(Console(file=StringIO()), interrupts) as progress:
        progress.flush(worker)  # type: ignore[arg-type]
    assert worker.looks == 1
