"""The columns of results.csv that a report reads."""

from typing import NamedTuple

STATUSES = ("done", "pruned", "failed", "pending")
METRICS = ("acc", "asr", "ra")
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
SETTING = ("defence_seed", "clean_ratio", *SURFACE_AXES)
_LAST = ("target_z", "stop_epoch", "threshold_reached", "seconds", "mlflow_run_id")
REQUIRED = (
    *(*SCENARIO, *SETTING, "status", "error", "victim_ok"),
    *(*BEFORE, *AFTER, *DER, "flagged", *_LAST),
)
