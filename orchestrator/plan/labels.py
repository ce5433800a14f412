"""Scenarios and settings in a line of text, as people and tables name them."""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from orchestrator.plan.columns import DRAW, METHOD, NAMED_SUSPECTS, SCENARIO, SURFACE_AXES, ULRL

_OF_ALL = {*SCENARIO, DRAW, "clean_ratio", "clean_draw", *METHOD}  # axes of every method
ORACLE, DAGGER = "oracle", " †"  # a rule of methods that cut, and the mark of such settings
DAGGER_NOTE = (
    "† the ASR on the selection half chooses the strength of the cut, or suspects names the rows: "
    "no defence can do that."
)
_LONGEST_NUMBER = 8  # digits; what is longer was hardly typed


def scenario_text(columns: Mapping[str, Any], without: frozenset[str] = frozenset()) -> str:
    """Return a scenario's columns in one line, as ``blended alpha=0.1, digits, seed=0``."""
    options = json.loads(columns["attack_options"]) if "attack_options" not in without else {}
    parts = [" ".join([columns["attack"], *(f"{k}={v}" for k, v in options.items())])]
    parts += [columns[name] for name in ("dataset", "architecture") if name not in without]
    numbers = ("poison_ratio", "target_label", "seed")
    given = [n for n in numbers if n not in without and columns[n] is not None]
    return ", ".join([*parts, *(f"{n}={columns[n]}" for n in given)])


def telling(
    axes: Iterable[str], points: Iterable[tuple[Hashable, Mapping[str, Any]]]
) -> tuple[str, ...]:
    """Return the axes by which settings are told apart: those with several values in a scenario.

    Where there is a single setting of ULRL, with one draw of clean samples or several, threshold
    and ratio are among them. (A ``defence_seed`` that only follows the seed is no axis.) Where
    another method repairs, settings are named by the method with its options, however many there
    are.

    Points are the scenario of each trial and its value of every axis.
    """
    axes = tuple(axes)
    found = list(points)
    varied = []
    for axis in axes:
        values = {(scenario, point[axis]) for scenario, point in found if applies(axis, point)}
        if len(values) > len({scenario for scenario, _ in values}):
            varied.append(axis)
    given = {METHOD[0]: ULRL, METHOD[1]: "{}"}
    named = [
        axis
        for axis, usual in given.items()
        if axis in axes and any(point.get(axis) not in (usual, "", None) for _, point in found)
    ]
    others = [axis for axis in axes if axis in varied or axis in named]
    return tuple(others) if {*others} - {DRAW} else (*others, *SURFACE_AXES)


def applies(axis: str, point: Mapping[str, Any]) -> bool:
    """Whether a setting axis means something to the repair method of a trial's columns."""
    return point.get("repair", ULRL) == ULRL or axis in _OF_ALL


def setting_text(setting: Iterable[tuple[str, str]], label_of: Callable[[str], str] = str) -> str:
    """Return axes and their values, as ``unlearn_threshold=0.2, reinit_ratio=0.5``.

    A repair method stands first, with its options: ``clp(u=2.0), clean_ratio=0.01``.

    Args:
        setting: Axes with the texts of their values.
        label_of: What to call an axis, a value or a method.
    """
    values = dict(setting)
    parts = [axis for axis in values if axis not in METHOD]
    if "repair" in values:
        parts = [axis for axis in parts if applies(axis, values)]
    texts = [f"{label_of(axis)}={label_of(value_text(values[axis]))}" for axis in parts]
    if NAMED_SUSPECTS in parts and is_named(values[NAMED_SUSPECTS]):
        texts[parts.index(NAMED_SUSPECTS)] += DAGGER
    if "repair" in values:
        texts.insert(0, label_of(method_text(values)))
    elif "repair_options" in values:  # of the only method
        texts.insert(0, (_options(values) or "defaults") + mark_of(values))
    return ", ".join(texts)


def method_text(values: Mapping[str, str]) -> str:
    """Return a repair method with its options, as ``clp(u=2.0)``, from columns of the results."""
    name, options = values.get("repair", "repair"), _options(values)
    return f"{name}({options}){mark_of(values)}" if options else name


def mark_of(values: Mapping[str, str]) -> str:
    """Return the mark of a setting that no defence could choose, from columns of the results."""
    chosen = _given(values.get("repair_options") or "{}").get("rule") == ORACLE
    return DAGGER if chosen or is_named(values.get(NAMED_SUSPECTS)) else ""


def is_named(suspects: str | None) -> bool:
    """Whether a text of the column says which rows to reset."""
    return suspects not in (None, "", "none")


@lru_cache(maxsize=1024)
def _given(options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(options)
    return found


def _options(values: Mapping[str, str]) -> str:
    options = json.loads(values.get("repair_options") or "{}")
    return ", ".join(f"{name}={option_text(value)}" for name, value in options.items())


def with_defaults(options: str, defaults: str) -> str:
    """Return a method's options as JSON, with those that vary in the study by their default."""
    added = json.loads(defaults or "{}")
    return (
        json.dumps({**added, **json.loads(options or "{}")}, sort_keys=True) if added else options
    )


def option_text(value: object) -> str:
    """Return the value of a method's option as a text."""
    return value if isinstance(value, str) else json.dumps(value)


def cell_text(value: object) -> str:
    """Return a value of a setting axis as the report reads it from results.csv."""
    return "none" if value is None else str(value)


def value_text(value: str) -> str:
    """Return an axis value for a person: 0.30000000000000004 is 0.3."""
    try:
        return value if len(value) <= _LONGEST_NUMBER else f"{float(value):.6g}"
    except ValueError:
        return value
