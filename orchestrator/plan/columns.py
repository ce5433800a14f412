"""Columns of the results, and numbers and names as words."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from orchestrator.files import read_table

MODELS = ("victim", "repaired")

TRIGGER_INDEX = "triggers.csv"  # in the folder of figures
# In the study's folder.
CONFUSION, CURVES = "confusion.parquet", "curves.csv"
EDITS, AUDITS = "edits.parquet", "audits.csv"


STATUSES = ("done", "pruned", "skipped", "failed", "pending")
STOPPED = "stopped by the user"  # the error of a failed trial that was
METRICS = ("acc", "asr", "ra")
UNLEARN, RELEARN = "unlearn", "relearn"  # phases of curves.csv
SERIES = ("accuracy", "acc", "asr", "ra")  # what the stop rule reads, and the monitor subset
HALVES = ("selection", "report")
SURFACE_AXES = ("unlearn_threshold", "reinit_ratio")
BEFORE = tuple(f"{metric}_before_{half}" for metric in METRICS for half in HALVES)
AFTER = tuple(f"{metric}_after_{half}" for metric in METRICS for half in HALVES)
DER = tuple(f"der_{half}" for half in HALVES)
COST = ("repair_seconds", "passes", "passes_planned")  # in a study of several repair methods
VARIED_DEFAULTS = "repair_defaults"  # likewise: options of the method beside `repair_options`
EDITED = ("zeroed_parts", "zeroed_share", "weight_change")  # likewise
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
TRIGGER_COLUMNS = (*SCENARIO, "victim", "file", "psnr", "ssim")
# Of audits.csv, after those of the scenario and the setting.
AUDIT_COLUMNS = (
    *("model", "audit", "audit_options", "status", "error", "statistic", "threshold", "suspects"),
    *("target_rank", "scores", "rule", "passes", "queries", "seconds", "details"),
)
DRAW = "defence_seed"  # of clean samples and re-initialisations
SETTING = (DRAW, "clean_ratio", *SURFACE_AXES)
METHOD = ("repair", "repair_options")
NAMED_SUSPECTS = "named_suspects"  # of the axis `suspects`: audits.csv has a column of that name
NO_ATTACK = "none"  # in the column of attacks
ULRL = "ulrl"  # in the column of methods; here again, since the package of that name loads torch
_LAST = ("target_z", "stop_epoch", "threshold_reached", "seconds", "mlflow_run_id")
REQUIRED = (
    *(*SCENARIO, *SETTING, "status", "error", "victim_ok"),
    *(*BEFORE, *AFTER, *DER, "flagged", *_LAST),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was found, of a whole study or of one scenario, as the report says it.

    Attributes:
        text: In sentences.
        best_setting: In one line; where there is none, why.
        metrics: By name.
        rivals: Settings that are not clearly worse, in one line.
    """

    text: str
    best_setting: str
    metrics: Mapping[str, float]
    rivals: str | None = None


def column_of(metric: str, half: str) -> str:
    """Return the column that holds a metric of the repaired model."""
    return f"der_{half}" if metric == "der" else f"{metric}_after_{half}"


def spoken(metric: str) -> str:
    """Return a metric's name as people write it: those of a user's own as they are."""
    return metric.upper() if metric in ("der", *METRICS) else metric


def pictured(path: Path) -> Sequence[Mapping[str, str]]:
    """Return the list of pictures, a row per scenario.

    Raises:
        SpecError: It is there, but is no such list.
    """
    return read_table(path, TRIGGER_COLUMNS).rows if path.exists() else ()


DAY = 24 * 3600.0

LONG = 3 * DAY  # from there on nobody counts hours

_LONGEST_SLUG = 120  # file systems take 255 bytes


def count(number: int, word: str) -> str:
    """Return how many there are of something: ``1 trial``, ``2,000 trials``."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def slug(text: str) -> str:
    """Return `text` as a part of a file name."""
    return re.sub(r"[^a-z0-9._=]+", "-", text.lower())[:_LONGEST_SLUG].strip("-.")


def span(seconds: float) -> str:
    """Return a duration as people write it: 0:42, 3:05, 2:10:00, 5.2 days."""
    if seconds >= LONG:
        return f"{seconds / DAY:,.1f} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
