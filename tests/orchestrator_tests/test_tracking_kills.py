"""The mirror when its driver is killed, wherever that comes: nothing is doubled or lost."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from time import sleep

import pytest

from orchestrator import database
from orchestrator.database import database_file, ensure_database

ROOT = Path(__file__).parents[2]
DRIVER = """
import os, sys
from pathlib import Path
from orchestrator.records import Record
from orchestrator.tracking import Tracker

def send(folder, trials, timeout=60):
    uri, outbox = f"sqlite:///{folder}/mlflow.db", Path(folder, "outbox.jsonl")
    tracker = Tracker(uri=uri, experiment="demo", outbox=outbox)
    tracker.record(Record(key="study", parent=None, name="demo"))
    for number in range(trials):
        curve = tuple((step, step / 7) for step in range(5))
        tracker.record(
            Record(
                key=f"trial-{number}",
                parent="study",
                name=f"trial {number}",
                params={"number": str(number)},
                metrics={"acc": number / 3},
                curves={"relearn/acc": curve},
            )
        )
    print(tracker.close(timeout))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    ensure_database(path)
    return path


def start(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def drive(code: str) -> tuple[int, str, str]:
    """Return exit code, output and errors of a driver."""
    with start(code) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.execute(query))


def check(path: Path, trials: int) -> None:
    """Check that every run is there once with all it has to hold."""
    keys = ["study", *(f"trial-{number}" for number in range(trials))]
    found = rows(path, "select value from tags where key = 'ulrl.key'")
    assert Counter(found) == Counter((key,) for key in keys)
    assert rows(path, "select distinct status from runs") == [("FINISHED",)]
    values = rows(path, "select step, value from metrics where key = 'relearn/acc'")
    assert Counter(values) == Counter({(step, step / 7): trials for step in range(5)})
    values = rows(path, "select value from metrics where key = 'acc'")
    assert sorted(values) == [(number / 3,) for number in range(trials)]


@pytest.mark.parametrize(
    "patch",
    [
        "import mlflow; target, name, count = mlflow.MlflowClient, 'create_run', 2",
        "import mlflow; target, name, count = mlflow.MlflowClient, 'log_batch', 2",
        "import mlflow; target, name, count = mlflow.MlflowClient, 'set_terminated', 1",
        "import orchestrator.outbox as o; target, name, count = o.Outbox, 'acknowledge', 2",
    ],
)
def test_a_kill_right_after_any_call_doubles_nothing(
    patch: str, tmp_path: Path, template: Path
) -> None:
    shutil.copyfile(template, tmp_path / "mlflow.db")
    dying = f"""
{patch}
call = getattr(target, name)
def dying(*arguments, **options):
    global count
    result = call(*arguments, **options)
    count -= 1
    if count == 0:
        os._exit(9)
    return result
setattr(target, name, dying)
send({str(tmp_path)!r}, 2)
"""
    code, _, errors = drive(dying)
    assert (code, errors) == (9, "")
    assert drive(f"send({str(tmp_path)!r}, 2)")[0] == 0
    check(tmp_path / "mlflow.db", 2)


def test_kills_at_odd_moments_double_and_lose_nothing(tmp_path: Path, template: Path) -> None:
    path = tmp_path / "mlflow.db"
    shutil.copyfile(template, path)
    seen = 0
    for wanted in (5, 25, 45):
        with start(f"send({str(tmp_path)!r}, 60)") as process:
            while process.poll() is None and seen < wanted:
                sleep(0.003)
                seen = len(rows(path, "select 1 from runs"))
            process.send_signal(signal.SIGKILL)
    assert seen < 61
    code, output, errors = drive(f"send({str(tmp_path)!r}, 60)")
    assert (code, errors) == (0, "")
    assert "left=0" in output
    check(path, 60)


def test_a_new_database_is_made_in_silence(tmp_path: Path) -> None:
    code, output, errors = drive(f"send('{tmp_path}/new/folder', 1)")
    assert (code, errors) == (0, "")
    assert output == "Delivery(delivered=2, left=0, error=None)\n"
    check(tmp_path / "new" / "folder" / "mlflow.db", 1)


def test_a_server_that_is_away_is_met_in_silence(tmp_path: Path) -> None:
    code, output, errors = drive(
        "Tracker.__init__.__kwdefaults__['materialise'] = None\n"
        f"tracker = Tracker(uri='http://127.0.0.1:9', experiment='demo', "
        f"outbox=Path({str(tmp_path)!r}, 'outbox.jsonl'))\n"
        "tracker.record(Record(key='study', parent=None, name='demo'))\n"
        "delivery = tracker.close(20)\n"
        "print(delivery.delivered, delivery.left, '127.0.0.1' in delivery.error)"
    )
    assert (code, output, errors) == (0, "0 1 True\n", "")


def test_a_kill_while_the_database_is_made_leaves_none(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mlflow.db"
    half = "import shutil\nshutil.copyfile = lambda a, b: (b.write_bytes(b'half'), os._exit(9))"
    tables = f"import orchestrator.database as d\nd._make_tables = Path({str(template)!r}).touch"
    code, _, _ = drive(f"{half}\n{tables}\nd.ensure_database(Path({str(path)!r}))")
    assert code == 9
    assert not path.exists()
    monkeypatch.setattr(database, "_make_tables", lambda fresh: shutil.copyfile(template, fresh))
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

    monkeypatch.setattr(database, "_make_tables", tables)
    threads = [threading.Thread(target=ensure_database, args=(path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in {thread.name for thread in threads}
    assert list(tmp_path.iterdir()) == [path]


def test_a_database_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        ensure_database(tmp_path / "file" / "mlflow.db")


def test_only_files_of_sqlite_are_made() -> None:
    assert database_file("sqlite:////data/mlflow.db?timeout=5") == Path("/data/mlflow.db")
    assert database_file("sqlite:///runs/mlflow.db") == Path.cwd() / "runs" / "mlflow.db"
    assert database_file("sqlite:///:memory:") is None
    assert database_file("http://server:5000") is None
    assert database_file("postgresql://server/mlflow") is None
