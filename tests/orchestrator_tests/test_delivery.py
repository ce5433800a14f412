"""The courier against a place in memory that can be away, refuse, and lose its answers."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from orchestrator import delivery
from orchestrator.delivery import Courier, Delivery, Held
from orchestrator.outbox import Outbox
from orchestrator.records import Record

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

    def get(self, run: str) -> Held | None:
        self._reach()
        return Held(run, None) if run in self.runs else None

    def create(self, study: str, record: Record, parent: str | None) -> Held:
        self._reach()
        run = f"run{len(self.births)}"
        self.births.append(record.key)
        self.runs[run] = (f"{study}/{record.key}", None, parent)
        if record.key in self.forget_after_create:
            self.forget_after_create.discard(record.key)
            raise AwayError("the answer was lost")
        return Held(run, None)

    def bring(
        self, held: Held, record: Record, parent: str | None, former: Collection[str]
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


Start = Callable[[FakePlace], Courier]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setattr(delivery, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.02)
    couriers: list[Courier] = []

    def start_one(place: FakePlace) -> Courier:
        outbox = Outbox(tmp_path / "outbox.jsonl")
        couriers.append(Courier(outbox, outbox.place("uri"), place.connect))
        return couriers[-1]

    yield start_one
    for courier in couriers:
        courier.close(5)


def send(courier: Courier, *records: Record) -> Delivery:
    for record in records:
        courier.record(record)
    return courier.close(5)


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 5
    while not condition():
        assert monotonic() < end
        sleep(0.005)


def test_records_arrive_in_order_under_their_parents(start: Start) -> None:
    place = FakePlace()
    courier = start(place)
    assert send(courier, STUDY, trial(1), trial(2, "trial-1")) == Delivery(3, 0, None)
    assert place.births == ["study", "trial-1", "trial-2"]
    assert place.content() == {
        "study": ("demo", None),
        "trial-1": ("trial 1", "study"),
        "trial-2": ("trial 2", "trial-1"),
    }
    assert courier.runs() == {"study": "run0", "trial-1": "run1", "trial-2": "run2"}


def test_a_second_start_with_the_same_records_does_nothing(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    again = start(place)
    assert send(again, STUDY, trial(1)) == Delivery(0, 0, None)
    assert place.brought == ["study", "trial-1"]
    assert again.runs() == {"study": "run0", "trial-1": "run1"}


def test_a_changed_record_goes_to_its_run(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    changed = replace(trial(1), name="better")
    assert send(start(place), STUDY, changed) == Delivery(1, 0, None)
    assert place.births == ["study", "trial-1"]
    assert place.content()["trial-1"] == ("better", "study")


def test_a_server_that_is_away_gets_everything_later_in_order_and_once(start: Start) -> None:
    place = FakePlace(away=True)
    assert send(start(place), STUDY, trial(1)) == Delivery(0, 2, "nobody at http://server/")
    second = start(place)
    second.record(trial(2))
    sleep(0.05)
    assert place.births == []
    place.away = False
    wait_until(lambda: len(second.runs()) == 3)
    assert place.births == ["study", "trial-1", "trial-2"]
    assert second.close(5) == Delivery(3, 0, None)


def test_a_server_that_goes_and_comes_back_gets_each_record_once(start: Start) -> None:
    place = FakePlace()
    courier = start(place)
    courier.record(STUDY)
    wait_until(lambda: len(courier.runs()) == 1)
    place.away = True
    for number in range(5):
        courier.record(trial(number))
    sleep(0.05)
    place.away = False
    assert courier.close(5) == Delivery(6, 0, None)
    assert place.births == ["study", *(f"trial-{number}" for number in range(5))]


def test_a_run_whose_birth_was_not_answered_is_found_not_doubled(start: Start) -> None:
    place = FakePlace(forget_after_create={"trial-1"})
    assert send(start(place), STUDY, trial(1), trial(2)) == Delivery(3, 0, None)
    assert sorted(place.births) == ["study", "trial-1", "trial-2"]
    assert place.content()["trial-1"] == ("trial 1", "study")


def test_a_refused_record_lets_the_others_pass_and_is_tried_again_next_time(start: Start) -> None:
    place = FakePlace(refused={"trial-1"})
    ended = send(start(place), STUDY, trial(1), trial(2))
    assert ended == Delivery(2, 1, "no trial-1 here")
    place.refused.clear()
    assert send(start(place)) == Delivery(1, 0, None)
    assert place.births == ["study", "trial-1", "trial-2"]


def test_a_lost_outbox_takes_up_the_runs_of_this_study(start: Start, tmp_path: Path) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    place.runs["run9"] = ("other-study/trial-2", None, None)
    (tmp_path / "outbox.jsonl").unlink()
    assert send(start(place), STUDY, trial(1), trial(2)) == Delivery(3, 0, None)
    assert place.births == ["study", "trial-1", "trial-2"]
    assert place.runs["run9"] == ("other-study/trial-2", None, None)


def test_another_place_gets_everything_and_the_first_stays_known(start: Start) -> None:
    here, there = FakePlace(), FakePlace(name="there")
    send(start(here), STUDY, trial(1))
    assert send(start(there), STUDY, trial(1)) == Delivery(2, 0, None)
    assert there.content() == here.content()
    assert send(start(here), STUDY, trial(1)) == Delivery(0, 0, None)


def test_a_run_that_the_user_deleted_stays_deleted_until_it_changes(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    del place.runs["run1"]
    assert send(start(place), STUDY, trial(1)) == Delivery(0, 0, None)
    changed = replace(trial(1), name="better")
    assert send(start(place), changed) == Delivery(1, 0, None)
    assert send(start(place), changed) == Delivery(0, 0, None)
    assert place.births == ["study", "trial-1", "trial-1"]


def test_a_deleted_parent_is_made_again_for_a_new_child_and_takes_the_others(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    del place.runs["run0"]
    assert send(start(place), STUDY, trial(1), trial(2)) == Delivery(3, 0, None)
    assert place.births == ["study", "trial-1", "study", "trial-2"]
    assert place.content() == {
        "study": ("demo", None),
        "trial-1": ("trial 1", "study"),
        "trial-2": ("trial 2", "study"),
    }


def test_flushing_waits_for_what_can_be_delivered_and_no_longer(start: Start) -> None:
    place = FakePlace(refused={"trial-1"})
    courier = start(place)
    for record in (STUDY, trial(1), trial(2)):
        courier.record(record)
    courier.flush(5)
    assert set(courier.runs()) == {"study", "trial-2"}
    place.away = True
    courier.record(trial(3))
    begin = monotonic()
    courier.flush(5)
    assert monotonic() - begin < 1
    place.away = False
    courier.flush(5)
    assert set(courier.runs()) == {"study", "trial-2", "trial-3"}
    ended = courier.close(5)
    assert (ended.delivered, ended.left) == (3, 1)


class SteadyPlace(FakePlace):
    """A store that takes its time, and may go away and come back."""

    gone: tuple[int, int] = (-1, -1)  # first and last call that nobody answers, by their count
    calls: int = 0
    pause: float = 0.02

    def _reach(self) -> None:
        self.calls += 1
        self.away = self.gone[0] <= self.calls <= self.gone[1]
        super()._reach()

    def bring(
        self, held: Held, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        sleep(self.pause)
        return super().bring(held, record, parent, former)


def test_flushing_goes_on_while_records_arrive_and_tells_how_many_are_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOOK", 0.01)
    courier, seen = start(SteadyPlace()), []
    for record in (STUDY, *map(trial, range(20))):
        courier.record(record)

    def look(left: int) -> bool:
        seen.append(left)
        return True

    courier.flush(quiet=1, look=look)
    assert len(courier.runs()) == 21
    assert seen == sorted(seen, reverse=True)
    assert {1, 10} <= set(seen) <= set(range(1, 22))


def test_flushing_ends_when_nothing_arrives_or_a_person_says_so(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOOK", 0.01)
    stuck = SteadyPlace()
    stuck.pause = 1.0
    courier = start(stuck)
    courier.record(STUDY)
    for impatient in ({"quiet": 0.1}, {"look": lambda _: False}):
        begin = monotonic()
        courier.flush(**impatient)
        assert monotonic() - begin < 0.6
    assert courier.close(0.01).left == 1


def test_a_server_that_took_something_and_goes_is_waited_for(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "LOOK", 0.01)
    monkeypatch.setattr(delivery, "LONGEST_PAUSE", 0.5)
    for gone, all_there in (((12, 14), True), ((12, 10**6), False)):
        place = SteadyPlace(name=str(gone))
        place.gone = gone
        courier = start(place)
        for record in (STUDY, *map(trial, range(6))):
            courier.record(record)
        courier.flush()
        assert (len(courier.runs()) == 7) is all_there
        courier.close(0.1)


def test_closing_does_not_wait_longer_than_asked(start: Start) -> None:
    class SlowPlace(FakePlace):
        def connect(self) -> FakePlace:
            sleep(0.5)
            return self

    courier = start(SlowPlace())
    courier.record(STUDY)
    begin = monotonic()
    assert courier.close(0.05) == Delivery(0, 1, "not finished within 0.05 s")
    assert monotonic() - begin < 0.4


def test_a_disk_that_is_full_is_told_and_not_raised(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Outbox, __: Record) -> bool:
        raise OSError(28, "No space left on device")

    courier = start(FakePlace())
    monkeypatch.setattr(Outbox, "add", full)
    courier.record(STUDY)
    assert courier.close(5) == Delivery(0, 1, "[Errno 28] No space left on device")
