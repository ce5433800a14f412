"""Two drivers on one store at the same time: what one computes the other waits for."""

import os
import signal
import time
from pathlib import Path

import pandas as pd

from tests.system_tests.commands import Command, computed, same

MEETING = """\
name: meeting
grid:
  attack: badnets
  seed: [0, 1]
  dataset: digits
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.05
  unlearn_threshold: [0.3, 0.6]
  relearn_epochs: [1, 2]
  unlearn_epochs: 2
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
mlflow: {log_models: none}
"""


def lines(folder: Path) -> int:
    """Return how many stages a study folder lists, or -1 if it is not there yet."""
    file = folder / "stages.csv"
    return file.read_text().count("\n") - 1 if file.exists() else -1


def of_seed(folder: Path, seed: int) -> int:
    """Return how many stages a study folder lists of one scenario."""
    file = folder / "stages.csv"
    return sum(f"seed={seed}" in line for line in file.read_text().splitlines())


def test_each_stage_is_computed_once_between_two_drivers(command: Command) -> None:
    command.write(MEETING)
    one, other = command.folder / "one", command.folder / "other"
    first = command.start("grid.yaml", "--inline", "--out", "one")
    locks = command.folder / "runs/store/.locks"
    command.wait_until(lambda: [*locks.glob("train_victim-*")], "the first driver is at a victim")
    os.kill(first.pid, signal.SIGSTOP)  # so that the second one meets it there
    second = command.start("grid.yaml", "--inline", "--out", "other", "--set", "name=other")
    (log,) = (one / "logs").glob("victim-*.log")
    taken = int(log.stem.removeprefix("victim-"))  # scenarios are numbered as the seeds are
    command.wait_until(
        lambda: lines(other) >= 2 + 1 + 2 + 2 * 2, "the second driver did what it could"
    )
    time.sleep(3)
    assert second.poll() is None
    assert (lines(one), of_seed(other, taken)) == (0, 0), "it waits"
    os.kill(first.pid, signal.SIGCONT)
    for process in (first, second):
        _, err = command.end(process, timeout=300)
        assert err == ""
    tables = [pd.read_csv(folder / "stages.csv") for folder in (one, other)]
    between = computed(pd.concat(tables))  # none twice
    assert between == sorted(
        {(row.stage, row.key) for table in tables for row in table.itertuples()}
    )
    assert len(between) >= 2 * (2 + 1 + 2 + 2 * 2)
    same(*(pd.read_csv(folder / "results.csv") for folder in (one, other)))
    assert not list(locks.iterdir())
