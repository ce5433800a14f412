"""Small studies whose settings a sampler draws."""

from typing import Any

from orchestrator.spec.model import Search, Study
from orchestrator.spec.space import Range
from tests.orchestrator_tests.small_studies import BADNETS, BLENDED, choice, small_study

AXES: dict[str, Any] = {
    "alpha": Range(low=0.1, high=2.0),
    "unlearn_threshold": Range(low=0.1, high=0.6),
    "reinit_ratio": (0.0, 0.5, 1.0),
}
FEW: dict[str, dict[str, Any]] = {"tpe": {"n_startup_trials": 3}, "gp": {"n_startup_trials": 3}}


def study_of(
    store: str,
    sampler: str = "tpe",
    settings: int = 10,
    axes: dict[str, Any] = AXES,
    scenarios: int = 3,
    **other: Any,
) -> Study:
    search = Search(sampler=sampler, settings=settings, arguments=FEW.get(sampler, {}))
    return small_study(
        store=store,
        attacks=[choice(BADNETS), choice(BLENDED)],
        settings=axes,
        grid={"seeds": tuple(range(scenarios))},
        search=search,
        **other,
    )
