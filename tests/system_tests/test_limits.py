"""Items that hang or want more memory than there is, and budgets: with real processes."""

import shutil
from pathlib import Path

import pytest

from tests.system_tests.commands import ROOT, TINY, Command

# An attack for these tests alone, in a copy of the checkout: some of its triggers never come.
STUCK = '''\
"""Stuck: a trigger that is not always made."""

import time
from dataclasses import dataclass

import torch
from torch import Generator

from ulrl.poison import FixedAttack, Images
from ulrl.attacks._base import register


@register("stuck")
@dataclass(frozen=True, kw_only=True)
class Stuck(FixedAttack):
    """A bright corner, for which one may wait for ever."""

    how: str = "well"

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator
        if self.how == "sleeps":
            time.sleep(10**6)
        if self.how == "eats":
            torch.empty(2**60, dtype=torch.uint8)
        if self.how == "holds":
            sum(range(10**15))  # C code that never lets Python look
        triggered = images.clone()
        triggered[..., :3, :3] = 1
        return triggered
'''
HANGING = """\
name: hanging
grid:
  attack: [{name: stuck, how: [well, sleeps, holds, eats]}]
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.05
  relearn_epochs: 1
  unlearn_epochs: 2
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
resources: {workers: 2}
mlflow: {log_models: none}
"""
NO_MEMORY = "victim: out of memory; smaller batches, a smaller network or fewer workers may help"
OVERDUE = "victim: worked longer than limits.minutes, which is 0.2"


@pytest.mark.usefixtures("tables")
def test_an_item_that_hangs_or_lacks_memory_fails_with_its_reason(command: Command) -> None:
    for name in ("ulrl", "orchestrator"):
        shutil.copytree(ROOT / name, command.folder / name)
    (command.folder / "ulrl/attacks/stuck.py").write_text(STUCK)
    command.write(HANGING)
    out, err = command.run("grid.yaml", "--set", "limits.minutes.train_victim=0.2", code=1)
    results = command.results("hanging")
    assert list(results.status) == ["done", "failed", "failed", "failed"]
    assert list(results.error[1:]) == [OVERDUE, OVERDUE, NO_MEMORY]
    assert err == ""
    assert "Traceback" not in out
    logs = command.folder / "runs/hanging/logs"
    assert "time.sleep(10**6)" in (logs / "victim-0001.log").read_text(), "where it hung"


@pytest.mark.usefixtures("tables")
def test_a_budget_ends_a_start_and_the_same_command_goes_on(command: Command) -> None:
    command.write(TINY)
    arguments = ("grid.yaml", "--set", "resources.workers=1", "--set", "budget.trials=2")
    _, err = command.run(*arguments, code=4)
    again = " ".join(["python -m orchestrator.study", *arguments])
    assert list(command.results().status).count("pending") == 1
    assert err == (
        "stopped by budget.trials = 2 with 1 trial pending; nothing finished is lost. "
        f"To go on: {again}\n"
    )
    command.run(*arguments)
    assert set(command.results().status) == {"done"}


@pytest.mark.usefixtures("tables")
def test_a_trial_is_stopped_while_another_runs(command: Command) -> None:
    command.write(TINY.replace("[1, 2, 3]", "[1000, 1, 2]"))
    arguments = ("grid.yaml", "--set", "grid.clean_ratio=1.0", "--set", "resources.workers=2")
    study = command.start(*arguments)
    file = command.folder / "runs/small/logs/trial-00000.log"
    command.wait_until(file.exists, "the long trial is in work")
    asked = Command(command.folder)
    out, _ = asked.run(*arguments, "--stop", "relearn_epochs=1000", timeout=60)
    assert out == "stopped 1 trial; to run them later, run the study again\n"
    out, _ = command.end(study, code=1)
    results = command.results()
    assert list(results.status) == ["failed", "done", "done"]
    assert list(results.error.fillna("")) == ["stopped by the user", "", ""]
    assert "1 trial stopped by the user; the same command runs them again" in out
    relearned = command.stages().stage.eq("relearn").sum()
    assert relearned == 2
    asked.run(*arguments, "--stop", "relearn_epochs=1000", code=2)  # the study is over


def test_a_worker_that_ray_ends_for_memory_is_told_as_such(tmp_path: Path) -> None:
    with Command(tmp_path, RAY_memory_usage_threshold="0.01") as command:
        command.write(HANGING.replace("{name: stuck, how: [well, sleeps, holds, eats]}", "badnets"))
        command.run("grid.yaml", "--set", "limits.attempts=1", code=1)
        (row,) = command.results("hanging").itertuples()
        assert (row.status, row.error) == (
            "failed",
            "victim: its worker died 1 time, out of memory",
        )
        log = (tmp_path / "runs/hanging/logs/victim-0000.log").read_text()
        assert "the node running low on memory" in log, "with Ray's figures"
