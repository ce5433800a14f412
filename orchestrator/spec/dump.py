"""A study written out again: every default said, and readable by `load_study`."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import yaml

from orchestrator.address import Address
from orchestrator.spec.model import AttackChoice, PrunerChoice, Study, VictimImport
from orchestrator.spec.space import Range, Span
from ulrl.datasets import Dataset
from ulrl.models import Architecture

HEADER = (
    "# The study as it was resolved: every default is written out, paths are absolute. A preset\n"
    "# and a recipe stand for their values, which may differ by dataset. *** is a secret.\n"
)


def resolved_yaml(study: Study) -> str:
    """Return the study file that says all of a study but its secrets.

    Read again, it gives an equal study where there are none.
    """
    grid = study.grid
    content: dict[str, Any] = {
        "name": study.name,
        **({"plugins": [plugin.path for plugin in study.plugins]} if study.plugins else {}),
        **({} if "preset" in grid.settings else {"preset": study.preset}),
        "grid": {
            "attack": grid.attacks,
            "dataset": grid.datasets,
            "architecture": grid.architectures,
            **grid.settings,
            "poison_ratio": grid.poison_ratios,
            "target_label": grid.target_labels,
            "seed": grid.seeds,
        },
        "exclude": [exclusion.conditions for exclusion in study.exclude],
        **_search(study),
        "victim": {**_victims(study), **_fields(study.victim_rule)},
        "prune": {
            "setting": study.prune.setting or "none",
            "curve": study.prune.curve or "none",
        },
        "objective": study.objective,
        "resources": _said(study.resources),
        "limits": _said(study.limits),
        "budget": _said(study.budget),
        **({"optuna": {"storage": study.optuna_storage}} if study.optuna_storage else {}),
        "mlflow": _fields(study.mlflow),
        "store": study.store,
    }
    body = yaml.safe_dump(
        _plain(content), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    return HEADER + body


def _plain(value: Any) -> Any:
    """Return a value as a study file writes it: mappings, lists, texts and numbers."""
    if isinstance(value, AttackChoice):
        return _plain(_attack_entry(value))
    if isinstance(value, PrunerChoice):
        arguments = {name: "none" if one is None else one for name, one in value.arguments.items()}
        return _plain({"pruner": value.pruner, **arguments})
    if isinstance(value, Range | Span):
        defaults = {"log": False, "step": None}
        value = {name: one for name, one in _fields(value).items() if one != defaults.get(name, "")}
    if isinstance(value, Dataset | Architecture):
        return _plain({"name": value.name, **_fields(value)})
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, StrEnum | Address) else value


def _search(study: Study) -> dict[str, Any]:
    if study.search is None:
        return {}
    parts = _fields(study.search)
    arguments = parts.pop("arguments")
    return {"search": {**parts, **arguments}}


def _victims(study: Study) -> dict[str, Any]:
    if study.imports:
        return {"import": [_import_entry(one) for one in study.imports]}
    return {"recipe": study.victim.recipe, **study.victim.changes}


def _import_entry(one: VictimImport) -> dict[str, Any]:
    numbers = {} if one.normalisation is None else _fields(one.normalisation)
    return {"backdoorbench" if one.backdoorbench else "path": one.path, **numbers, **one.conditions}


def _attack_entry(choice: AttackChoice) -> dict[str, Any]:
    entry = {"name": choice.attack.name, **_fields(choice.attack)}
    entry |= {"labels": choice.labels, "stamp": choice.stamp}
    if choice.poison_ratio is not None:
        entry["poison_ratio"] = choice.poison_ratio
    if choice.source:
        entry["source"] = choice.source
    return entry


def _said(value: Any) -> dict[str, Any]:
    """Return the fields that say something: None and an empty mapping leave it open."""
    said = {}
    for name, one in _fields(value).items():
        if isinstance(one, Mapping):
            inner = {
                key: _said(part) if dataclasses.is_dataclass(part) else part
                for key, part in one.items()
            }
            if inner:
                said[name] = inner
        elif one is not None:
            said[name] = one
    return said


def _fields(value: Any) -> dict[str, Any]:
    return {part.name: getattr(value, part.name) for part in dataclasses.fields(value)}
