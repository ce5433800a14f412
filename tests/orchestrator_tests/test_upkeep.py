"""The command on stores: merge, usage, clean."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from orchestrator.errors import Interrupted
from orchestrator.plan.columns import DAY
from orchestrator.plan.jobs import StageRun
from orchestrator.store.__main__ import main
from orchestrator.store.store import Entry, Holding, Store
from orchestrator.store.study_folder import StudyFolder
from orchestrator.store.upkeep import by_age, merge

NOW = time.time()


def key(number: int) -> str:
    return f"{number:02x}" * 32


def fill(store: Store, *places: tuple[str, int], size: int = 100, days: float = 0.0) -> None:
    """Store entries of a stage and a number, as if some days ago."""
    for stage, number in places:
        entry = Entry(values={"of": str(store.url)}, tensors={"x": torch.zeros(size)})
        store.write(stage, key(number), entry)
        if store.folder is not None:
            path = store.folder / stage / key(number)[:2] / f"{key(number)}.safetensors"
            os.utime(path, (NOW - days * DAY,) * 2)


def tree(store: Store) -> dict[tuple[str, str], bytes | None]:
    return {(one.stage, one.key): store.content(one.stage, one.key) for one in store.holdings()}


@pytest.fixture
def one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a store in the working folder with three results."""
    monkeypatch.chdir(tmp_path)
    MemoryFileSystem.store.clear()
    store = Store("one")
    fill(store, ("train_victim", 1), ("unlearn", 2), ("evaluate", 3))
    return store


@pytest.mark.parametrize("url", ["two", "memory://two/store"])
def test_merging_adds_what_is_lacking_and_changes_nothing_else(
    one: Store, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    two = Store(url)
    fill(two, ("unlearn", 2), ("relearn", 4), ("repaired", 4), size=7)
    before, theirs = tree(one), tree(two)
    assert main(["merge", "one", url]) == 0
    assert tree(one) == {**theirs, **before}  # its own where both have one
    assert tree(two) == theirs
    size = sum(len(theirs[stage, key(4)] or b"") for stage in ("relearn", "repaired"))
    said = f"copied 2 entries, {size} bytes; 1 entry already there\n"
    assert capsys.readouterr().out == said
    assert main(["merge", "one", url]) == 0
    assert capsys.readouterr().out == "copied 0 entries, 0 bytes; 3 entries already there\n"


@pytest.mark.parametrize("url", ["new/store", "memory://new/store"])
def test_a_new_store_is_made(one: Store, url: str) -> None:
    assert main(["merge", url, "one"]) == 0
    assert tree(Store(url)) == tree(one)


def test_a_damaged_entry_is_left_out(one: Store, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = Path("one/unlearn").rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["merge", "two", "one"]) == 0
    assert capsys.readouterr().out.endswith("left out 1 entry of one: damaged\n")
    assert {stage for stage, _ in tree(Store("two"))} == {"train_victim", "evaluate"}
    assert len(tree(one)) == 3


def test_a_merge_that_was_stopped_goes_on(one: Store) -> None:
    check = Mock(side_effect=[None, Interrupted(2)])
    with pytest.raises(Interrupted):
        merge(Store("two"), one, check)
    assert len(tree(Store("two"))) == 1
    done = merge(Store("two"), one)
    assert (done.copied.entries, done.there) == (2, 1)
    assert tree(Store("two")) == tree(one)


def other() -> None:
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("text")


@pytest.mark.parametrize(
    ("prepare", "words", "said"),
    [
        (other, "merge other one", "other: is no store; other files are there, and no result"),
        (other, "merge one other", "other: is no store, or an empty one; no result is there"),
        (other, "usage nothing", "nothing: is no store, or an empty one; no result is there"),
        (other, "merge one ./one", "one: is the store to merge into; name another"),
        (
            other,
            "clean one --older-than 1d --keep other",
            "other: no study folder; it has no stage",
        ),
        (other, "clean one --older-than 1d --keep no", "no: is not there; --keep names study"),
    ],
)
def test_what_is_no_store_is_refused(
    one: Store,
    prepare: Callable[[], None],
    words: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    prepare()
    before = tree(one)
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err
    assert tree(one) == before
    assert [path.name for path in Path("other").iterdir()] == ["thesis.tex"]
    assert not Path("nothing").exists()


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1 d", "1y"])
def test_an_age_has_a_unit(one: Store, age: str, capsys: pytest.CaptureFixture[str]) -> None:
    del one
    with pytest.raises(SystemExit) as stop:
        main(["clean", "one", f"--older-than={age}"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "command line: argument --older-than: an age is like 12h, 30d or 4w; got"
    )


def test_usage_adds_up(one: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(one, ("relearn", 5), ("relearn", 6), days=8)
    assert main(["usage", "one"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    files = list(Path("one").rglob("*.safetensors"))
    whole = f"{sum(path.stat().st_size for path in files) / 1000:.1f}"
    assert lines.count(["all", "5", whole, "kB"]) == 2
    assert ["relearn", "2"] in [line[:2] for line in lines]
    assert ["less", "than", "1", "day", "3"] in [line[:5] for line in lines]
    assert ["7", "to", "30", "days", "2"] in [line[:5] for line in lines]


def test_ages_have_bounds() -> None:
    days = (0.0, 0.99, 1.0, 6.9, 7.0, 30.0, 89.9, 90.0, 900.0)
    holdings = [
        Holding(stage="s", key="k", size=2, stored=NOW - number * DAY - 1e-3) for number in days
    ]
    holdings.append(Holding(stage="s", key="k", size=2, stored=None))
    assert {name: total.entries for name, total in by_age(holdings, NOW).items()} == {
        "less than 1 day": 2,
        "1 to 7 days": 2,
        "7 to 30 days": 1,
        "30 to 90 days": 2,
        "90 days or more": 2,
        "unknown": 1,
    }


@pytest.fixture
def study(one: Store) -> StudyFolder:
    """Return a study that rests on some old entries of the store."""
    old = (("train_victim", 11), ("train_helper", 12), ("relearn", 13), ("repaired", 13))
    fill(one, *old, ("relearn", 14), ("train_helper", 15), ("pace", 16), days=40)
    folder = StudyFolder(Path("runs/mine"))
    folder.path.mkdir(parents=True)
    folder.open_record()
    runs = (StageRun(stage=s, key=key(n), scenario="", seconds=1, study="") for s, n in old[::2])
    folder.record(runs)
    return folder


def test_cleaning_asks_first(study: StudyFolder, capsys: pytest.CaptureFixture[str]) -> None:
    del study
    store = Store("one")
    before = tree(store)
    assert main(["clean", "one", "--older-than", "30d"]) == 0
    *_, table, said = capsys.readouterr().out.splitlines()
    assert table.split()[:2] == ["all", "6"]
    assert said.startswith("6 entries, ")
    assert said.endswith(" would be deleted; --yes deletes them")
    assert tree(store) == before


def test_cleaning_deletes_what_is_old(study: StudyFolder, one: Store) -> None:
    del study
    assert main(["clean", "one", "--older-than", "30d", "--yes"]) == 0
    assert {stage for stage, _ in tree(one)} == {"train_victim", "unlearn", "evaluate", "pace"}
    assert len(tree(one)) == 4


def test_cleaning_spares_what_a_study_rests_on(
    study: StudyFolder, one: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its victim, its relearning with the weights, and helpers that it need not list."""
    Path("runs/mlflow.db").write_text("")
    Path("one").rename("runs/store")
    before = set(tree(store := Store("runs/store")))
    words = ["clean", "runs/store", "--older-than", "4w", "--yes", "--keep", str(study.path)]
    assert main([*words, "runs/mlflow.db", "runs/store"]) == 0
    assert before - set(tree(store)) == {("relearn", key(14))}
    said = capsys.readouterr().out
    assert said.startswith("no study is in runs/store\n")
    assert "deleted 1 entry, " in said
    assert main(words) == 0
    assert capsys.readouterr().out == "nothing to delete among 9 entries\n"
    del one
