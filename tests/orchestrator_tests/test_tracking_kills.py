"""Delivery when its driver is killed, wherever that comes, and where MLflow is imported."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep

import pytest

from orchestrator.tracking.records import Record
from orchestrator.tracking.sqlite_setup import ensure_database
from orchestrator.tracking.sync import SyncState, open_sync

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
    worker = open_sync(uri, "demo", Path(folder, "mlflow.sqlite"), "study-id")
    worker.record(Record(key="study", parent=None, name="demo"))
    for number in range(trials):
        worker.record(
            Record(
                key=key_of(number),
                parent="study",
                name=f"trial {number}",
                params={"number": str(number)},
                metrics={"acc": number / 3},
                curves={"relearn/acc": tuple((step, step / 7) for step in range(5))},
            )
        )
    return worker.close(300)


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
    found = rows(path, "select value from tags where key = 'mlflow.ulrl.key'")
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
    with start(f"{DRIVER}send({str(tmp_path)!r}, 30)") as process:
        while process.poll() is None and len(rows(path, "select 1 from runs")) < 8:
            sleep(0.003)
        process.kill()
    assert 8 <= len(rows(path, "select 1 from runs")) < 31
    assert send(tmp_path, 30).left == 0
    check(path, 30)


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


# MLflow is imported where Tune imports it too: in the main thread.

WATCH = """
import json, sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        seen.append((threading.current_thread() is threading.main_thread(), name))

seen = []
sys.meta_path.insert(0, Watch())
"""
IMPORTED_BY_TUNE = "import ray.air.integrations.mlflow\n"
A_RECORD_DELIVERED = """
from pathlib import Path
from orchestrator.tracking.records import Record
from orchestrator.tracking.sync import open_sync

worker = open_sync(sys.argv[1], "e", Path(sys.argv[2]), "study-id")
worker.record(Record(key="study", parent=None, name="demo"))
delivery = worker.close(60)
assert delivery.delivered == 1, delivery
"""


def test_no_other_thread_imports_what_tune_imports_in_the_main_one(tmp_path: Path) -> None:
    uri, table = f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "mlflow.sqlite")
    theirs = {name for _, name in watched(IMPORTED_BY_TUNE) if name.startswith("mlflow")}
    ours = watched(A_RECORD_DELIVERED, uri, table)
    assert {"mlflow", "mlflow.entities", "mlflow.tracking"} <= theirs
    assert {name for main, name in ours if main} >= theirs
    assert {name for main, name in ours if not main} & theirs == set()


def watched(code: str, *arguments: str) -> list[tuple[bool, str]]:
    """Return the imports of some code, each with whether the main thread made it."""
    done = subprocess.run(
        [sys.executable, "-c", WATCH + code + "print(json.dumps(seen))", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return [(main, name) for main, name in json.loads(done.stdout)]
