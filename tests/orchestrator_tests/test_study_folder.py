"""The study folder: its holder, and records that a kill may have torn."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.errors import ResourceError
from orchestrator.files import aside_of, whole_lines
from orchestrator.plan.jobs import StageRun
from orchestrator.store.study_folder import StudyFolder

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from orchestrator.store.study_folder import StudyFolder
with StudyFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    time.sleep(60)
"""
HEAD = "stage,key,scenario,seconds,computed\n"


def run(stage: str, key: str, study: str = "mine", scenario: str = "badnets, seed=0") -> StageRun:
    return StageRun(stage=stage, key=key, scenario=scenario, seconds=1.23456, study=study)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    folder = StudyFolder(tmp_path / "study")
    folder.logs.mkdir(parents=True)
    return folder


@contextmanager
def another_holder(folder: StudyFolder) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLDER, str(folder.path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


# What kills left.


# One holder at a time.


def test_a_second_holder_is_told_who_the_first_is(folder: StudyFolder) -> None:
    with another_holder(folder) as process:
        since = json.loads((folder.logs / "driver.json").read_text())["since"]
        with pytest.raises(ResourceError) as caught, folder.held():
            pass
        text = str(caught.value)
        assert text.startswith(
            f"{folder.path} is held by process {process.pid} on {socket.gethostname()} since 20"
        )
        assert since > 1.7e9


def test_a_killed_holder_holds_no_more(folder: StudyFolder) -> None:
    with another_holder(folder) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with folder.held():
            holder = json.loads((folder.logs / "driver.json").read_text())
            assert (holder["pid"], holder["host"]) == (os.getpid(), socket.gethostname())


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_holder_that_cannot_be_told_is_another_driver(folder: StudyFolder, content: str) -> None:
    with folder.held():
        (folder.logs / "driver.json").write_text(content)
        with pytest.raises(ResourceError) as caught, StudyFolder(folder.path).held():
            pass
        assert str(caught.value) == f"{folder.path} is held by another driver"


def test_the_identity_stays(folder: StudyFolder, tmp_path: Path) -> None:
    first = folder.identity()
    assert len(first) == 32
    assert folder.identity() == StudyFolder(folder.path).identity() == first
    other = StudyFolder(tmp_path / "other")
    other.logs.mkdir(parents=True)
    assert other.identity() != first


# The record of work.


def lines(folder: StudyFolder) -> list[str]:
    return (folder.path / "stages.csv").read_text().splitlines()[1:]


def test_every_execution_is_a_line(folder: StudyFolder) -> None:
    """So that the file would show work done twice."""
    folder.open_record()
    folder.record([run("unlearn", "a"), run("relearn", "b", scenario='x "y", z')])
    folder.record([run("unlearn", "a")])
    folder.record([])
    assert (folder.path / "stages.csv").read_text() == (
        HEAD
        + 'unlearn,a,"badnets, seed=0",1.2346,True\n'
        + 'relearn,b,"x ""y"", z",1.2346,True\n'
        + 'unlearn,a,"badnets, seed=0",1.2346,True\n'
    )


def test_what_results_rest_on_is_listed_once(folder: StudyFolder) -> None:
    folder.open_record()
    folder.record([run("unlearn", "a")])
    runs = [run("unlearn", "a"), run("relearn", "a"), run("relearn", "b", study="another")]
    for _ in range(2):
        folder.account(runs, "mine")
    assert lines(folder) == [
        'unlearn,a,"badnets, seed=0",1.2346,True',
        'relearn,a,"badnets, seed=0",1.2346,True',
        'relearn,b,"badnets, seed=0",1.2346,False',
    ]


def test_a_torn_line_is_cut_off(folder: StudyFolder) -> None:
    folder.open_record()
    folder.record([run("unlearn", "a"), run("relearn", "b")])
    whole = (folder.path / "stages.csv").read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for length in range(len(whole)):
        (folder.path / "stages.csv").write_bytes(whole[:length])
        again = StudyFolder(folder.path)
        again.open_record()
        again.account([run("unlearn", "a"), run("relearn", "b")], "mine")
        assert (folder.path / "stages.csv").read_bytes() == whole, length
    assert 0 < last < len(whole)


def test_cuts_keep_the_longest_curve_of_each_key(folder: StudyFolder) -> None:
    short, long = ((0.1, 0.2, 0.3),), ((0.1, 0.2, 0.3), (0.4, 1 / 3, 0.6))
    for key, curve in (("a", short), ("a", long), ("a", short), ("b", short)):
        folder.record_cut(key, curve)
    assert StudyFolder(folder.path).cuts() == {"a": long, "b": short}


def test_a_file_that_a_kill_left_aside_is_removed(folder: StudyFolder) -> None:
    figures = folder.path / "figures"
    figures.mkdir()
    ours = aside_of(figures / "a.svg")  # of a process that runs
    foreign = figures / ".b.svg.0123abcd-1-0123abcd.tmp"  # of another machine, just now
    old = figures / ".b.svg.0123abcd-1-4567abcd.tmp"  # of another machine, long ago
    users = figures / ".notes.tmp"
    for path in (ours, foreign, old, users):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(users, (0, 0))
    with folder.held():
        assert set(figures.iterdir()) == {ours, foreign, users}


def test_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert whole_lines(path) == []
    for content, wanted in ((b"", []), (b"a\nb\n", ["a", "b"]), (b"a\n\xc3", ["a"]), (b"a", [])):
        path.write_bytes(content)
        assert whole_lines(path) == wanted
        assert path.read_bytes() == "".join(f"{line}\n" for line in wanted).encode()
