"""Settings that are drawn, in real processes: killed, resumed, changed, and watched elsewhere."""

import json
import os
import signal
import sqlite3
from pathlib import Path

import optuna
import pandas as pd
import pytest

from tests.system_tests.commands import Command, comparable, computed

DRAWN = """\
name: small
grid:
  attack: [badnets, {name: blended, alpha: 0.3}]
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.05
  unlearn_threshold: {low: 0.1, high: 0.8}
  reinit_ratio: [1.0, 0.0]
  relearn_lr: {low: 1e-3, high: 1e-1, log: true}
  relearn_epochs: 2
  unlearn_epochs: 3
victim: {epochs: 2, batch_size: 64, min_acc: 0.2, min_asr: 0.2}
search: {sampler: tpe, settings: 5, n_startup_trials: 2}
objective: acc
resources: {workers: 2}
mlflow: {log_models: none}
"""
AXES = ["unlearn_threshold", "reinit_ratio", "relearn_lr"]


def drawn(command: Command) -> list[dict[str, float]]:
    file = command.folder / "runs" / "small" / "settings.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def settings_of(results: pd.DataFrame) -> list[tuple[float, ...]]:
    """Return the settings of a table, after checking that every scenario has them in order."""
    by_attack = [
        [tuple(row) for row in part[AXES].to_numpy()]
        for _, part in results.groupby("attack", sort=False)
    ]
    assert all(part == by_attack[0] for part in by_attack)
    return by_attack[0]


@pytest.mark.usefixtures("tables")
def test_killed_and_resumed_on_ray_it_draws_nothing_twice(command: Command) -> None:
    command.write(DRAWN)
    process = command.start("grid.yaml")
    command.wait_for_stages(10)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    known = drawn(command)
    own = {"unlearn_threshold": 0.2, "reinit_ratio": 1.0, "relearn_lr": 0.005}  # the preset's
    assert {axis: known[0][axis] for axis in AXES} == own
    out, _ = command.run("grid.yaml")
    assert "2 scenarios × 5 settings drawn by tpe = at most 10 trials" in out
    results = command.results()
    assert drawn(command)[: len(known)] == known
    found = [tuple(one[axis] for axis in AXES) for one in drawn(command)]
    assert settings_of(results) == found
    assert len(set(found)) == 5
    assert set(results.status) == {"done"}
    stages = command.stages()
    computed(stages)
    assert (stages.stage == "unlearn").sum() == 2  # one for all thresholds, however deep

    command.run("grid.yaml", "--inline", "--set", "search.settings=6")
    more = command.results()
    assert settings_of(more)[:5] == found
    assert len(settings_of(more)) == 6
    known_rows = more[more[AXES].apply(tuple, axis=1).isin(found)].reset_index(drop=True)
    pd.testing.assert_frame_equal(comparable(known_rows), comparable(results))
    report = (command.folder / "runs" / "small" / "report.html").read_text()
    assert "Settings were sampled" in report


@pytest.mark.usefixtures("tables")
def test_a_locked_storage_ends_nothing_and_is_caught_up_with(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "optuna.db"
    storage = f"sqlite:///{file}?timeout=0.5"
    optuna.create_study(storage=storage, study_name="theirs")
    command.write(f"{DRAWN}optuna: {{storage: '{storage}'}}\n")
    holder = sqlite3.connect(file, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    out, err = command.run("grid.yaml", "--inline", "--set", "search.settings=2")
    assert f"Optuna's storage at {storage} is behind" in out
    assert "locked" in out
    assert err == ""
    table = comparable(command.results())
    holder.execute("ROLLBACK")
    holder.close()
    out, _ = command.run("grid.yaml", "--inline", "--set", "search.settings=2")
    assert "behind" not in out
    pd.testing.assert_frame_equal(comparable(command.results()), table)
    names = set(optuna.get_all_study_names(storage))
    (search,) = (name for name in names if name.endswith(": search"))
    assert "theirs" in names
    told = optuna.load_study(study_name=search, storage=storage).trials
    means = table[table.victim_ok].groupby(AXES, sort=False).acc_after_selection.mean()
    assert [trial.value for trial in told] == [pytest.approx(mean) for mean in means]
