"""The courier against a place in memory that can be away, refuse, and lose its answers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import SyncState, SyncWorker
from orchestrator.tracking.upload_queue import UploadQueue
from tests.orchestrator_tests.fake_place import (
    STUDY,
    FakePlace,
    Start,
    trial,
)


def send(courier: SyncWorker, *records: Record) -> SyncState:
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
    assert send(courier, STUDY, trial(1), trial(2, "trial-1")) == SyncState(3, 0, None)
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
    assert send(again, STUDY, trial(1)) == SyncState(0, 0, None)
    assert place.brought == ["study", "trial-1"]
    assert again.runs() == {"study": "run0", "trial-1": "run1"}


def test_what_a_former_start_left_arrives_with_the_first_record_old_as_it_is(start: Start) -> None:
    place = FakePlace(away=True)
    assert send(start(place), STUDY, trial(1)).left == 2
    place.away = False
    start(place).record(STUDY)
    wait_until(lambda: place.brought == ["study", "trial-1"])


def test_a_changed_record_goes_to_its_run(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    changed = replace(trial(1), name="better")
    assert send(start(place), STUDY, changed) == SyncState(1, 0, None)
    assert place.births == ["study", "trial-1"]
    assert place.content()["trial-1"] == ("better", "study")


def test_a_server_that_is_away_gets_everything_later_in_order_and_once(start: Start) -> None:
    place = FakePlace(away=True)
    assert send(start(place), STUDY, trial(1)) == SyncState(0, 2, "nobody at http://***@server/")
    second = start(place)
    second.record(trial(2))
    sleep(0.05)
    assert place.births == []
    place.away = False
    wait_until(lambda: len(second.runs()) == 3)
    assert place.births == ["study", "trial-1", "trial-2"]
    assert second.close(5) == SyncState(3, 0, None)


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
    assert courier.close(5) == SyncState(6, 0, None)
    assert place.births == ["study", *(f"trial-{number}" for number in range(5))]


def test_a_run_whose_birth_was_not_answered_is_found_not_doubled(start: Start) -> None:
    place = FakePlace(forget_after_create={"trial-1"})
    assert send(start(place), STUDY, trial(1), trial(2)) == SyncState(3, 0, None)
    assert sorted(place.births) == ["study", "trial-1", "trial-2"]
    assert place.content()["trial-1"] == ("trial 1", "study")


def test_a_refused_record_lets_the_others_pass_and_is_tried_again_next_time(start: Start) -> None:
    place = FakePlace(refused={"trial-1"})
    ended = send(start(place), STUDY, trial(1), trial(2))
    assert ended == SyncState(2, 1, "no trial-1 here")
    place.refused.clear()
    assert send(start(place)) == SyncState(1, 0, None)
    assert place.births == ["study", "trial-1", "trial-2"]


def test_a_lost_outbox_takes_up_the_runs_of_this_study(start: Start, tmp_path: Path) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    place.runs["run9"] = ("other-study/trial-2", None, None)
    (tmp_path / "outbox.jsonl").unlink()
    assert send(start(place), STUDY, trial(1), trial(2)) == SyncState(3, 0, None)
    assert place.births == ["study", "trial-1", "trial-2"]
    assert place.runs["run9"] == ("other-study/trial-2", None, None)


def test_another_place_gets_everything_and_the_first_stays_known(start: Start) -> None:
    here, there = FakePlace(), FakePlace(name="there")
    send(start(here), STUDY, trial(1))
    assert send(start(there), STUDY, trial(1)) == SyncState(2, 0, None)
    assert there.content() == here.content()
    assert send(start(here), STUDY, trial(1)) == SyncState(0, 0, None)


def test_a_run_that_the_user_deleted_is_made_again_at_the_next_start(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1), trial(2))
    place.delete("trial-1")
    again = start(place)
    assert send(again, STUDY, trial(1), trial(2)) == SyncState(1, 0, None)
    assert again.runs() == {"study": "run0", "trial-1": "run3", "trial-2": "run2"}
    assert send(start(place), STUDY, trial(1), trial(2)) == SyncState(0, 0, None)
    assert place.births == ["study", "trial-1", "trial-2", "trial-1"]


def test_what_left_the_grid_is_marked_until_it_is_back(start: Start) -> None:
    place = FakePlace()
    best = replace(trial(1), tags={"best": "True"})
    send(start(place), STUDY, best, trial(2))

    def tags() -> dict[str, dict[str, str]]:
        return {record.key: dict(record.tags) for _, record, _ in place.runs.values() if record}

    shrunk = start(place)
    shrunk.record(STUDY)
    shrunk.retire({"study", "trial-2"})
    assert shrunk.close(5) == SyncState(1, 0, None)
    assert tags() == {"study": {}, "trial-1": {"best": "False", "in_grid": "False"}, "trial-2": {}}
    assert place.births == ["study", "trial-1", "trial-2"]
    again = start(place)
    again.record(STUDY)
    again.retire({"study", "trial-2"})
    assert again.close(5) == SyncState(0, 0, None)
    assert send(start(place), STUDY, best) == SyncState(1, 0, None)
    assert tags()["trial-1"] == {"best": "True"}


def test_what_left_the_grid_and_was_deleted_stays_deleted(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    shrunk = start(place)
    shrunk.retire({"study"})
    assert shrunk.close(5).left == 0
    place.delete("trial-1")
    assert send(start(place), STUDY) == SyncState(0, 0, None)
    assert place.births == ["study", "trial-1"]


def test_a_deleted_parent_is_made_again_for_a_new_child_and_takes_the_others(start: Start) -> None:
    place = FakePlace()
    send(start(place), STUDY, trial(1))
    del place.runs["run0"]
    assert send(start(place), STUDY, trial(1), trial(2)) == SyncState(3, 0, None)
    assert place.births == ["study", "trial-1", "study", "trial-2"]
    assert place.content() == {
        "study": ("demo", None),
        "trial-1": ("trial 1", "study"),
        "trial-2": ("trial 2", "study"),
    }


def test_a_disk_that_is_full_is_told_and_not_raised(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: UploadQueue, __: Record) -> bool:
        raise OSError(28, "No space left on device")

    courier = start(FakePlace())
    monkeypatch.setattr(UploadQueue, "add", full)
    courier.record(STUDY)
    assert courier.close(5) == SyncState(0, 1, "[Errno 28] No space left on device")
