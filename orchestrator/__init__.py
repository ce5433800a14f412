"""Studies of ULRL: a grid in a file, trials on Ray Tune, pruning by Optuna, MLflow's record.

From Python: `load_study`, `plan_study`, `run_study`, `stop_trials` and `load_results`
(`orchestrator.api`); from the shell: ``python -m orchestrator.study``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import load_results, load_study, plan_study, run_study, stop_trials

__all__ = ["load_results", "load_study", "plan_study", "run_study", "stop_trials"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: the commands do not wait for pandas and torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
