"""Scenario × setting as a matrix, and the parts of it in which every trial is done."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.reporting.naming import distinct
from orchestrator.reporting.results import Scenario, Setting
from orchestrator.reporting.summary import Outcome

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """What trials reach.

    Attributes:
        values: ``[scenarios, settings]``; NaN where a trial is not done.
    """

    scenarios: Sequence[Scenario]
    settings: Sequence[Setting]
    values: Floats

    @property
    def whole(self) -> bool:
        return bool(self.values.size) and not bool(np.isnan(self.values).any())

    def part(self, rows: Any, columns: Any) -> "Block":
        """Return the scenarios and settings at the places given."""
        return Block(
            scenarios=[self.scenarios[row] for row in rows],
            settings=[self.settings[column] for column in columns],
            values=self.values[np.ix_(rows, columns)],
        )


def block_of(outcomes: Iterable[Outcome], column: str) -> Block:
    """Return a column of results as a matrix, in the order of the plan."""
    group = list(outcomes)
    settings = distinct(trial.setting for outcome in group for trial in outcome.trials)
    place = {setting: number for number, setting in enumerate(settings)}
    values = np.full((len(group), len(settings)), np.nan)
    for row, outcome in enumerate(group):
        for trial in outcome.trials:
            if trial.done:
                values[row, place[trial.setting]] = trial.numbers[column]
    scenarios = [outcome.scenario for outcome in group]
    return Block(scenarios=scenarios, settings=settings, values=values)


def complete_scenarios(block: Block) -> Block:
    """Return the scenarios in which every setting is done."""
    rows = np.flatnonzero(~np.isnan(block.values).any(axis=1))
    return block.part(rows, range(len(block.settings)))


def complete_part(block: Block) -> Block:
    """Return a part in which all is done, by dropping what has most holes, one at a time."""
    rows, columns = list(range(len(block.scenarios))), list(range(len(block.settings)))
    while rows and columns:
        holes = np.isnan(block.values[np.ix_(rows, columns)])
        by_row, by_column = holes.mean(axis=1), holes.mean(axis=0)
        if not holes.any():
            break
        if by_row.max() >= by_column.max():
            del rows[int(by_row.argmax())]
        else:
            del columns[int(by_column.argmax())]
    return block.part(rows, columns)
