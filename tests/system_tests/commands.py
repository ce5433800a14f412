"""The command as a user runs it: a process of its own in an empty folder."""

import contextlib
import ctypes
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pandas as pd
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

# Small enough for seconds, with every kind of decision in it: settings are abandoned early,
# curves are cut, several settings share a relearning. To log models takes longer than all of it.
SMALL = """\
name: small
grid:
  attack: [badnets, {name: blended, alpha: 0.3}]
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  seed: [0, 1]
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  reinit_ratio: [1.0, 0.0]
  relearn_lr: [0.01, 2.0]
  relearn_epochs: 4
  unlearn_epochs: 5
victim: {epochs: 2, batch_size: 64, min_acc: 0.2, min_asr: 0.2}
prune:
  setting: {pruner: wilcoxon, p_threshold: 0.3, n_startup_steps: 2}
  curve: {pruner: median, n_startup_trials: 2, n_warmup_steps: 1}
objective: acc
resources: {workers: 2}
mlflow: {log_models: none}
"""
# Less than SMALL: what happens to files and processes does not depend on who decides what.
TINY = """\
name: small
grid:
  attack: badnets
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.05
  relearn_epochs: [1, 2, 3]
  unlearn_epochs: 2
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
mlflow: {log_models: none}
"""


def environment() -> dict[str, str]:
    """Return an environment in which no test setting reaches the command."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "COLUMNS": "100", "TERM": "dumb", "PATH": path}


MARK = "ULRL_TEST_COMMAND"  # inherited by all that a command starts, Ray's daemons too
PR_SET_CHILD_SUBREAPER = 36  # of Linux' <sys/prctl.h>
SECONDS = 60.0  # for what was told to end, or has lost its driver
WORKING = re.compile(r"ray::\w+\.train")  # the title of a worker while it is at an item


class Command:
    """``python -m orchestrator.study`` in a folder; what it leaves running is killed at the end.

    Args:
        folder: Where it runs.
        before: Words that run the ones after them elsewhere.
        variables: Of its environment.
    """

    def __init__(self, folder: Path, *, before: Sequence[str] = (), **variables: str) -> None:
        self.folder = folder
        self._before = before
        self._variables = variables
        self.printed = ""  # on standard output, by the last start that has ended
        self._started: dict[subprocess.Popen[str], str] = {}  # with the mark of each

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        wait_until(lambda: not killed(self.processes()), "what was killed is gone")
        for process in self._started:
            print(*process.communicate())  # noqa: T201 - shown if the test fails

    def write(self, text: str, name: str = "grid.yaml") -> None:
        (self.folder / name).write_text(text)

    def start(self, *arguments: str, stdout: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            [*self._before, sys.executable, "-m", "orchestrator.study", *arguments],
            cwd=self.folder,
            env={**environment(), **self._variables, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,  # a Ctrl-C at the tests is not for it
        )
        self._started[process] = mark
        return process

    def processes(self) -> list[psutil.Process]:
        """Return all that runs of what this command started, whoever its parent is now."""
        return processes_with(MARK, *self._started.values())

    def workers(self) -> list[psutil.Process]:
        """Return the Ray workers of the last start that are at an item now."""
        *_, mark = self._started.values()
        return such(processes_with(MARK, mark), lambda one: WORKING.match(title(one)))

    def run(self, *arguments: str, code: int = 0, timeout: float = 400) -> tuple[str, str]:
        """Return what the command printed, after checking its exit code."""
        return self.end(self.start(*arguments), code, timeout)

    def end(
        self,
        process: subprocess.Popen[str],
        code: int = 0,
        timeout: float = 400,
        left_for: float = SECONDS,
    ) -> tuple[str, str]:
        """Return what a start printed once it has ended, with nothing that it started left.

        What is left may take `left_for` seconds to go.
        """
        mark = self._started[process]
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            killed(processes_with(MARK, mark))
            pytest.fail(f"not over after {timeout} s\n{''.join(process.communicate())}")
        assert process.returncode == code, f"exit {process.returncode}\n{out}\n{err}"
        wait_until(
            lambda: not processes_with(MARK, mark),
            lambda: left(processes_with(MARK, mark)),
            left_for,
        )
        self.printed = out
        return out, err

    def results(self, name: str = "small") -> pd.DataFrame:
        return pd.read_csv(self.folder / "runs" / name / "results.csv")

    def stages(self, name: str = "small") -> pd.DataFrame:
        return pd.read_csv(self.folder / "runs" / name / "stages.csv")

    def listed(self, name: str = "small") -> int:
        """Return how many stages are listed."""
        file = self.folder / "runs" / name / "stages.csv"
        return max(0, file.read_text().count("\n") - 1) if file.exists() else 0

    def wait_for_stages(self, count: int, name: str = "small", timeout: float = 300) -> None:
        """Return once that many stages are listed."""
        self.wait_until(lambda: self.listed(name) >= count, f"{count} stages are listed", timeout)

    def wait_until(self, true: Callable[[], object], what: str, timeout: float = 300) -> None:
        """Return once a condition holds; fail at once if the last start ends before."""
        *_, process = self._started

        def there() -> object:
            ended = process.poll() is not None  # before the look: it writes until then
            found = true()
            if ended and not found:
                said = "".join(process.communicate())
                pytest.fail(f"exit {process.returncode} before {what}\n{said}")
            return found

        wait_until(there, what, timeout)


def processes_with(variable: str, *values: str) -> list[psutil.Process]:
    """Return the processes that have a variable of such a value in their environment.

    Those that overwrote their environment with a new title cannot be seen so: see `adopting`.
    """
    wanted = [f"{variable}={value}".encode() for value in values]

    def runs(process: psutil.Process) -> bool:
        there = Path(f"/proc/{process.pid}/environ").read_bytes()
        return any(one in there for one in wanted) and process.status() != psutil.STATUS_ZOMBIE

    return such(psutil.process_iter(), runs)


@contextlib.contextmanager
def adopting() -> Iterator[Callable[[], list[psutil.Process]]]:
    """Yield a function that returns all processes that began since and descend from this one.

    The kernel keeps account: a process whose parent dies becomes this one's child.
    """
    before = set(psutil.Process().children(recursive=True))
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1) == 0

    def found() -> list[psutil.Process]:
        new = set(psutil.Process().children(recursive=True)) - before
        return such(new, lambda one: one.status() != psutil.STATUS_ZOMBIE)

    try:
        yield found
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0)


def such(
    processes: Iterable[psutil.Process], true: Callable[[psutil.Process], object]
) -> list[psutil.Process]:
    """Return the processes of which something holds; of one that has ended nothing does."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError):
            if true(process):
                found.append(process)
    return found


def title(process: psutil.Process) -> str:
    """Return how a process calls itself, for most its command line."""
    return " ".join(process.cmdline())


def killed(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Kill processes, and return them."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return processes


def left(processes: Iterable[psutil.Process]) -> str:
    """Say that nothing should be left, and what is."""
    titles = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            titles.append(title(process))
    return "\n".join(["nothing of it is left; there are", *titles])


def wait_until(
    true: Callable[[], object], what: str | Callable[[], str], timeout: float = 300
) -> None:
    """Return once a condition holds; a test fails that waits longer than `timeout` seconds."""
    until = time.monotonic() + timeout
    while not true():
        if time.monotonic() > until:
            told = what if isinstance(what, str) else what()
            pytest.fail(f"waited {timeout} s in vain until {told}")
        time.sleep(0.05)


def comparable(results: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that may not depend on who computed them, or when."""
    return results.drop(columns=["seconds", "repair_seconds", "mlflow_run_id"], errors="ignore")


def same(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Assert that two tables of results agree to the last bit."""
    pd.testing.assert_frame_equal(
        comparable(found), comparable(wanted), check_exact=True, check_dtype=True
    )


def computed(stages: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what was computed, after checking that nothing was computed twice."""
    done = stages[stages.computed]
    twice = done[done.duplicated(["stage", "key"])]
    assert twice.empty, f"computed twice:\n{twice}"
    return sorted(zip(done.stage, done.key, strict=True))
