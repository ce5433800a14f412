"""The exit code says what went wrong: 2 is for what the user wrote, 3 for the rest."""

import errno
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from rich.console import Console

from orchestrator import export, report, study
from orchestrator.cli.run import run_study
from orchestrator.errors import ResourceError
from orchestrator.executor.base import Executor
from orchestrator.spec.load import load_study
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.report_folders import mixed_rows, write_study
from ulrl import gallery

STUDY = """\
name: short
grid: {attack: badnets, dataset: digits, architecture: preact_resnet18, clean_ratio: 0.05}
"""
NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two studies and a study file in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("one", "two"):
        write_study(tmp_path / name, mixed_rows())
    Path("grid.yaml").write_text(STUDY)
    Path("taken.png").mkdir()
    return tmp_path


def no_room(*_: Any, **__: Any) -> None:
    raise NO_ROOM


COMMANDS = {"report": report.main, "export": export.main, "gallery": gallery.main}


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("report one", 3, "one: cannot be written; No space left on device"),
        ("report one two", 3, "comparison.html: cannot be written; No space left on device"),
        ("gallery out.png", 3, "OUT.png: out.png cannot be written; No space left on device"),
    ],
)
def test_a_full_disk_is_no_mistake_of_the_user_s(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    message: str,
) -> None:
    del place
    name, *words = command.split()
    monkeypatch.setattr(Path, "write_bytes", no_room)
    monkeypatch.setattr("orchestrator.files.aside_of", no_room)
    monkeypatch.setattr(gallery, "_gallery", Mock(return_value=[[0]]))
    monkeypatch.setattr(gallery, "png_bytes", Mock(return_value=b""))
    assert COMMANDS[name](words) == code
    assert capsys.readouterr().err == f"{message}\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "report one two --out=no/x.html",
            "no/x.html: cannot be written; No such file",
        ),
        ("report ~/gone", "{home}/gone: no study folder; it is not there"),
        ("export ~/gone out", "{home}/gone: no study folder; it has no study.yaml"),
        ("gallery ~/x.jpg", "so a name in .png; got {home}/x.jpg"),
        ("gallery taken.png --attack badnets", "OUT.png: taken.png cannot be written; Is a direct"),
    ],
)
def test_a_path_that_cannot_be_is_a_mistake(
    place: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    name, *words = command.split()
    assert COMMANDS[name](words) == 2
    assert message.format(home=place / "home") in capsys.readouterr().err


def test_a_report_without_room_leads_to_the_store(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Executor, "run", Mock(side_effect=KeyboardInterrupt))
    monkeypatch.setattr("orchestrator.reporting.build.write_report", no_room)
    with pytest.raises(
        ResourceError, match=r"the study folder .* \(\[Errno 28\] No .*; the store has"
    ):
        run_study(
            load_study("grid.yaml", []),
            place / "out",
            Console(file=StringIO()),
            Interrupts(),
            address=None,
            inline=True,
            verbose=False,
        )


def test_the_study_folder_may_be_below_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands ~ in --out=~/x; a folder of that name is removed by rm -r ~."""
    run = Mock(return_value=0)
    monkeypatch.setattr("orchestrator.cli.run.run_study", run)
    assert study.main(["grid.yaml", "--inline", "--out=~/x"]) == 0
    assert run.call_args.args[1] == place / "home/x"


@pytest.mark.parametrize(
    ("output", "code", "error"),
    [
        ("/dev/full", 3, "error: the plan cannot be written: No space left on device\n"),
        ("closed", 0, ""),  # its reader may have seen enough
    ],
)
def test_a_plan_that_nobody_gets(place: Path, output: str, code: int, error: str) -> None:
    """On a console that knows only ASCII, which alone ends nothing."""
    command = [sys.executable, "-m", "orchestrator.study", "grid.yaml", "--plan"]
    reader, writer = os.pipe()
    os.close(reader)
    if output == "/dev/full":
        writer = os.open(output, os.O_WRONLY)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=place, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr.decode("ascii")) == (code, error)


def test_a_cluster_is_left_before_anything_is_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it went: a cluster that dies while the report is written would end the process."""
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(STUDY)
    written: list[bool] = []
    results = tmp_path / "out/results.csv"
    monkeypatch.setattr(Executor, "run", Mock(side_effect=ResourceError("the cluster is gone")))
    monkeypatch.setattr(Executor, "leave", lambda _: written.append(results.exists()))
    with pytest.raises(ResourceError, match="the cluster is gone"):
        run_study(
            load_study("grid.yaml", []),
            tmp_path / "out",
            Console(file=StringIO()),
            Interrupts(),
            address=None,
            inline=True,
            verbose=False,
        )
    assert not written[0]
    assert results.exists()
