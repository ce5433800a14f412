"""A study of repair methods and audits whose driver is killed goes on where it was."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pandas as pd
import pytest

from tests.system_tests.commands import Command, computed, same

# Each method has a stage that its settings share, and one of their own; an audit shares nc's.
STUDY = """\
name: methods
grid:
  attack: [badnets, none]
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.06
  unlearn_epochs: 2
  relearn_epochs: 2
  reinit_ratio: [0.5, 1.0]
  repair:
    - {name: nad, teacher_epochs: 2, epochs: 2, beta: [[5, 10, 10], [50, 100, 100]]}
    - {name: anp, steps: 40, share: [0.1, 0.3]}
    - {name: rnp, mask_epochs: 2, share: [0.1, 0.3]}
    - {name: fine_pruning, epochs: 2, share: [0.1, 0.3]}
    - {name: nc, steps: 5, success: 0, threshold: 0, epochs: [1, 2]}
    - ulrl
exclude: [{attack: none, repair: [nad, anp, rnp, fine_pruning, nc]}]
audit: [{name: nc, steps: 5, success: 0}, ulrl_scores, {name: freeeagle, steps: 20}]
victim: {epochs: 2, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
resources: {workers: 2}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """The study, run inline from start to end."""
    with Command(tmp_path_factory.mktemp("whole")) as command:
        command.write(STUDY)
        command.run("grid.yaml", "--inline")
        yield command


def kill(process: subprocess.Popen[str]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def audits(command: Command) -> pd.DataFrame:
    return pd.read_csv(command.folder / "runs/methods/audits.csv")


def repaired(stages: pd.DataFrame) -> int:
    """Return how many repaired models are listed as evaluated; victims are no repaired models."""
    return int((stages.stage == "evaluate").sum() - (stages.stage == "train_victim").sum())


def audited(stages: pd.DataFrame) -> int:
    """Return how many audits are listed whose stages no repair method has."""
    return int(stages.stage.isin(["repair.moved_head", "repair.invented_features"]).sum())


@pytest.mark.usefixtures("tables")
def test_it_ends_with_the_same_tables_and_computes_nothing_twice(
    command: Command, whole: Command
) -> None:
    """Killed inline at its trials, and with two workers on Ray at its audits."""
    all_stages, name = whole.stages("methods"), "methods"
    assert set(whole.results(name).status) == {"done"}
    assert set(audits(whole).status) == {"done"}
    command.write(STUDY)
    for count, arguments in ((repaired, ["--inline"]), (audited, [])):
        process = command.start("grid.yaml", *arguments)

        def enough(count: Callable[[pd.DataFrame], int] = count) -> bool:
            return bool(command.listed(name)) and count(command.stages(name)) >= 2

        command.wait_until(enough, f"two models are {count.__name__}")
        kill(process)
        left = count(all_stages) - count(command.stages(name))
        assert left > 0, f"all models were {count.__name__} before it was killed"
    command.run("grid.yaml")  # so that Ray does all audits
    same(command.results(name), whole.results(name))
    same(audits(command), audits(whole))
    assert computed(command.stages(name)) == computed(all_stages)
