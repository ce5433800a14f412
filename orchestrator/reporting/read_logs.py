"""The other files of a study folder, read and checked."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from orchestrator.errors import SpecError
from orchestrator.files import read_table, whole_lines
from orchestrator.spec.rules import lettered

FILE = "starts.jsonl"  # in logs/
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
