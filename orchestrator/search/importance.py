"""How much each axis decides, by Optuna's measures."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)  # a report prints nothing of Optuna's


def axis_importances(
    measure: Literal["fanova", "ped_anova"],
    points: Sequence[Mapping[str, float | str]],
    values: Sequence[float],
    *,
    maximise: bool,
) -> dict[str, float]:
    """Return Optuna's importance of each axis, as shares that sum to 1 (or all are 0).

    Args:
        measure: ``fanova``: how much of the values' variance an axis explains by itself (a
            random forest, Hutter et al. 2014); ``ped_anova``: how much it decides whether a
            setting is among the best tenth (Watanabe et al. 2023).
        points: Settings; numbers are taken as ordered, words as categories.
        values: What each setting reaches.
        maximise: Whether more is better, which only ``ped_anova`` asks.
    """
    distributions = {name: _distribution([point[name] for point in points]) for name in points[0]}
    study = optuna.create_study(direction="maximize" if maximise else "minimize")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.add_trials(
            optuna.trial.create_trial(
                params=dict(point), distributions=distributions, value=float(value)
            )
            for point, value in zip(points, values, strict=True)
        )
        evaluator = (
            optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0)
            if measure == "fanova"
            else optuna.importance.PedAnovaImportanceEvaluator()
        )
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(found[name]) for name in distributions}


def _distribution(values: Sequence[float | str]) -> optuna.distributions.BaseDistribution:
    numbers = [value for value in values if isinstance(value, float)]
    if len(numbers) == len(values):
        return optuna.distributions.FloatDistribution(min(numbers), max(numbers))
    return optuna.distributions.CategoricalDistribution(sorted(set(map(str, values))))
