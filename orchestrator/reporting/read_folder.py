"""The files of a study folder, read and checked."""

import json
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from orchestrator.errors import SpecError
from orchestrator.files import Table, read_table, whole_lines
from orchestrator.plan.columns import (
    AFTER,
    BEFORE,
    COST,
    DER,
    EDITED,
    METHOD,
    NO_ATTACK,
    REQUIRED,
    RIR,
    SETTING,
    STATUSES,
    SURFACE_AXES,
    ULRL,
    VARIED_DEFAULTS,
    Family,
)
from orchestrator.plan.labels import applies, mark_of, option_text, telling, with_defaults
from orchestrator.spec.rules import NO_MLFLOW, lettered

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


GIVEN = "repair_given"  # in a row as it was read: its options without those of `VARIED_DEFAULTS`
DEFAULT = "default"  # of an option that a setting of a method does not give


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

    place: int  # of the row, from 0
    scenario: ScenarioRow
    setting: Setting  # values of those setting axes that some scenario has several values of
    cells: Mapping[str, str]  # the row as text, for files that must repeat it to the letter
    status: str
    victim_ok: bool | None
    numbers: Mapping[str, float]  # the metrics, cost and edits that the row has, by column
    flagged: frozenset[int | str] | None

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def benign(self) -> bool:
        """Whether there is no attack."""
        return self.scenario.family.attack == NO_ATTACK

    @property
    def is_oracle(self) -> bool:
        """Whether the strength of its cut is chosen by the ASR, as no defence can do."""
        return bool(mark_of(self.cells))

    @property
    def wrecked(self) -> bool:
        """Whether the repaired model's ACC is at or below chance, on the selection half.

        Chance is the share of the largest class in it.
        """
        return self.cells.get("wrecked") == "True"


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """The trials of a study, in plan order.

    Attributes:
        trials: Those with an attack: all that settings are compared by.
        benign: Those without one, which have no ASR, RA and DER.
        varied: Those of them that make a trial's `setting`: `telling` and the surfaces'.
    """

    trials: tuple[TrialRow, ...]
    setting_axes: tuple[str, ...]  # all setting axes, as the columns stand in the file
    varied: tuple[str, ...]
    telling: tuple[str, ...]  # those that distinguish settings
    benign: tuple[TrialRow, ...] = ()

    @property
    def all(self) -> tuple[TrialRow, ...]:
        """All trials, those without an attack last."""
        return (*self.trials, *self.benign)

    @cached_property
    def by_method(self) -> Mapping[str, "StudyResults"]:
        """The trials of each repair method, with its own options as setting axes.

        Settings whose strength an oracle chose are a method of their own, marked.
        """
        groups = grouped(
            self.all, lambda trial: trial.cells.get("repair", ULRL) + mark_of(trial.cells)
        )
        if [*groups] == [ULRL]:
            return {ULRL: self}
        return {name: self._of(trials) for name, trials in groups.items()}

    def _of(self, trials: Sequence[TrialRow]) -> "StudyResults":
        given = [json.loads(trial.cells.get("repair_options") or "{}") for trial in trials]
        options = distinct(name for one in given for name in one)
        usual = dict.fromkeys(options, DEFAULT)
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
        return _results(restricted, axes, varied, found)


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
    rows = [_with_defaults(row) for row in table.rows]
    scenarios = [scenario_of(row) for row in rows]
    found = telling(axes, zip(scenarios, rows, strict=True))
    varied = tuple(axis for axis in axes if axis in SURFACE_AXES or axis in found)
    trials = tuple(
        _trial(place, *pair, varied) for place, pair in enumerate(zip(rows, scenarios, strict=True))
    )
    seen: dict[tuple[ScenarioRow, Setting], int] = {}
    for number, trial in enumerate(trials, start=2):
        if (same := seen.setdefault((trial.scenario, trial.setting), number)) != number:
            raise SpecError([f"{path}: row {number} is the same trial as row {same}"])
    return _results(trials, axes, varied, found)


def _with_defaults(row: Mapping[str, str]) -> Mapping[str, str]:
    """Return a row whose options name those that vary, by their default too."""
    if not row.get(VARIED_DEFAULTS):  # as in older results
        return row
    options = with_defaults(row["repair_options"], row[VARIED_DEFAULTS])
    return {**row, "repair_options": options, GIVEN: row["repair_options"]}


def _results(
    trials: Iterable[TrialRow],
    axes: tuple[str, ...],
    varied: tuple[str, ...],
    telling: tuple[str, ...],
) -> StudyResults:
    parts: tuple[list[TrialRow], list[TrialRow]] = ([], [])
    for trial in trials:
        parts[trial.benign].append(trial)
    attacked, benign = map(tuple, parts)
    return StudyResults(
        trials=attacked, setting_axes=axes, varied=varied, telling=telling, benign=benign
    )


def scenario_of(row: Mapping[str, str]) -> ScenarioRow:
    """Return the scenario that a row names."""
    return ScenarioRow(Family(*(row[name] for name in Family._fields)), row["seed"])


def setting_of(row: Mapping[str, str], axes: Iterable[str]) -> Setting:
    """Return a row's values of some axes."""
    return tuple((axis, row[axis] or "none") for axis in axes)


_OWN = re.compile(r"_(before|after)_(selection|report)$")  # columns of a user's own metrics


_COMPARED = (*(name for name in COST if name != "passes_planned"), *EDITED)


def _trial(
    place: int, row: Mapping[str, str], scenario: ScenarioRow, varied: tuple[str, ...]
) -> TrialRow:
    done = row["status"] == "done"
    own = [name for name in row if _OWN.search(name) and name not in (*BEFORE, *AFTER)]
    columns = (*BEFORE, *AFTER, *DER, *own, *_COMPARED) if done else BEFORE
    return TrialRow(
        place=place,
        scenario=scenario,
        setting=setting_of(row, varied),
        cells=row,
        status=row["status"],
        victim_ok=row["victim_ok"] == "True" if row["victim_ok"] else None,
        numbers={name: float(row[name]) for name in columns if row.get(name)},
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
_OF_ATTACKS = (
    *("poison_ratio", "target_label", *DER),
    *(name for name in (*BEFORE, *AFTER) if not name.startswith("acc_")),
)
_OPTIONAL = {  # may be empty; older results lack some of these columns
    "flagged": _ROWS,  # as the next, empty of a repair method other than ULRL
    "threshold_reached": _BOOLEAN,
    "target_rank": _WHOLE,
    "collapse_class": _WHOLE,
    "collapse_share": _FRACTION,
    "wrecked": _BOOLEAN,
    **dict.fromkeys(("repair_seconds", "passes", "weight_change"), _NUMBER),
    "passes_planned": _BOOLEAN,
    "zeroed_parts": _WHOLE,
    "zeroed_share": _FRACTION,
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
        rules |= {VARIED_DEFAULTS: _OPTIONS} if row.get(VARIED_DEFAULTS) else {}
        if row["attack"] == NO_ATTACK:
            rules |= dict.fromkeys(_OF_ATTACKS, _EMPTY)
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


STARTS = "starts.jsonl"  # in logs/
_TEXTS = ("command", "executor", "device", "hardware", "system", "commit")


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of a driver that had work to do."""

    command: str
    executor: str
    device: str
    hardware: str
    system: str
    commit: str
    versions: Mapping[str, str]

    def facts(self) -> list[tuple[str, str]]:
        """Return what is worth a line each, but for the command."""
        facts = {
            "Executor": f"{self.executor}, on {self.device}",
            "Driver's machine": self.hardware,
            "System": self.system,
            "Versions": ", ".join(f"{name} {number}" for name, number in self.versions.items()),
            "Commit": self.commit,
        }
        return [(term, text) for term, text in facts.items() if text]


def read_starts(path: Path) -> Sequence[Start]:
    """Return the record's starts, the last one last; none if there is no record.

    Raises:
        SpecError: It is there, but a whole line of it is no record of a start.
    """
    try:
        lines = whole_lines(path, cut=False)
    except OSError as error:
        raise SpecError([f"{path}: cannot be read; {' '.join(str(error).split())}"]) from None
    starts = []
    for number, line in enumerate(lines, start=1):
        try:
            found: Any = json.loads(line)
            versions = {name: str(value) for name, value in found["versions"].items()}
            starts.append(Start(**{name: found[name] for name in _TEXTS}, versions=versions))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SpecError([f"{path}: line {number} is no record of a start"]) from None
    return starts


_PRUNING = ("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs")
_EVIDENCE = ("scenario", "step", "value", "reference", "pairs", "worse", "against")
_LATER_COLUMNS = ("worse", "against")  # columns that older logs lack
_WILCOXON = ("p_threshold", "n_startup_steps")
_STAGES = ("stage", "key", "scenario", "seconds", "computed")
_STAGE_ORDER = ["train_helper", "train_victim", "unlearn", "score_neurons", "relearn", "evaluate"]
_LOWEST = "minimize"
_OBJECTIVES = ("der", "asr", "acc", "ra")


@dataclass(frozen=True, kw_only=True)
class StudyFile:
    """The parts of study.yaml that the report needs; None where it does not say.

    Attributes:
        pruner: Arguments of Wilcoxon's pruner of settings; None without one.
    """

    name: str | None = None
    objective: str | None = None
    lowest: bool = False  # whether less of it is better
    preset: str | None = None
    pruner: Mapping[str, float] | None = None
    sampler: str | None = None  # what drew the settings; None in a grid
    labels: Mapping[str, str] = field(default_factory=dict)  # what to call names
    log_axes: frozenset[str] = frozenset()  # ranges that are searched on a logarithmic scale
    untracked: bool = False  # whether it was run without MLflow


def read_study(path: Path) -> StudyFile:
    """Return what a study file says; nothing if there is none.

    Raises:
        SpecError: It is there, but is no study file.
    """
    if not path.exists():
        return StudyFile()
    try:
        study: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        reason = " ".join(str(error).split())
        raise SpecError([f"{path}: cannot be read as YAML; {reason}"]) from None
    if not isinstance(study, dict):
        raise SpecError([f"{path}: is no study file; it holds no mapping"])
    objective: Any = study.get("objective", "der")
    lowest = False
    if isinstance(objective, dict):  # a metric of the user's own
        objective, lowest = _text(objective.get("metric")), objective.get("direction") == _LOWEST
    elif objective not in _OBJECTIVES:
        known = ", ".join(_OBJECTIVES)
        raise SpecError([f"{path}: objective: must be one of {known}; got {objective!r}"])
    axes = _mapping(study, "grid")
    pruner = _mapping(_mapping(study, "prune"), "setting")
    for name in _WILCOXON if pruner else ():
        if not isinstance(value := pruner.get(name), int | float):
            raise SpecError([f"{path}: prune.setting.{name}: must be a number; got {value!r}"])
    return StudyFile(
        name=_text(study.get("name")),
        objective=objective,
        lowest=lowest,
        preset=_text(study.get("preset")),
        pruner={name: pruner[name] for name in _WILCOXON} if pruner else None,
        sampler=_text(_mapping(study, "search").get("sampler")),
        labels={str(k): lettered(str(v)) for k, v in _mapping(study, "labels").items()},
        log_axes=frozenset(a for a in axes if _mapping(axes, a).get("log") is True),
        untracked=_mapping(study, "mlflow").get("uri") == NO_MLFLOW,
    )


def _mapping(parent: Mapping[Any, Any], name: str) -> Mapping[Any, Any]:
    """Return an entry that is a mapping, or an empty one."""
    found = parent.get(name)
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def read_pruning(path: Path) -> Sequence[Mapping[str, str]]:
    """Return the rows of the pruning log; none if there is no such file.

    Raises:
        SpecError: It is there, but is no pruning log.
    """
    if not path.exists():
        return ()
    rows = read_table(path, _PRUNING).rows
    return [{**dict.fromkeys(_LATER_COLUMNS, ""), **row} for row in rows]


def repeated(pruning: Iterable[Mapping[str, str]]) -> tuple[int, int]:
    """Return how many settings were abandoned, and how many different results that rests on.

    Settings that share their relearnings have the same values, so the same evidence.
    """
    rows = [row for row in pruning if row["level"] == "setting"]
    return len(rows), len({tuple(row[name] for name in _EVIDENCE) for row in rows})


def read_costs(path: Path) -> list[dict[Hashable, Any]]:
    """Return the work of each stage, in the order of the pipeline; nothing if no file is there.

    Returns:
        ``stage``; ``results``, how many different ones the study needed; ``computed`` and
        ``stored``, how many executions computed one or found it in the store; ``seconds`` of
        computing.

    Raises:
        SpecError: It is there, but is no list of stages.
    """
    if not path.exists():
        return []
    import pandas as pd  # half a second of import, needed here only

    table = read_table(path, _STAGES, grows=True)
    frame = pd.DataFrame(table.rows, columns=list(table.columns))
    seconds = pd.to_numeric(frame["seconds"].replace("", "0"), errors="coerce")
    for place in seconds.index[seconds.isna()][:1]:
        rule = f"must be a number; got {frame['seconds'][place]!r}"
        raise SpecError([f"{path}: row {place + 2}, seconds: {rule}"])
    frame["computed"] = frame["computed"] == "True"
    frame["seconds"] = seconds.where(frame["computed"], 0)
    costs = frame.groupby("stage", sort=False).agg(
        results=("key", "nunique"),
        computed=("computed", "sum"),
        stored=("computed", lambda computed: (~computed).sum()),
        seconds=("seconds", "sum"),
    )
    order = {stage: place for place, stage in enumerate(_STAGE_ORDER)}
    found = costs.reset_index().to_dict("records")
    return sorted(found, key=lambda cost: order.get(cost["stage"], len(order)))
