"""A study of several repair methods whose driver is killed goes on where it was."""

import os
import signal
import subprocess
from collections.abc import Iterator

import pandas as pd
import pytest

from tests.system_tests.commands import Command, computed, same

# Each method has a stage that its settings share, and one of their own.
STUDY = """\
name: methods
grid:
  attack: badnets
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
    - {name: nc, steps: 20, success: 0, threshold: 0, epochs: [1, 2]}
    - ulrl
victim: {epochs: 2, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
resources: {workers: 2}
mlflow: {log_models: none}
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


def finished(stages: pd.DataFrame) -> int:
    """Return how many repaired models are listed as evaluated; the victim's is not counted."""
    return int((stages.stage == "evaluate").sum()) - 1


@pytest.mark.usefixtures("tables")
def test_it_ends_with_the_same_table_and_computes_nothing_twice(
    command: Command, whole: Command
) -> None:
    """Killed inline after some results, and with two workers on Ray after some more."""
    all_stages, name = whole.stages("methods"), "methods"
    assert set(whole.results(name).status) == {"done"}
    command.write(STUDY)
    done = 0
    for arguments in (("--inline",), ()):
        process = command.start("grid.yaml", *arguments)
        wanted = done + 2

        def enough(wanted: int = wanted) -> bool:
            return bool(command.listed(name)) and finished(command.stages(name)) >= wanted

        command.wait_until(enough, "two more trials are done")
        kill(process)
        done = finished(command.stages(name))
        assert 2 <= done < finished(all_stages), "the study was over before it was killed"
    command.run("grid.yaml", "--inline")
    same(command.results(name), whole.results(name))
    assert computed(command.stages(name)) == computed(all_stages)
