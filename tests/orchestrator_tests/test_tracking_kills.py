"""The mirror when its driver is killed, wherever that comes: nothing is doubled or lost."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest

from orchestrator.tracking import sqlite_setup
from orchestrator.tracking.records import Record
from orchestrator.tracking.sqlite_setup import database_file, ensure_database
from orchestrator.tracking.sync import SyncState
from orchestrator.tracking.tracker import Tracker

ROOT = Path(__file__).parents[2]
DRIVER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from {Path(__file__).stem} import send
"""


def key_of(number: int) -> str:
    """Return a key of the trial with quotes in it, of both kinds but for the first trial."""
    return json.dumps({"note": "it's a trial" if number else "a trial", "number": number})


def send(folder: Path | str, trials: int, uri: str | None = None) -> SyncState:
    uri = uri or f"sqlite:///{folder}/mlflow.db"
    tracker = Tracker(uri=uri, experiment="demo", outbox=Path(folder, "outbox.jsonl"))
    tracker.record(Record(key="study", parent=None, name="demo"))
    for number in range(trials):
        tracker.record(
            Record(
                key=key_of(number),
                parent="study",
                name=f"trial {number}",
                params={"number": str(number)},
                metrics={"acc": number / 3},
                curves={"relearn/acc": tuple((step, step / 7) for step in range(5))},
            )
        )
    return tracker.close(60)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "template" / "mlflow.db"
    ensure_database(path)
    return path


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(code: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a process."""
    with start(code) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute(query))


def check(path: Path, trials: int) -> None:
    """Check that every run is there once with all it has to hold."""
    keys = ["study", *(key_of(number) for number in range(trials))]
    found = rows(path, "select value from tags where key = 'ulrl.key'")
    assert Counter(found) == Counter((key,) for key in keys)
    assert rows(path, "select distinct status from runs") == [("FINISHED",)]
    values = rows(path, "select step, value from metrics where key = 'relearn/acc'")
    assert Counter(values) == Counter({(step, step / 7): trials for step in range(5)})
    values = rows(path, "select value from metrics where key = 'acc'")
    assert sorted(values) == [(number / 3,) for number in range(trials)]


@pytest.mark.parametrize(
    ("method", "count"),
    [("create_run", 2), ("log_batch", 2), ("set_terminated", 3)],
)
def test_a_kill_between_a_call_and_its_receipt_doubles_nothing(
    method: str, count: int, tmp_path: Path, template: Path
) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    dying = f"""
import os
from mlflow import MlflowClient
call, left = MlflowClient.{method}, {count}
def dying(*arguments, **options):
    global left
    left -= 1
    result = call(*arguments, **options)
    return result if left else os._exit(9)
MlflowClient.{method} = dying
send({str(tmp_path)!r}, 2)
"""
    assert finish(DRIVER + dying) == (9, "", "")
    assert send(tmp_path, 2).left == 0
    check(tmp_path / "mlflow.db", 2)


def test_a_kill_at_an_odd_moment_doubles_and_loses_nothing(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    with start(f"{DRIVER}send({str(tmp_path)!r}, 400)") as process:
        while process.poll() is None and len(rows(path, "select 1 from runs")) < 15:
            sleep(0.003)
        process.kill()
    assert 15 <= len(rows(path, "select 1 from runs")) < 401
    assert send(tmp_path, 400).left == 0
    check(path, 400)


def test_a_new_database_is_made_in_silence(tmp_path: Path) -> None:
    done = "SyncState(delivered=2, left=0, error=None)\n"
    assert finish(f"{DRIVER}print(send('{tmp_path}/new/folder', 1))") == (0, done, "")
    check(tmp_path / "new" / "folder" / "mlflow.db", 1)


def test_a_server_that_is_away_costs_seconds_and_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    ask = f"send({str(tmp_path)!r}, 1, uri='http://127.0.0.1:9')"
    told = f"delivery = {ask}\nprint(delivery.delivered, delivery.left)"
    begin = monotonic()
    assert finish(DRIVER + told) == (0, "0 2\n", "")
    assert monotonic() - begin < 30


def test_a_server_that_never_answers_holds_nobody_up(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}"
        tracker = Tracker(uri=uri, experiment="demo", outbox=tmp_path / "outbox.jsonl")
        begin = monotonic()
        tracker.record(Record(key="study", parent=None, name="demo"))
        assert monotonic() - begin < 1
        delivery = tracker.close(2)
        assert monotonic() - begin < 10
        assert (delivery.delivered, delivery.left) == (0, 1)
    assert send(tmp_path, 0) == SyncState(1, 0, None)  # it waited for the next time


def test_a_kill_while_the_database_is_made_leaves_none(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    dying = f"""
import os, shutil
from pathlib import Path
from orchestrator.tracking import sqlite_setup
sqlite_setup._make_tables = lambda fresh: None
shutil.copyfile = lambda fresh, partial: (partial.write_bytes(b"half"), os._exit(9))
sqlite_setup.ensure_database(Path({str(path)!r}))
"""
    assert finish(dying) == (9, "", "")
    assert not path.exists()
    monkeypatch.setattr(
        sqlite_setup, "_make_tables", lambda fresh: shutil.copyfile(template, fresh)
    )
    ensure_database(path)
    assert path.read_bytes() == template.read_bytes()


def test_drivers_that_make_the_database_at_once_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    meet = threading.Barrier(4)

    def tables(fresh: Path) -> None:
        fresh.write_text(threading.current_thread().name)
        meet.wait()

    monkeypatch.setattr(sqlite_setup, "_make_tables", tables)
    threads = [threading.Thread(target=ensure_database, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {thread.name for thread in threads}
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_that_cannot_be_made_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("mlflow.store.db.utils._initialize_tables", fail)
    with pytest.raises(RuntimeError, match=r"^MLflow cannot make mlflow\.db: no space$"):
        ensure_database(tmp_path / "mlflow.db")
    assert list(tmp_path.iterdir()) == []


def test_only_files_of_sqlite_are_made() -> None:
    assert database_file("sqlite:////data/mlflow.db?timeout=5") == Path("/data/mlflow.db")
    assert database_file("sqlite:///runs/mlflow.db") == Path.cwd() / "runs" / "mlflow.db"
    assert database_file("sqlite:///:memory:") is None
    assert database_file("http://server:5000") is None
    assert database_file("postgresql://server/mlflow") is None
