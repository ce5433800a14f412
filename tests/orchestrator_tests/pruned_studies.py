"""Studies that share and prune, for simulated workers."""

from typing import Any

from orchestrator.plan.plan import Trial
from orchestrator.spec.model import Prune, PrunerChoice, Study
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import BADNETS, MEDIAN, choice, small_study

EAGER = PrunerChoice(pruner="wilcoxon", arguments={"p_threshold": 0.1, "n_startup_steps": 4})
HALVING = PrunerChoice(pruner="successive_halving", arguments={"reduction_factor": 2})
PRUNES = {
    "nobody": Prune(),
    "settings": Prune(setting=EAGER),
    "curves": Prune(curve=MEDIAN),
    "both": Prune(setting=EAGER, curve=HALVING),
}
SETTINGS = {
    "unlearn_threshold": (0.2, 0.4),
    "reinit_ratio": (0.5, 0.55),  # of eight weights, both are four
    "alpha": (0.3, 0.5, 0.7),
}


def study_of(prune: str, store: str, **other: Any) -> Study:
    """Return a study of six scenarios and twelve settings, of which some agree in phase 1."""
    return small_study(
        store=store,
        attacks=[choice(BADNETS)],
        settings={**SETTINGS, "relearn_epochs": (4,)},
        grid={"seeds": tuple(range(6))},
        few={},
        prune=PRUNES[prune],
        **other,
    )


def with_status(desk: Desk, status: str) -> list[Trial]:
    return [t for t, s in zip(desk.plan.trials, desk.statuses(), strict=True) if s == status]
