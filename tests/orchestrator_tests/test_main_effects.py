"""The size of an axis's effect by hand, and noise that is called noise."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from orchestrator.plan.columns import Family
from orchestrator.reporting.read_folder import ScenarioRow, Setting
from orchestrator.reporting.statistics import (
    EXACT,
    Block,
    Floats,
    decompose,
    importances,
    main_effects,
)
from orchestrator.reporting.svg import SettingAxis

AXES = [
    SettingAxis(name="a", values=("0.1", "0.2", "0.4")),
    SettingAxis(name="b", values=("0.0", "0.5", "1.0")),
]
SETTINGS = [(("a", a), ("b", b)) for a, b in itertools.product(*(axis.values for axis in AXES))]


def block(values: Floats, settings: Sequence[Setting] = SETTINGS) -> Block:
    """Return values of scenarios of three attacks."""
    scenarios = [
        ScenarioRow(
            Family(f"attack {place % 3}", "{}", "digits", "net", "0.1", "0"), str(place // 3)
        )
        for place in range(len(values))
    ]
    return Block(scenarios=scenarios, settings=list(settings), values=values)


def test_the_error_rate_is_that_of_the_test() -> None:
    """Also where the other axis matters much, and scenarios differ more than anything."""
    random = np.random.default_rng(0)
    wrong, studies = 0, 150
    for _ in range(studies):
        values = random.normal(0, 0.02, (6, 9)) + random.normal(0, 0.3, (6, 1))
        values += np.tile([0.0, 0.1, 0.3], 3)
        idle, busy = main_effects(block(values), AXES)
        wrong += not idle.is_noise
        assert not busy.is_noise
    low, high = (float(stats.binom.ppf(q, studies, 0.05)) for q in (0.0005, 0.9995))
    assert low <= wrong <= high


def test_the_size_is_the_sd_of_marginal_means() -> None:
    random = np.random.default_rng(2)
    values = random.uniform(size=(4, 9)) + np.repeat([0.0, 0.5, 0.7], 3)
    grid = values.mean(axis=0).reshape(3, 3)
    first, second = main_effects(block(values), AXES)
    assert first.size == pytest.approx(grid.mean(axis=1).std(), rel=1e-12)
    assert second.size == pytest.approx(grid.mean(axis=0).std(), rel=1e-12)
    assert first.p_value < 0.05
    whole = {part.factors: part.share for part in decompose(block(values), AXES)}
    exact = {e.axis: e.share for e in importances(block(values), AXES, maximise=True)[:2]}
    assert exact["a"] == pytest.approx(first.size**2 / (first.size**2 + second.size**2), rel=1e-9)
    assert whole["a",] == pytest.approx(first.size**2 / values.var(), rel=1e-9)


def test_a_pruned_corner_does_not_bend_the_effect_of_the_other_axis() -> None:
    """The mean of what is left of a = 0.4 is higher, for its bad partners are missing."""
    values = np.tile(np.tile([0.0, 0.4, 0.5], 3), (5, 1)) + 0.001 * (
        np.arange(45).reshape(5, 9) % 2
    )
    kept = [0, 1, 2, 3, 4, 5, 7, 8]  # without a = 0.4, b = 0.0
    first, second = main_effects(block(values[:, kept], [SETTINGS[place] for place in kept]), AXES)
    assert first.size == pytest.approx(0, abs=0.001)
    assert first.is_noise
    assert second.size == pytest.approx(np.std([0.0, 0.4, 0.5]), rel=0.01)
    assert not second.is_noise


def sampled(settings: int) -> tuple[Block, list[SettingAxis]]:
    """Return settings drawn at random, of which the first axis alone matters."""
    random = np.random.default_rng(settings)
    points = random.uniform(size=(settings, 3)).round(4)
    axes = [
        SettingAxis(name=name, values=sorted({str(x) for x in column}, key=float))
        for name, column in zip("abc", points.T, strict=True)
    ]
    drawn = [tuple((name, str(x)) for name, x in zip("abc", p, strict=True)) for p in points]
    values = 0.3 * points[:, 0] + random.normal(0, 0.05, settings)
    return block(values + random.normal(0, 0.01, (6, settings)), drawn), axes


def test_sampled_settings_are_cut_in_four() -> None:
    part, axes = sampled(40)
    effects = {effect.axis: effect for effect in main_effects(part, axes)}
    assert not effects["a"].is_noise
    assert effects["b"].is_noise
    assert effects["c"].is_noise
    where = np.array([float(dict(setting)["a"]) for setting in part.settings])
    quarters = np.array_split(part.values.mean(axis=0)[where.argsort()], 4)
    expected = np.std([quarter.mean() for quarter in quarters])
    assert effects["a"].size == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("scenarios", [3, 6])
def test_no_share_leaves_its_bar(scenarios: int) -> None:
    part = block(np.random.default_rng(3).normal(size=(scenarios, 9)))
    entries: list[Any] = [*importances(part, AXES, maximise=True), *decompose(part, AXES)]
    bars = [(e.low, e.share, e.high) for e in entries if e.low is not None and e.high is not None]
    assert bars
    assert all(low <= share <= high for low, share, high in bars)


def test_axes_that_only_interact_have_no_exact_shares() -> None:
    axes = [SettingAxis(name=name, values=("0", "1")) for name in "ab"]
    settings = [(("a", a), ("b", b)) for a, b in itertools.product("01", "01")]
    part = block(np.array([[1.0, 0.0, 0.0, 1.0]] * 3), settings)
    assert EXACT not in {e.measure for e in importances(part, axes, maximise=True)}
