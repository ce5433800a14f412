"""Scenarios and settings in a line of text, as people and tables name them."""

import json
from collections.abc import Mapping
from typing import Any

from orchestrator.spec.model import Study
from orchestrator.spec.space import is_open


def scenario_text(columns: Mapping[str, Any], without: frozenset[str] = frozenset()) -> str:
    """Return a scenario's columns in one line, as ``blended alpha=0.1, digits, seed=0``."""
    options = json.loads(columns["attack_options"]) if "attack_options" not in without else {}
    parts = [" ".join([columns["attack"], *(f"{k}={v}" for k, v in options.items())])]
    parts += [columns[name] for name in ("dataset", "architecture") if name not in without]
    numbers = ("poison_ratio", "target_label", "seed")
    return ", ".join([*parts, *(f"{n}={columns[n]}" for n in numbers if n not in without)])


def setting_text(study: Study, values: Mapping[str, Any]) -> str:
    """Return a setting's values that differ among settings, as ``alpha=0.7, layers=all``."""
    axes = study.grid.settings
    varied = {name: value for name, value in values.items() if is_open(axes[name])} or values
    shown = (f"{name}={_plainly(name, value)}" for name, value in varied.items())
    return ", ".join(shown) or "the preset"


def _plainly(name: str, value: Any) -> str:
    if value is None:
        return "seed" if name == "defence_seed" else "none"
    return json.dumps(value) if isinstance(value, tuple) else str(value)
