"""Studies whose cost is estimated."""

from pathlib import Path
from typing import Any

from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.scheduler.estimate import PlanEstimate, estimate
from orchestrator.spec.model import Study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.store import Store
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study

SETTINGS: dict[str, tuple[Any, ...]] = {
    "unlearn_threshold": (0.2, 0.4),
    "reinit_ratio": (0.5, 0.55),
    "clean_ratio": (0.05, 0.1),
}


def study_of(store: Path | str, **other: Any) -> Study:
    return small_study(
        **{
            "store": str(store),
            "attacks": [choice(BADNETS)],
            "settings": SETTINGS,
            "grid": {"seeds": (0, 1, 2, 3)},
            "few": {},
            **other,
        }
    )


def cost(study: Study, workers: int = 2, gpu: float = 0.0) -> PlanEstimate:
    keys = CacheKeys(study.victim, Compute())
    return estimate(make_plan(study), Store(study.store), keys, workers, gpu)
