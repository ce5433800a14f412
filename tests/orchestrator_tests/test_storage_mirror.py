"""Optuna's storage beside a study: up to date, or behind, and never in the way."""

import copy
import json
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from orchestrator.scheduler.storage_mirror import StorageMirror
from orchestrator.search.storage import (
    StoredStudy,
    copy_study,
    open_storage,
    snapshot,
)
from orchestrator.spec.model import Prune, Search, Study
from orchestrator.spec.space import Range
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, MEDIAN, WILCOXON, choice, small_study
from ulrl.layers import Layers


def study_of(tmp_path: Path, settings: int = 6, **other: Any) -> Study:
    return small_study(
        store=f"memory://{tmp_path}/store",
        attacks=[choice(BADNETS)],
        settings={
            "alpha": Range(low=0.1, high=2.0),
            "layers": (Layers.HEAD, Layers.ALL),
            "unlearn_milestones": ((), (2, 3)),
        },
        grid={"seeds": (0, 1, 2, 3, 4, 5)},
        search=Search(sampler="random", settings=settings),
        prune=Prune(setting=WILCOXON, curve=MEDIAN),
        **other,
    )


def records(desk: Desk) -> list[StoredStudy]:
    return [*desk.scheduler.drawing.samplers, *desk.scheduler.decisions.judges]


def place_of(kind: str, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/o.db" if kind == "sqlite" else f"{tmp_path}/o/journal.log"


def content(storage: Any) -> dict[str, list[Any]]:
    """Return what a storage holds, by study, in the order of our trials."""
    found = {}
    for name in optuna.get_all_study_names(storage):
        trials = optuna.load_study(study_name=name, storage=storage).trials
        found[name.rpartition("] ")[2]] = [
            (t.state, t.value, t.params, dict(t.intermediate_values), attributes(t)) for t in trials
        ]
    return found


def attributes(trial: FrozenTrial) -> Any:
    """Return a trial's user attributes as JSON has them."""
    return json.loads(json.dumps(trial.user_attrs))


def stored(place: str) -> dict[str, list[Any]]:
    storage = place if "://" in place else JournalStorage(JournalFileBackend(place))
    return content(storage)


def meant(desk: Desk) -> dict[str, list[Any]]:
    return {
        kept.name: [
            (t.state, t.value, t.params, t.intermediate_values, attributes(t)) for t in kept.trials
        ]
        for kept in records(desk)
    }


def followed(desk: Desk, place: str, every: float = 60.0) -> StorageMirror:
    follower = StorageMirror(place, "s [1] ", lambda: records(desk), every)
    desk.watch(follower)
    return follower


@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_storage_says_what_was_decided(kind: str, tmp_path: Path) -> None:
    place = place_of(kind, tmp_path)
    desk = Desk(study_of(tmp_path), tmp_path)
    follower = followed(desk, place)
    Workers(Random(0), 3).run(desk)
    assert follower.close(60) == ""
    found = stored(place)
    assert found == meant(desk)
    assert {state for name in found for state, *_ in found[name]} >= {
        TrialState.COMPLETE,
        TrialState.PRUNED,
    }


def test_killed_and_resumed_it_is_written_once(tmp_path: Path) -> None:
    place = place_of("journal", tmp_path)
    workers = Workers(Random(1), 2)
    for steps in (40, 80, 10**9):
        desk = Desk(study_of(tmp_path), tmp_path)
        follower = followed(desk, place, 0.2)
        workers.run(desk, steps)
        assert follower.close(60) == ""
    assert stored(place) == meant(desk)
    larger = Desk(study_of(tmp_path, settings=8), tmp_path)
    follower = followed(larger, place)
    workers.run(larger)
    assert follower.close(60) == ""
    assert stored(place) == meant(larger)
    smaller = Desk(study_of(tmp_path, settings=3), tmp_path)
    follower = followed(smaller, place)
    workers.run(smaller)
    assert follower.close(60) == ""
    assert stored(place) == meant(smaller)


def test_what_is_right_already_is_not_written_again(tmp_path: Path) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    Workers().run(desk)
    place = place_of("journal", tmp_path)
    for expected_growth in (True, False):
        size = Path(place).stat().st_size if Path(place).exists() else 0
        for kept in records(desk):
            copy_study(snapshot(kept), open_storage(place))
        assert (Path(place).stat().st_size > size) is expected_growth
    longer = copy.copy(snapshot(records(desk)[0]).trials[0])
    longer.user_attrs = {"reason": "another"}
    shot = replace(snapshot(records(desk)[0]), trials=[longer])
    copy_study(shot, open_storage(place))
    assert [attributes for *_, attributes in stored(place)["search"]] == [longer.user_attrs]


@pytest.fixture(scope="module")
def rows_without(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the study without a storage."""
    alone = tmp_path_factory.mktemp("alone")
    desk = Desk(study_of(alone), alone)
    Workers(Random(0), 3).run(desk)
    return desk.rows()


def test_a_locked_database_costs_the_study_nothing(
    tmp_path: Path, rows_without: list[dict[str, Any]]
) -> None:
    file = tmp_path / "o.db"
    place = f"sqlite:///{file}?timeout=0.2"
    open_storage(place)
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    desk = Desk(study_of(tmp_path), tmp_path)
    follower = followed(desk, place, 0.0)
    started = time.monotonic()
    Workers(Random(0), 3).run(desk)
    assert time.monotonic() - started < 20
    assert desk.rows() == rows_without
    reason = follower.close(20)
    assert "locked" in reason
    holder.execute("ROLLBACK")
    holder.close()
    again = Desk(study_of(tmp_path), tmp_path)
    follower = followed(again, place)
    Workers().run(again)
    assert follower.close(60) == ""
    assert stored(place) == meant(again)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("postgresql://me:secret@127.0.0.1:1/db", ""),
        ("mysql+nodriver://me:secret@nowhere/db", "nodriver"),
        ("/dev/null/o/journal.log", "NotADirectoryError"),
    ],
)
def test_a_storage_that_is_not_there_is_named_without_its_password(
    place: str, said: str, tmp_path: Path, rows_without: list[dict[str, Any]]
) -> None:
    desk = Desk(study_of(tmp_path), tmp_path)
    follower = followed(desk, place, 0.0)
    Workers(Random(0), 3).run(desk)
    assert desk.rows() == rows_without
    reason = follower.close(30)
    assert reason
    assert said in reason
    assert "secret" not in reason


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_torn_journal_is_readable_again(tmp_path: Path) -> None:
    place = place_of("journal", tmp_path)
    first = Desk(study_of(tmp_path, settings=3), tmp_path)
    follower = followed(first, place)
    Workers().run(first)
    assert follower.close(60) == ""
    with Path(place).open("a") as file:
        file.write('{"op_code": 4, "worker_id": "x", "study_i')
    desk = Desk(study_of(tmp_path), tmp_path)
    follower = followed(desk, place)
    Workers().run(desk)
    assert follower.close(60) == ""
    assert stored(place) == meant(desk)
    assert all(json.loads(line) for line in Path(place).read_text().splitlines())
