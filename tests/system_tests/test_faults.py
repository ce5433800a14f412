"""Faults of the store, each to the end: the same table, or a clear line."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.system_tests.commands import ROOT, TINY, Command, computed, same


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The tiny study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("tiny")) as command:
        command.write(TINY)
        command.run("grid.yaml", "--inline")
        yield command


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this test mounts a file system, which only root may: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.usefixtures("tables")
def test_a_full_store_ends_the_study_in_a_line_and_room_lets_it_go_on(
    command: Command, tiny: Command
) -> None:
    command.write(TINY)
    store = command.folder / "runs/store"
    with mounted(store, "size=140k"):
        out, err = command.run("grid.yaml", "--set=resources.workers=1", code=3)
        assert err.startswith(f"error: the store {store} cannot be written to ([Errno 28] No space")
        assert "run the same command again" in err
        assert len(err.splitlines()) == 1
        assert "Traceback" not in out
        assert not list(store.rglob("*.tmp")), "what was written aside is taken away"
        assert command.listed(), "something was finished before"
        subprocess.run(["mount", "-o", "remount,size=100m", str(store)], check=True)
        command.run("grid.yaml", "--inline")
        same(command.results(), tiny.results())
        assert computed(command.stages()) == computed(tiny.stages())


def test_a_store_that_may_not_be_written_is_refused_in_a_line(command: Command) -> None:
    command.write(TINY)
    store = command.folder / "runs/store"
    with mounted(store, "size=1m,ro"):
        _, err = command.run("grid.yaml", "--inline", code=3)
    assert err.startswith(f"error: the store {store} cannot be written to ([Errno 30] Read-only ")
    assert err.endswith("; name another with store:\n")


@pytest.mark.usefixtures("tables")
def test_damaged_and_foreign_files_are_made_again(command: Command, tiny: Command) -> None:
    shutil.copytree(tiny.folder / "runs/store", command.folder / "runs/store")
    files = sorted((command.folder / "runs/store").rglob("*.safetensors"))
    source = Random(5)
    for number, file in enumerate(source.sample(files, 6)):
        content = bytearray(file.read_bytes())
        if number % 3 == 0:
            del content[source.randrange(len(content)) :]
        elif number % 3 == 1:
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        else:
            content[:] = b"PK\x03\x04 not of this store"
        file.write_bytes(content)
    command.write(TINY)
    command.run("grid.yaml", "--inline")
    same(command.results(), tiny.results())


@pytest.mark.usefixtures("tables")
def test_a_stage_with_a_new_version_is_made_anew_and_the_old_entries_stay(
    command: Command, tiny: Command
) -> None:
    for name in ("ulrl", "orchestrator"):
        shutil.copytree(ROOT / name, command.folder / name)
    shutil.copytree(tiny.folder / "runs/store", command.folder / "runs/store")
    store = command.folder / "runs/store"
    results = [file for file in store.rglob("*.safetensors") if file.parts[-3] != "pace"]
    before = {file: file.read_bytes() for file in results}
    module = command.folder / "ulrl/relearning.py"
    text, count = re.subn(r"(?m)^VERSION = (\d+)", r"VERSION = 1\g<1>", module.read_text())
    assert count == 1
    module.write_text(text)
    command.write(TINY)
    command.run("grid.yaml", "--inline")
    same(command.results(), tiny.results())
    made = command.stages()
    assert set(made[made.computed].stage) == {"relearn", "evaluate"}
    assert made[made.stage == "relearn"].computed.all()
    assert {file: file.read_bytes() for file in before} == before
