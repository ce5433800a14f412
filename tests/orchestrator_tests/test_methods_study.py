"""A study of every repair method, and what its stages share."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

import orchestrator as o
from orchestrator.report import main
from ulrl.methods import METHODS

pytestmark = pytest.mark.usefixtures("empty_folder")

STUDY = """\
name: all
grid:
  attack: badnets
  dataset: {name: digits, size: 12}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.06
  unlearn_epochs: 4
  relearn_epochs: 2
  repair:
    - ulrl
    - {name: fine_tuning, epochs: 2}
    - {name: super_fine_tuning, epochs: 2, cycle: 2}
    - {name: ft_sam, epochs: 2}
    - {name: fine_pruning, epochs: [1, 2]}
    - {name: nad, teacher_epochs: 1, epochs: 1, beta: [[5.0, 10.0, 10.0]]}
    - {name: anp, steps: 4, mask_threshold: [0.9, 0.95]}
    - {name: rnp, mask_epochs: 2, mask_threshold: [0.5, 0.9]}
    - {name: rnp, mask_epochs: 2, rule: budget}
    - {name: clp, u: [1, 2]}
    - {name: bnp, u: [1, 2]}
    - {name: tsbd, unlearn_lr: 0.01, unlearn_threshold: 0.4, epochs: 1, filters: [0.1, 0.2]}
    - {name: head_neurons, unlearn_epochs: 2, tune: {name: fine_tuning, epochs: 2}}
    - {name: i_bau, rounds: 1}
    - {name: sau, rounds: 1}
    - {name: npd, epochs: 1}
    - {name: nc, steps: 10, epochs: [1, 2]}
    - {name: shortcuts, block: layer4.0, epochs: 1}
victim: {epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}
prune: none
store: store
"""
ONCE = (
    *("activations", "head_changes", "lipschitz", "mask_recovery", "mask_search"),
    *("reversed_triggers", "statistics", "teacher", "weight_changes"),
)


def test_every_method_repairs_and_settings_of_one_share_what_it_finds() -> None:
    Path("grid.yaml").write_text(STUDY)
    result = o.run_study(o.load_study("grid.yaml"), out="runs/all", inline=True)
    frame = result.frame
    assert set(frame.status) == {"done"}
    assert set(frame.repair) == {*METHODS} - {"largest_row"}
    assert frame[frame.repair != "ulrl"][["unlearn_threshold", "flagged"]].isna().all(axis=None)
    assert frame[["acc_after_report", "asr_after_report", "der_report"]].notna().all(axis=None)
    stages = Counter(pd.read_csv("runs/all/stages.csv").stage)
    assert {name: stages[f"repair.{name}"] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert stages["repair.unlearned"] == 3  # those of RNP, TSBD and ULRL's finder differ
    assert stages["unlearn"] == 1
    cost_and_edits_follow(frame)


def cost_and_edits_follow(frame: pd.DataFrame) -> None:
    ours, tuned = (frame[frame.repair == name].iloc[0] for name in ("ulrl", "fine_tuning"))
    assert (ours.passes, ours.passes_planned) == (ours.stop_epoch + 2, False)
    assert (tuned.passes, tuned.passes_planned) == (2, True)
    table = pd.read_csv("runs/all/stages.csv")
    assert 0 < tuned.repair_seconds < tuned.seconds
    assert tuned.repair_seconds in set(table[table.stage == "relearn"].seconds)
    assert (tuned.zeroed_parts, tuned.zeroed_share) == (0, 0.0)
    assert 0 < tuned.weight_change < 1
    weak, strong = frame[frame.repair == "clp"].zeroed_parts.sort_values()
    assert weak < strong  # at u = 2 and at u = 1
    layers = pd.read_parquet("runs/all/edits.parquet")
    sums = layers.groupby("trial").sum(numeric_only=True)
    assert sums.zeroed_parts.tolist() == frame.zeroed_parts.tolist()
    share = sums.zeroed_weights / sums.weights
    assert share.tolist() == pytest.approx(frame.zeroed_share.tolist(), abs=1e-15)


@pytest.mark.parametrize("finder", ["ascent", "balanced", "second_ascent", "prior_shift"])
def test_a_finder_that_climbs_twice_has_the_passes_of_two_ascents(finder: str) -> None:
    """Four epochs of each ascent are planned at most; of the first no more is known."""
    text = STUDY.partition("    - {name: fine_tuning")[0] + f"  finder: {finder}\nvictim:"
    Path("grid.yaml").write_text(text + STUDY.partition("victim:")[2])
    row = o.run_study(o.load_study("grid.yaml"), out="runs/all", inline=True).frame.iloc[0]
    twice = finder in ("second_ascent", "prior_shift")
    assert (row.passes, row.passes_planned) == (4 * twice + row.stop_epoch + 2, twice)


def test_the_best_of_a_single_method_is_named_everywhere() -> None:
    """The terminal's sentence, the report, its tables, and Python: by the option that varies."""
    text = STUDY.partition("  unlearn_epochs:")[0].replace("width: 2", "width: 4")
    text += "  repair: {name: fine_tuning, epochs: 1, lr: [0.01, 0.05]}\n"
    text += (
        "victim: {epochs: 6, batch_size: 32, min_acc: 0, min_asr: 0}\nprune: none\nstore: store\n"
    )
    Path("grid.yaml").write_text(text)
    found = o.run_study(o.load_study("grid.yaml"), out="runs/one", inline=True)
    given = [json.loads(text) for text in found.frame.repair_options]
    assert given == [{"epochs": 1}, {"epochs": 1, "lr": 0.05}]
    defaults = [json.loads(text) for text in found.frame.repair_defaults]
    assert defaults == [{"lr": 0.01}, {}]
    chosen = found.best()
    assert chosen is not None
    best = chosen.setting
    assert best["repair"] == "fine_tuning"
    place = int(best["repair_options"]["lr"] == 0.05)
    assert best["repair_options"] == {**given[place], **defaults[place]}
    name = f"fine_tuning(epochs=1, lr={(0.01, 0.05)[place]})"
    assert main(["runs/one"]) == 0
    for file in ("report.html", "table.md"):
        assert name in (Path("runs/one") / file).read_text().replace("\\_", "_")
    figures = [path.read_text() for path in Path("runs/one/figures").glob("*.csv")]
    assert figures
    assert not any("=default" in text or ",default," in text for text in figures)
