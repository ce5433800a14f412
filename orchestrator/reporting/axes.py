"""The axes of a study's settings: their values, and whether those make a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from orchestrator.reporting.canvas import Panel, Scale, steps
from orchestrator.reporting.naming import distinct, in_order, value_text
from orchestrator.reporting.results import Results

_MOST_VALUES = 20  # of an axis that a person would type
_LOG_ABOVE = 30.0  # largest by smallest value beyond which an axis is drawn by ratios


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of the settings.

    Attributes:
        values: As text, numbers by size.
        numeric: Whether all of them are numbers.
    """

    name: str
    values: Sequence[str]
    numeric: bool

    def scale(self) -> Scale:
        """Return a scale for all values, words being places from 0."""
        if not self.numeric:
            return Scale(low=-0.5, high=len(self.values) - 0.5)
        low, high = float(self.values[0]), float(self.values[-1])
        if self._log:
            stretch = (high / low) ** 0.04
            return Scale(low=low / stretch, high=high * stretch, log=True)
        margin = 0.04 * (high - low) or 0.5
        return Scale(low=low - margin, high=high + margin)

    def place(self, value: str) -> float:
        """Return where a value stands on the scale."""
        return float(value) if self.numeric else float(self.values.index(value))

    def ticks(self, panel: Panel, axis: str) -> None:
        """Label round values, or each word."""
        if not self.numeric:
            told = [(float(place), value) for place, value in enumerate(self.values)]
        else:
            low, high = float(self.values[0]), float(self.values[-1])
            marks = [low, (low * high) ** 0.5, high] if self._log else steps(low, high, 5)
            told = [(mark, value_text(f"{mark:.2g}")) for mark in marks]
        panel.ticks(axis, told)

    @property
    def _log(self) -> bool:
        low, high = float(self.values[0]), float(self.values[-1])
        return low > 0 and high / low > _LOG_ABOVE


def setting_axes(results: Results) -> list[Axis]:
    """Return the axes with several values in the whole study."""
    found = []
    for place, name in enumerate(results.varied):
        values = in_order(trial.setting[place][1] for trial in results.trials)
        if len(values) > 1:
            found.append(Axis(name=name, values=values, numeric=all(map(_is_number, values))))
    return found


def is_grid(results: Results) -> bool:
    """Whether most combinations of the axes' values are settings: else they were sampled."""
    axes = setting_axes(results)
    settings = len(distinct(trial.setting for trial in results.trials))
    few = all(len(axis.values) <= _MOST_VALUES for axis in axes)
    return few and 2 * settings >= prod(len(axis.values) for axis in axes)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False
