"""How long a courier is waited for."""

from collections.abc import Collection
from time import monotonic, sleep

import pytest

from orchestrator.tracking import sync
from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import StoredRun, SyncState
from tests.orchestrator_tests.fake_place import STUDY, FakePlace, Start, trial


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
        self, held: StoredRun, record: Record, parent: str | None, former: Collection[str]
    ) -> tuple[str, ...]:
        sleep(self.pause)
        return super().bring(held, record, parent, former)


def test_flushing_goes_on_while_records_arrive_and_tells_how_many_are_left(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sync, "LOOK", 0.01)
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
    monkeypatch.setattr(sync, "LOOK", 0.01)
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
    monkeypatch.setattr(sync, "LOOK", 0.01)
    monkeypatch.setattr(sync, "LONGEST_PAUSE", 0.5)
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
    assert courier.close(0.05) == SyncState(0, 1, "not finished within 0.05 s")
    assert monotonic() - begin < 0.4
