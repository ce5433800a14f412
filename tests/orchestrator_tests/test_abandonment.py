"""How often a pruner errs, against the pruner itself and against counts by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from orchestrator.search.abandonment import decided_after, fewest_scenarios, forecast, simulate
from orchestrator.search.pruners import PruningStudy
from orchestrator.spec.model import Objective, PrunerChoice

DEFAULT: dict[str, Any] = {"p_threshold": 0.01, "n_startup_steps": 7}


@pytest.mark.parametrize(
    ("settings", "scenarios", "p_threshold", "n_startup_steps"),
    [(12, 15, 0.01, 7), (9, 12, 0.1, 2), (9, 9, 0.05, 5), (4, 56, 0.05, 50)],
)
def test_the_rule_is_the_judges(
    settings: int, scenarios: int, p_threshold: float, n_startup_steps: int
) -> None:
    """Decision by decision; with more pairs than SciPy's exact test takes, too."""
    arguments: dict[str, Any] = {"p_threshold": p_threshold, "n_startup_steps": n_startup_steps}
    random = np.random.default_rng(scenarios)
    values = random.normal(size=(6, settings, scenarios))
    values += 0.5 * random.normal(size=(6, settings, 1))
    found = decided_after(values, **arguments)
    assert 0.1 < (found > 0).mean() < 0.9
    choice = PrunerChoice(pruner="wilcoxon", arguments=arguments)
    for study, after in zip(values, found, strict=True):
        judge = PruningStudy("settings", choice, Objective.DER)
        for number, own in enumerate(study):
            judge.begin(number, {})
            steps = enumerate(own.tolist(), start=1)
            told = next((step for step, value in steps if judge.report(number, step, value)), 0)
            judge.finish(number, None if told else float(own.mean()))
            assert after[number] == told


def test_one_look_at_one_rival_errs_as_often_as_its_p_says() -> None:
    """Of seven pairs, rank sums 0, 1 and 2 have p 1, 2 and 3 of 128; only the first is below."""
    found = simulate(2, (1,) * 7, DEFAULT)
    expected = 1 / 128
    assert found.abandoned == pytest.approx(expected, abs=4 * (expected / found.studies) ** 0.5)
    assert wilcoxon(-np.arange(1.0, 8), alternative="less").pvalue == expected


@pytest.mark.parametrize("arguments", [(0.01, 7), (0.01, 2), (0.05, 5), (0.05, 2), (0.1, 2)])
def test_no_fewer_scenarios_can_decide(arguments: tuple[float, int]) -> None:
    fewest = int(fewest_scenarios(*arguments))
    worse = -np.arange(1.0, fewest + 1)
    values = np.stack([np.zeros(fewest), worse])[None]
    assert decided_after(values, *arguments).tolist() == [[0, fewest]]
    assert decided_after(values[:, :, 1:], *arguments).tolist() == [[0, 0]]
    assert fewest_scenarios(0, 2) == float("inf")


def test_a_forecast_in_words() -> None:
    rate = round(100 * simulate(9, (1,) * 12, DEFAULT).abandoned)
    assert forecast(9, range(12), DEFAULT).startswith(
        f"if all 9 settings were equally good, the pruner would abandon {rate} % of them, and "
    )
    common = round(100 * simulate(9, (4, 4, 4), DEFAULT, common=0.5).abandoned)
    alone = round(100 * simulate(9, (4, 4, 4), DEFAULT).abandoned)
    assert f"{alone} to {common} % of them" in forecast(9, "abc" * 4, DEFAULT)
    assert "abandon at least " in forecast(101, range(8), DEFAULT)
    assert forecast(9, "abcabc", DEFAULT) == (
        "the pruner of settings has no effect: it needs 7 scenarios to abandon one, and there are 6"
    )
    assert "nothing to compare" in forecast(1, range(9), DEFAULT)
