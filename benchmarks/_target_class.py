"""What becomes of the target's class: a model that never predicts it has no backdoor either."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.finders_table import REMOVED
from orchestrator.plan.columns import CONFUSION
from orchestrator.reporting.classes import DEAD
from orchestrator.reporting.read_folder import TrialRow

SHARE = "target_class_acc"


def target_class_acc(folder: Path) -> "pd.Series[float]":
    """Return the ACC of the target's class after each repair, on the report half, in [0, 1].

    By the place of the trial's row in results.csv, from 0; of trials whose predictions the study
    has. Where the attacker wants several classes (``all_to_all``), it is that of ``target_label``.
    """
    labels = pd.read_csv(folder / "results.csv")["target_label"]
    if not (folder / CONFUSION).exists():  # as of studies that other programs made
        return pd.Series(dtype=float, name=SHARE)
    cells = pd.read_parquet(folder / CONFUSION)
    cells = cells[(cells["model"] == "repaired") & (cells["half"] == "report")]
    cells = cells[
        (cells["images"] == "clean") & (cells["true_class"] == cells["trial"].map(labels))
    ]
    right = cells["count"].where(cells["predicted_class"] == cells["true_class"], 0)
    known, all_of_it = (count.groupby(cells["trial"]).sum() for count in (right, cells["count"]))
    return (known / all_of_it).rename(SHARE)


def removed(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the trials after which ASR is below 10 % and ACC above chance."""
    return [t for t in trials if t.numbers["asr_after_report"] < REMOVED and not t.wrecked]


def count_removals(trials: Sequence[TrialRow], accuracies: "pd.Series[float]") -> str:
    """Return of how many trials the backdoor is removed, and in brackets the class kept.

    Args:
        trials: All done.
        accuracies: ACC of the target's class after a repair, by the trial's place.
    """
    gone = removed(trials)
    kept = sum(accuracies.get(trial.place, 0.0) > DEAD for trial in gone)
    return f"{len(gone)}/{len(trials)}" + (f" ({kept})" if gone else "")
