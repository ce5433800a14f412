"""How a command's process ends."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, logging, sys, threading, time
from orchestrator.terminal import as_process

class Late:
    def __del__(self):
        print("taken apart")

late = Late()

def main():
    late.itself = late  # only taken apart when everything is
    atexit.register(print, "registered")
    threading.Timer(0.2, print, ["thread"]).start()
    print("main")
    {last}

sys.exit(as_process(main))
"""


def ended(last: str, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run a process whose command ends so."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(last=last)],
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 1, 4, 143])
def test_all_but_taking_apart_is_done(code: int) -> None:
    done = ended(f"return {code}")
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout.splitlines() == ["main", "thread", "registered"]


@pytest.mark.parametrize(
    ("last", "code", "word"),
    [("raise SystemExit(2)", 2, ""), ("raise RuntimeError('oh')", 1, "RuntimeError: oh")],
)
def test_an_exception_ends_it_as_ever(last: str, code: int, word: str) -> None:
    done = ended(last)
    assert done.returncode == code
    assert word in done.stderr
    assert done.stdout.splitlines() == ["main", "thread", "registered", "taken apart"]


@pytest.mark.parametrize("code", [0, 1])
def test_output_that_nobody_takes_changes_no_exit_code(code: int) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:  # noqa: PTH123 - no path of ours
        done = ended(f"return {code}", output=full.fileno())
    assert (done.returncode, done.stderr) == (code, "")
