"""Scenarios and settings in a line of text, as people and tables name them."""

import json
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from orchestrator.plan.columns import SURFACE_AXES

_LONGEST_NUMBER = 8  # digits; what is longer was hardly typed


def scenario_text(columns: Mapping[str, Any], without: frozenset[str] = frozenset()) -> str:
    """Return a scenario's columns in one line, as ``blended alpha=0.1, digits, seed=0``."""
    options = json.loads(columns["attack_options"]) if "attack_options" not in without else {}
    parts = [" ".join([columns["attack"], *(f"{k}={v}" for k, v in options.items())])]
    parts += [columns[name] for name in ("dataset", "architecture") if name not in without]
    numbers = ("poison_ratio", "target_label", "seed")
    return ", ".join([*parts, *(f"{n}={columns[n]}" for n in numbers if n not in without)])


def telling(
    axes: Iterable[str], points: Iterable[tuple[Hashable, Mapping[str, Any]]]
) -> tuple[str, ...]:
    """Return the axes by which settings are told apart: those with several values in a scenario.

    Where there is a single setting these are threshold and ratio. (A ``defence_seed`` that only
    follows the seed is thus no axis.)

    Points are the scenario of each trial and its value of every axis.
    """
    found = list(points)
    scenarios = len({scenario for scenario, _ in found})
    varied = (a for a in axes if len({(s, point[a]) for s, point in found}) > scenarios)
    return tuple(varied) or SURFACE_AXES


def setting_text(setting: Iterable[tuple[str, str]]) -> str:
    """Return axes and their values, as ``unlearn_threshold=0.2, reinit_ratio=0.5``."""
    return ", ".join(f"{axis}={value_text(value)}" for axis, value in setting)


def cell_text(value: object) -> str:
    """Return a value of a setting axis as the report reads it from results.csv."""
    return "none" if value is None else str(value)


def value_text(value: str) -> str:
    """Return an axis value for a person: 0.30000000000000004 is 0.3."""
    try:
        return value if len(value) <= _LONGEST_NUMBER else f"{float(value):.6g}"
    except ValueError:
        return value
