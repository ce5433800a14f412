"""Ticks of an axis of the settings: decades on a logarithmic one, whole numbers on one of those."""

import pytest

from orchestrator.reporting.svg import SettingAxis

CASES = {
    "decades": (["0.0001", "0.003", "0.1"], ["0.0001", "0.001", "0.01", "0.1"]),
    "many decades": ([f"1e-{n}" for n in range(12, 1, -1)], ["1e-12", "1e-09", "1e-06", "0.001"]),
    "less than a decade": (["0.002", "0.07"], ["0.002", "0.005", "0.01", "0.02", "0.05"]),
    "whole numbers by ratio": (["3", "10", "400"], ["10", "100"]),
    "whole numbers": (["1", "2", "4"], ["1", "2", "3", "4"]),
    "two whole numbers": (["1", "2"], ["1", "2"]),
    "up to ten": (["0", "3", "10"], ["0", "5", "10"]),
    "fractions": (["0.1", "0.25", "0.5"], ["0.1", "0.2", "0.3", "0.4", "0.5"]),
    "one value": (["3"], ["3"]),
}


@pytest.mark.parametrize("case", CASES)
def test_ticks_of_an_axis(case: str) -> None:
    values, labels = CASES[case]
    axis = SettingAxis(name="x", values=values, log=case == "less than a decade").scale()
    assert [label for _, label in axis.ticks] == labels
    assert all(axis.low <= value <= axis.high for value, _ in axis.ticks)
    assert axis.log == (float(values[-1]) > 30 * float(values[0]) > 0)
