"""Inline and Ray give the same table, bit for bit; with one worker see `test_kills`."""

import pandas as pd

from tests.system_tests.commands import SMALL, Command, computed, same


def test_ray_gives_the_inline_table(command: Command, undisturbed: Command) -> None:
    command.write(SMALL)
    command.run("grid.yaml")
    same(command.results(), undisturbed.results())
    # Workers may run ahead of a decision.
    assert set(computed(undisturbed.stages())) <= set(computed(command.stages()))


def test_the_small_study_has_every_kind_of_decision(undisturbed: Command) -> None:
    """What the comparisons above rest on: pruning of both kinds, and shared results."""
    results, stages = undisturbed.results(), undisturbed.stages()
    assert set(results.status) == {"done", "pruned"}
    prunings = (undisturbed.folder / "runs/small/logs/pruning.csv").read_text()
    assert "\nsetting," in prunings
    assert "\ncurve," in prunings
    relearns = stages[(stages.stage == "relearn") & stages.computed]
    assert len(relearns) < (results.status == "done").sum()


def test_running_again_computes_nothing_and_writes_the_same_bytes(undisturbed: Command) -> None:
    folder = undisturbed.folder / "runs/small"
    names = ("results.csv", "results.parquet", "stages.csv", "report.html", "study.yaml")
    before = {name: (folder / name).read_bytes() for name in names}
    undisturbed.run("grid.yaml")  # with Ray this time: nothing is left for it to start
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_a_study_that_shares_the_store_computes_nothing(undisturbed: Command) -> None:
    undisturbed.run("grid.yaml", "--inline", "--out", "other", "--set", "name=other")
    same(pd.read_csv(undisturbed.folder / "other/results.csv"), undisturbed.results())
    stages = pd.read_csv(undisturbed.folder / "other/stages.csv")
    # A curve that was cut is no result to share.
    known = stages.key.isin(undisturbed.stages().key)
    assert set(undisturbed.stages().key) <= set(stages.key)
    assert not stages[known].computed.any()
    assert set(stages[~known].stage) <= {"relearn", "evaluate"}


def test_a_changed_grid_adds_what_is_new_and_leaves_out_what_is_gone(undisturbed: Command) -> None:
    text = SMALL.replace("name: small", "name: changed").replace("seed: [0, 1]", "seed: [1]")
    arguments = ("grid.yaml", "--inline", "--set", "prune=none")
    undisturbed.write(text.replace("unlearn_threshold: [0.3, 0.6]", "unlearn_threshold: 0.6"))
    undisturbed.run(*arguments)
    first = undisturbed.results("changed")
    assert sorted(first.seed.unique()) == [1]
    assert sorted(first.unlearn_threshold.unique()) == [0.6]
    undisturbed.write(text)
    undisturbed.run(*arguments)
    second = undisturbed.results("changed")
    assert sorted(second.unlearn_threshold.unique()) == [0.3, 0.6]
    kept = second[second.unlearn_threshold == 0.6].reset_index(drop=True)
    assert kept.equals(first)
    stages = undisturbed.stages("changed")
    assert not (stages[stages.stage == "train_victim"].computed).any()
    undisturbed.write(SMALL)
