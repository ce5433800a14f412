"""The columns of results.csv that a report reads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from orchestrator.reporting.tables import read_table

MODELS = ("victim", "repaired")

INDEX = "triggers.csv"  # in the folder of figures


STATUSES = ("done", "pruned", "failed", "pending")
METRICS = ("acc", "asr", "ra")
UNLEARN, RELEARN = "unlearn", "relearn"  # phases of curves.csv
SERIES = ("accuracy", "acc", "asr", "ra")  # what the stop rule reads, and the monitor subset
HALVES = ("selection", "report")
SURFACE_AXES = ("unlearn_threshold", "reinit_ratio")
BEFORE = tuple(f"{metric}_before_{half}" for metric in METRICS for half in HALVES)
AFTER = tuple(f"{metric}_after_{half}" for metric in METRICS for half in HALVES)
DER = tuple(f"der_{half}" for half in HALVES)
RIR = tuple(f"rir_{half}" for half in HALVES)


class Family(NamedTuple):
    """A scenario but for its seed; every value as its text in the file."""

    attack: str
    attack_options: str
    dataset: str
    architecture: str
    poison_ratio: str
    target_label: str


SCENARIO = (*Family._fields, "seed")
COLUMNS = (*SCENARIO, "victim", "file", "psnr", "ssim")
SETTING = ("defence_seed", "clean_ratio", *SURFACE_AXES)
_LAST = ("target_z", "stop_epoch", "threshold_reached", "seconds", "mlflow_run_id")
REQUIRED = (
    *(*SCENARIO, *SETTING, "status", "error", "victim_ok"),
    *(*BEFORE, *AFTER, *DER, "flagged", *_LAST),
)


def column_of(metric: str, half: str) -> str:
    """Return the column that holds a metric of the repaired model."""
    return f"der_{half}" if metric == "der" else f"{metric}_after_{half}"


def pictured(path: Path) -> Sequence[Mapping[str, str]]:
    """Return the list of pictures, a row per scenario.

    Raises:
        Mistakes: It is there, but is no such list.
    """
    return read_table(path, COLUMNS).rows if path.exists() else ()
