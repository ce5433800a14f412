"""Temporary folders, and where Ray can have one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from orchestrator.processes import LOCK, PREFIX, SHORT, place_for_sockets, scratch


def test_scratch_goes_and_takes_what_dead_drivers_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.processes.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("dead", "alive"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / LOCK).touch()
    (tmp_path / f"{PREFIX}unknown").mkdir()
    (tmp_path / "other").mkdir()
    with FileLock(tmp_path / f"{PREFIX}alive" / LOCK), scratch() as mine:
        assert {path.name for path in tmp_path.iterdir()} == {
            *(f"{PREFIX}alive", f"{PREFIX}unknown", "other", mine.name)
        }
        with scratch() as another:
            assert mine.exists()
            assert another.exists()
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{PREFIX}alive", f"{PREFIX}unknown", "other")
    }


def test_a_killed_driver_s_scratch_is_taken_away(tmp_path: Path) -> None:
    text = """
import os, signal
from orchestrator.processes import scratch
with scratch() as folder:
    (folder / "rubbish").touch()
    if {kill}: os.kill(os.getpid(), signal.SIGKILL)
"""
    for kill, left in ((True, 1), (False, 0)):
        subprocess.run(
            [sys.executable, "-c", text.format(kill=kill)],
            check=False,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        assert len(list(tmp_path.glob(f"{PREFIX}*"))) == left


@pytest.mark.parametrize(
    ("ray", "system", "wanted"),
    [
        (None, "short", "short"),
        ("short", "other", "short"),
        (None, "l" * 140, "/tmp"),
        ("l" * 140, "short", "short"),
        (None, "ü", "/tmp"),
        (None, "absent", "/tmp"),
    ],
)
def test_ray_gets_a_folder_in_which_its_sockets_have_names(
    ray: str | None, system: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch("/tmp") as home:
        monkeypatch.setattr("orchestrator.processes.SHORT", SHORT + len(str(home)))
        for name in {ray, system} - {None, "absent"}:
            (home / str(name)).mkdir()
        monkeypatch.setattr("orchestrator.processes.gettempdir", lambda: str(home / system))
        if ray is None:
            monkeypatch.delenv("RAY_TMPDIR", raising=False)
        else:
            monkeypatch.setenv("RAY_TMPDIR", str(home / ray))
        assert place_for_sockets() == (wanted if wanted == "/tmp" else str(home / wanted))


def test_where_no_folder_does_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.processes.SHORT", 15)
    monkeypatch.setattr("orchestrator.processes.gettempdir", lambda: "/var/tmp")
    with pytest.raises(OSError, match="too long in /var/tmp; set RAY_TMPDIR to a folder"):
        place_for_sockets()


def test_the_longest_folder_leaves_room_for_the_names_of_ray_s_sockets() -> None:
    """A socket's name has 107 bytes at most; the longest of Ray's holds time and process."""
    longest = "/session_2026-11-28_08-17-31_550750_4194304/sockets/plasma_store"
    assert SHORT + len(longest) <= 107
