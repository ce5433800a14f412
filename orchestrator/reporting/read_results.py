"""results.csv of a study folder, read and checked."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from orchestrator.errors import SpecError
from orchestrator.files import Table, read_table
from orchestrator.plan.columns import (
    AFTER,
    BEFORE,
    DER,
    METHOD,
    REQUIRED,
    RIR,
    SETTING,
    STATUSES,
    SURFACE_AXES,
    ULRL,
    Family,
)
from orchestrator.plan.labels import applies, option_text, telling

T = TypeVar("T")
K = TypeVar("K")


def distinct(values: Iterable[T]) -> list[T]:
    """Return each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def in_order(values: Iterable[str]) -> list[str]:
    """Return the values of an axis once each: numbers by size, words as they come."""
    found = distinct(values)
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Return the items by their key, in the order of first appearance."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


class ScenarioRow(NamedTuple):
    """What makes a victim; every value as its text in the file."""

    family: Family
    seed: str

    def cells(self) -> dict[str, str]:
        """Return the scenario's columns of results.csv."""
        return {**self.family._asdict(), "seed": self.seed}


Setting = tuple[tuple[str, str], ...]  # (axis, value as text), of the axes that vary


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One row.

    Attributes:
        flagged: Rows of the head that were flagged, or ``layer:row`` where all layers were
            watched; None unless the trial is done.
    """

    scenario: ScenarioRow
    setting: Setting  # values of those setting axes that some scenario has several values of
    cells: Mapping[str, str]  # the row as text, for files that must repeat it to the letter
    status: str
    victim_ok: bool | None
    numbers: Mapping[str, float]  # the metrics that the row has, by column
    flagged: frozenset[int | str] | None

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def wrecked(self) -> bool:
        """Whether the repaired model's ACC is at or below chance, on the selection half."""
        return self.cells.get("wrecked") == "True"


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The trials of a study, in plan order.

    Attributes:
        varied: Those of them that make a trial's `setting`: `telling` and the surfaces'.
    """

    trials: tuple[TrialRow, ...]
    setting_axes: tuple[str, ...]  # all setting axes, as the columns stand in the file
    varied: tuple[str, ...]
    telling: tuple[str, ...]  # those that distinguish settings

    @cached_property
    def by_method(self) -> Mapping[str, "StudyResults"]:
        """The trials of each repair method, with its own options as setting axes."""
        groups = grouped(self.trials, lambda trial: trial.cells.get("repair", ULRL))
        if [*groups] == [ULRL]:
            return {ULRL: self}
        return {name: self._of(trials) for name, trials in groups.items()}

    def _of(self, trials: Sequence[TrialRow]) -> "StudyResults":
        given = [json.loads(trial.cells["repair_options"]) for trial in trials]
        options = distinct(name for one in given for name in one)
        usual = dict.fromkeys(options, "default")
        rows = [
            {**t.cells, **usual, **{n: option_text(value) for n, value in one.items()}}
            for t, one in zip(trials, given, strict=True)
        ]
        own = [n for n in self.setting_axes if n not in METHOD and applies(n, trials[0].cells)]
        axes = (*own, *options)
        # An option may be called as an axis of ULRL's is.
        points = ({name: row[name] for name in axes} for row in rows)
        found = telling(axes, zip((trial.scenario for trial in trials), points, strict=True))
        found = tuple(axis for axis in found if axis in axes)
        varied = tuple(axis for axis in axes if axis in SURFACE_AXES or axis in found)
        restricted = tuple(
            replace(trial, cells=row, setting=setting_of(row, varied))
            for trial, row in zip(trials, rows, strict=True)
        )
        return StudyResults(trials=restricted, setting_axes=axes, varied=varied, telling=found)


def read_results(path: Path) -> StudyResults:
    """Return the trials in `path`.

    Raises:
        SpecError: It is no results.csv, or has holes or bad values; in one line.
    """
    table = read_table(path, REQUIRED)
    if not table.rows:
        raise SpecError([f"{path}: has no trials; there is only a header"])
    _refuse_faults(table)
    place = table.columns.index
    axes = (*SETTING, *table.columns[place("reinit_ratio") + 1 : place("status")])
    scenarios = [scenario_of(row) for row in table.rows]
    found = telling(axes, zip(scenarios, table.rows, strict=True))
    varied = tuple(axis for axis in axes if axis in SURFACE_AXES or axis in found)
    trials = tuple(_trial(*pair, varied) for pair in zip(table.rows, scenarios, strict=True))
    seen: dict[tuple[ScenarioRow, Setting], int] = {}
    for number, trial in enumerate(trials, start=2):
        if (same := seen.setdefault((trial.scenario, trial.setting), number)) != number:
            raise SpecError([f"{path}: row {number} is the same trial as row {same}"])
    return StudyResults(trials=trials, setting_axes=axes, varied=varied, telling=found)


def scenario_of(row: Mapping[str, str]) -> ScenarioRow:
    """Return the scenario that a row names."""
    return ScenarioRow(Family(*(row[name] for name in Family._fields)), row["seed"])


def setting_of(row: Mapping[str, str], axes: Iterable[str]) -> Setting:
    """Return a row's values of some axes."""
    return tuple((axis, row[axis] or "none") for axis in axes)


_OWN = re.compile(r"_(before|after)_(selection|report)$")  # columns of a user's own metrics


def _trial(row: Mapping[str, str], scenario: ScenarioRow, varied: tuple[str, ...]) -> TrialRow:
    done = row["status"] == "done"
    own = [name for name in row if _OWN.search(name) and name not in (*BEFORE, *AFTER)]
    columns = (*BEFORE, *AFTER, *DER, *own) if done else BEFORE
    return TrialRow(
        scenario=scenario,
        setting=setting_of(row, varied),
        cells=row,
        status=row["status"],
        victim_ok=row["victim_ok"] == "True" if row["victim_ok"] else None,
        numbers={name: float(row[name]) for name in columns if row[name]},
        flagged=frozenset(json.loads(row["flagged"])) if done and row["flagged"] else None,
    )


def _is_list_of_rows(text: str) -> bool:
    value = json.loads(text)
    return isinstance(value, list) and {type(row) for row in value} in (set(), {int}, {str})


_RULES: dict[str, Callable[[str], bool]] = {  # which may also raise `ValueError`
    "a value": lambda text: text != "",
    "empty": lambda text: text == "",
    "a number": lambda text: abs(float(text)) < float("inf"),
    "a fraction in [0, 1]": lambda text: 0 <= float(text) <= 1,
    "a whole number": lambda text: float(text).is_integer(),
    "True or False": lambda text: text in {"True", "False"},
    f"one of {', '.join(STATUSES)}": lambda text: text in STATUSES,
    "a JSON object": lambda text: isinstance(json.loads(text), dict),
    "a JSON list of rows": _is_list_of_rows,
}
_VALUE, _EMPTY, _NUMBER, _FRACTION, _WHOLE, _BOOLEAN, _STATUS, _OPTIONS, _ROWS = _RULES
_ALWAYS = {
    **dict.fromkeys(("attack", "dataset", "architecture"), _VALUE),
    **dict.fromkeys(("target_label", "seed", "defence_seed"), _WHOLE),
    **dict.fromkeys(("poison_ratio", "clean_ratio", *SURFACE_AXES), _FRACTION),
    "attack_options": _OPTIONS,
    "status": _STATUS,
}
_VICTIM = {"victim_ok": _BOOLEAN, **dict.fromkeys(BEFORE, _FRACTION)}
_DONE = {**_VICTIM, **dict.fromkeys((*AFTER, *DER), _FRACTION), "seconds": _NUMBER}
_OPTIONAL = {  # may be empty; older results lack some of these columns
    "flagged": _ROWS,  # as the next, empty of a repair method other than ULRL
    "threshold_reached": _BOOLEAN,
    "collapse_class": _WHOLE,
    "collapse_share": _FRACTION,
    "wrecked": _BOOLEAN,
    **dict.fromkeys(RIR, _FRACTION),
}


def _refuse_faults(table: Table) -> None:
    """Raise ``SpecError`` for the first cell that does not hold what it must.

    Rows are counted as a spreadsheet does, the header being row 1.
    """
    faults = []
    for number, row in enumerate(table.rows, start=2):
        rules = {**_ALWAYS, **(_VICTIM if row["victim_ok"] else {})}
        rules |= {axis: _EMPTY for axis in SURFACE_AXES if not applies(axis, row)}
        if row["status"] == "done":
            rules |= {**_DONE, **{name: rule for name, rule in _OPTIONAL.items() if row.get(name)}}
        faults += [
            f"row {number}, {name}: must be {rule}; got {row[name]!r}"
            for name, rule in sorted(rules.items())
            if not _holds(rule, row[name])
        ]
    if faults:
        more = f" (and {len(faults) - 1} more like this)" if len(faults) > 1 else ""
        raise SpecError([f"{table.path}: {faults[0]}{more}"])


@lru_cache(maxsize=4096)
def _holds(rule: str, text: str) -> bool:
    try:
        return _RULES[rule](text)
    except (ValueError, OverflowError, RecursionError):
        return False
