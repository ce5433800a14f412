"""Which repairs remove the backdoor, and what becomes of the target's class.

A model that never predicts the target's class has no backdoor either.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from orchestrator.plan.columns import CONFUSION
from orchestrator.reporting.classes import DEAD, rates_by
from orchestrator.reporting.read_folder import TrialRow

SHARE = "target_class_acc"
REMOVED = 0.1


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
    cells = cells[cells["true_class"] == cells["trial"].map(labels)]
    return rates_by(cells, ["trial"])["acc"].dropna().rename(SHARE)


def is_removed(cells: Mapping[str, object]) -> bool:
    """Whether a done trial's row of results.csv has an ASR below 10 % and an ACC above chance.

    ASR is that of the report half. The selection half says whether ACC is above chance (column
    ``wrecked``).
    """
    asr, wrecked = cells["asr_after_report"], cells.get("wrecked")
    return float(str(asr)) < REMOVED and str(wrecked) != "True"


def removed(trials: Iterable[TrialRow]) -> list[TrialRow]:
    """Return the trials that remove the backdoor."""
    return [trial for trial in trials if is_removed(trial.cells)]


def count_removals(trials: Sequence[TrialRow], accuracies: "pd.Series[float]") -> str:
    """Return of how many trials the backdoor is removed, and in brackets the class kept.

    Args:
        trials: All done.
        accuracies: ACC of the target's class after a repair, by the trial's place.
    """
    gone = removed(trials)
    kept = sum(accuracies.get(trial.place, 0.0) > DEAD for trial in gone)
    return f"{len(gone)}/{len(trials)}" + (f" ({kept})" if gone else "")
