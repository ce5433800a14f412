"""Optuna: which settings are worth drawing, and which trials are not worth their time."""

from orchestrator.search.answers import Answers
from orchestrator.search.importances import axis_importances
from orchestrator.search.judges import PRUNERS, Evidence, Judge, make_pruner
from orchestrator.search.sampler import SAMPLERS, Sampler
from orchestrator.search.storage import Kept, Snapshot, Writer, open_storage, save_studies, snapshot

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Answers",
    "Evidence",
    "Judge",
    "Kept",
    "Sampler",
    "Snapshot",
    "Writer",
    "axis_importances",
    "make_pruner",
    "open_storage",
    "save_studies",
    "snapshot",
]
