"""The backlog: what it keeps, over any kill, and what it says is still to be delivered."""

import json
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from orchestrator.tracking.records import Dataset, Record, digest_of, fitted, to_plain
from orchestrator.tracking.upload_queue import UploadQueue, UploadReceipt

STUDY = Record(key="study", parent=None, name="demo", status="RUNNING")
TRIAL = Record(
    key="trial",
    parent="study",
    name="badnets, threshold 0.2",
    params={"unlearn_threshold": "0.2", "empty": ""},
    metrics={"acc": 0.1 + 0.2, "asr": 1e-300, "der": 1.0},
    curves={"relearn/acc": ((0, 1 / 3), (1, 2 / 3)), "relearn/asr": ()},
    tags={"attack": "badnets", "note": 'quote " and\nnew line, ümlaut'},
    status="FINISHED",
    artifacts=(("/nowhere/report.html", ""), ("/nowhere/figure.svg", "figures")),
    model={"file": "a.safetensors", "width": 16, "mean": [0.5, 0.5]},
    registered="demo.badnets",
    datasets=(Dataset(name="digits", digest="beef", context="defence", facts={"images": 7}),),
)

Open = Callable[[Path], UploadQueue]


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open outboxes, and close them after the test."""
    outboxes: list[UploadQueue] = []

    def open_one(path: Path) -> UploadQueue:
        outboxes.append(UploadQueue(path))
        return outboxes[-1]

    yield open_one
    for outbox in outboxes:
        outbox.close()


def test_a_record_comes_back_as_it_was(tmp_path: Path, opened: Open) -> None:
    outbox = opened(tmp_path / "folder" / "outbox.jsonl")
    outbox.add(STUDY)
    outbox.add(TRIAL)
    assert outbox.read("trial")[0] == TRIAL
    outbox.close()
    again = opened(tmp_path / "folder" / "outbox.jsonl")
    assert again.read("trial")[0] == TRIAL
    assert again.read("study")[0] == STUDY


def test_the_same_record_is_kept_once_and_a_changed_one_takes_its_place(
    tmp_path: Path, opened: Open
) -> None:
    path = tmp_path / "outbox.jsonl"
    outbox = opened(path)
    assert outbox.add(STUDY)
    size = path.stat().st_size
    assert not outbox.add(STUDY)
    assert path.stat().st_size == size
    changed = replace(STUDY, status="FINISHED")
    assert outbox.add(changed)
    assert outbox.read("study")[0] == changed
    assert not opened(path).add(changed)


TIMES = ("began", "ended")  # known better by whoever saw the work


def test_times_come_back_but_tell_no_records_apart(tmp_path: Path, opened: Open) -> None:
    outbox = opened(tmp_path / "outbox.jsonl")
    timed = replace(TRIAL, began=1.5, ended=1e9 + 0.25)
    outbox.add(STUDY)
    assert outbox.add(timed)
    assert not outbox.add(replace(timed, began=2.5, ended=None))
    assert outbox.read("trial")[0] == timed


def test_a_line_of_an_earlier_version_is_read(tmp_path: Path, opened: Open) -> None:
    old = to_plain(STUDY)
    del old["registered"], old["datasets"]
    path = tmp_path / "outbox.jsonl"
    path.write_text(json.dumps({"study": "x"}) + "\n" + json.dumps({"record": old}) + "\n")
    assert opened(path).read("study")[0] == STUDY


@pytest.mark.parametrize("name", [f.name for f in fields(Record) if f.name not in TIMES])
def test_every_field_counts_as_a_change(name: str) -> None:
    others = {
        "key": "other",
        "parent": "other",
        "name": "other",
        "params": {"unlearn_threshold": "0.4"},
        "metrics": {"acc": 0.3},
        "curves": {"relearn/acc": ((0, 1 / 3), (1, 0.7))},
        "tags": {},
        "status": "FAILED",
        "artifacts": (),
        "model": None,
        "registered": "demo.best",
        "datasets": (Dataset(name="digits", digest="f00", context="evaluation"),),
    }
    changed = replace(TRIAL, **{name: others[name]})  # type: ignore[arg-type]
    assert digest_of(to_plain(changed)) != digest_of(to_plain(TRIAL))


def test_what_is_pending_follows_the_receipts_of_one_place(tmp_path: Path, opened: Open) -> None:
    outbox = opened(tmp_path / "outbox.jsonl")
    outbox.add(STUDY)
    outbox.add(TRIAL)
    assert outbox.pending("here") == ["study", "trial"]
    outbox.acknowledge("here", "study", UploadReceipt(run="r1", digest=outbox.read("study")[1]))
    assert outbox.pending("here") == ["trial"]
    assert outbox.pending("elsewhere") == ["study", "trial"]
    digest = outbox.read("trial")[1]
    outbox.acknowledge("here", "trial", UploadReceipt(run="r2", digest=digest, parent_run="r1"))
    assert outbox.pending("here") == []
    outbox.add(replace(STUDY, status="FINISHED"))
    assert outbox.pending("here") == ["study"]
    again = opened(tmp_path / "outbox.jsonl")
    assert again.pending("here") == ["study"]
    assert again.receipt("here", "trial") == UploadReceipt(run="r2", digest=digest, parent_run="r1")


def test_a_run_under_a_parent_that_was_made_again_is_pending(tmp_path: Path, opened: Open) -> None:
    outbox = opened(tmp_path / "outbox.jsonl")
    outbox.add(STUDY)
    outbox.add(TRIAL)
    study, trial = outbox.read("study")[1], outbox.read("trial")[1]
    outbox.acknowledge("here", "study", UploadReceipt(run="r1", digest=study))
    outbox.acknowledge("here", "trial", UploadReceipt(run="r2", digest=trial, parent_run="r1"))
    outbox.acknowledge("here", "study", UploadReceipt(run="r3", digest=study))
    assert outbox.pending("here") == ["trial"]


def test_an_intent_holds_until_the_receipt_and_survives(tmp_path: Path, opened: Open) -> None:
    outbox = opened(tmp_path / "outbox.jsonl")
    outbox.add(STUDY)
    outbox.intend("here", "study")
    again = opened(tmp_path / "outbox.jsonl")
    assert again.intended("here", "study")
    assert not again.intended("elsewhere", "study")
    again.acknowledge("here", "study", UploadReceipt(run="r1"))
    assert not again.intended("here", "study")
    assert not opened(tmp_path / "outbox.jsonl").intended("here", "study")


def test_a_torn_last_line_is_cut_off_wherever_it_tears(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "outbox.jsonl"
    outbox = opened(path)
    outbox.add(STUDY)
    whole = path.stat().st_size
    outbox.add(TRIAL)
    outbox.close()
    content = path.read_bytes()
    for end in range(whole, len(content)):
        path.write_bytes(content[:end])
        torn = opened(path)
        assert torn.pending("here") == ["study"]
        assert torn.add(TRIAL)
        torn.close()
        assert path.read_bytes() == content


def test_a_damaged_line_counts_as_absent(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "outbox.jsonl"
    outbox = opened(path)
    outbox.add(STUDY)
    outbox.add(TRIAL)
    outbox.close()
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x00" * (len(lines[1]) - 1) + b"\n"
    path.write_bytes(b"".join(lines))
    again = opened(path)
    assert again.pending("here") == ["trial"]
    assert again.read("trial")[0] == TRIAL


def test_a_file_that_was_written_anew_is_a_change(tmp_path: Path, opened: Open) -> None:
    report = tmp_path / "report.html"
    record = replace(STUDY, artifacts=((str(report), ""),))
    outbox = opened(tmp_path / "outbox.jsonl")
    outbox.add(record)
    report.write_text("first")
    assert outbox.add(record)
    assert not outbox.add(record)
    report.write_text("other")
    assert outbox.add(record)


def test_the_study_keeps_its_identity_when_the_folder_moves(tmp_path: Path, opened: Open) -> None:
    first = opened(tmp_path / "a" / "outbox.jsonl").study
    assert opened(tmp_path / "b" / "outbox.jsonl").study != first
    (tmp_path / "a").rename(tmp_path / "c")
    assert opened(tmp_path / "c" / "outbox.jsonl").study == first
    assert opened(tmp_path / "a" / "outbox.jsonl").study == first


def test_places_are_remembered_without_their_address(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "outbox.jsonl"
    outbox = opened(path)
    assert outbox.place("http://user:secret@server") == ""
    outbox.settle("http://user:secret@server", "here")
    again = opened(path)
    assert again.place("http://user:secret@server") == "here"
    assert again.place("http://other") == ""
    assert "secret" not in path.read_text()


def test_a_closed_outbox_takes_nothing_more(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "outbox.jsonl"
    outbox = opened(path)
    outbox.add(STUDY)
    before = path.read_bytes()
    outbox.close()
    outbox.acknowledge("here", "study", UploadReceipt(run="r1"))
    assert not outbox.add(TRIAL)
    with pytest.raises(RuntimeError, match=r"^the outbox is closed$"):
        outbox.intend("here", "study")
    assert path.read_bytes() == before
    assert outbox.pending("here") == ["study"]


def test_a_parent_comes_first(tmp_path: Path, opened: Open) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        opened(tmp_path / "outbox.jsonl").add(TRIAL)
    assert str(error.value) == "trial: its parent 'study' is not recorded yet"


def test_a_status_is_one_of_mlflows() -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is compared
        replace(TRIAL, status="done")
    expected = "status is one of RUNNING, FINISHED, FAILED, KILLED; got 'done'"
    assert str(error.value) == expected


def test_what_mlflow_cannot_take_is_left_out_and_named() -> None:
    nan, infinity = float("nan"), float("inf")
    record = Record(
        key="trial",
        parent=None,
        name="trial",
        params={"long": "x" * 7000},
        metrics={"acc": 0.5, "asr": nan},
        curves={"relearn/acc": ((0, 0.5), (1, -infinity), (2, 0.25))},
        tags={"error": "y" * 9000},
    )
    assert fitted(record) == replace(
        record,
        params={"long": "x" * 6000},
        metrics={"acc": 0.5},
        curves={"relearn/acc": ((0, 0.5), (2, 0.25))},
        tags={"error": "y" * 8000, "ulrl.not_finite": "asr, relearn/acc at 1"},
    )
