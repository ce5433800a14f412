"""A study written out again: every default said, and readable by `load_study`."""

import dataclasses
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import yaml

from orchestrator.address import Address
from orchestrator.spec.model import (
    DIRECTIONS,
    AttackChoice,
    OwnObjective,
    PrunerChoice,
    Study,
    VictimImport,
    attack_options,
)
from orchestrator.spec.rules import NO_MLFLOW
from orchestrator.spec.space import DrawnMethod
from orchestrator.spec.yaml_tree import NUMBER
from ulrl.audits import Audit
from ulrl.datasets import Dataset
from ulrl.methods import RepairMethod, TuningMethod
from ulrl.models import Architecture
from ulrl.registry import options_of

HEADER = (
    "# The study as it was resolved: every default is written out, paths are absolute. A preset\n"
    "# and a recipe stand for their values, which may differ by dataset. *** is a secret.\n"
)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `load_study` would take for numbers."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+.0123456789"))


def resolved_yaml(study: Study) -> str:
    """Return the study file that says all of a study but its secrets.

    Read again, it gives an equal study where there are none.
    """
    grid = study.grid
    search = study.search
    victim: dict[str, Any] = {"recipe": study.victim.recipe, **study.victim.changes}
    if study.imports:
        victim = {"import": study.imports}
    content: dict[str, Any] = {
        "name": study.name,
        "plugins": [plugin.called for plugin in study.plugins] or None,
        "preset": None if "preset" in grid.settings else study.preset,
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
        "search": search and {**_fields(search, leave_out="arguments"), **search.arguments},
        "victim": {**victim, **_fields(study.victim_rule)},
        "prune": {level: chosen or "none" for level, chosen in _fields(study.prune).items()},
        "objective": study.objective,
        "metrics": study.metrics or None,
        "audit": study.audits or None,
        "audit_models": study.audited if study.audits else None,
        "resources": study.resources,
        "limits": study.limits,
        "budget": study.budget,
        "optuna": study.optuna_storage and {"storage": study.optuna_storage},
        "mlflow": _fields(study.mlflow) | {"uri": study.mlflow.uri or NO_MLFLOW},
        "store": study.store,
        "labels": study.labels or None,
    }
    body: str = yaml.dump(
        _plain({key: part for key, part in content.items() if part is not None}),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=100,
    )
    return HEADER + body


def briefly(value: Any) -> Any:
    """Return an entry of the grid as one would write it: its name and what is not a default."""
    if isinstance(value, AttackChoice):
        options = attack_options(value, paths=True)
        ratio = {} if value.poison_ratio is None else {"poison_ratio": value.poison_ratio}
        return {"name": value.attack.name, **_plain({**options, **ratio})}
    if isinstance(value, Dataset | Architecture | RepairMethod | TuningMethod):
        return {"name": value.name, **{n: briefly(v) for n, v in options_of(value).items()}}
    return _plain(value)


def in_line(value: Any) -> str:
    """Return what `briefly` gives, or any mapping of that, as YAML in one line."""
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=float("inf"),
    )
    return text.strip()


def _plain(value: Any) -> Any:  # noqa: C901, PLR0911 - one for each type
    """Return a value as a study file writes it: mappings, lists, texts and numbers."""
    match value:
        case StrEnum() | Address():
            return str(value)
        case tuple() | list():
            return [_plain(one) for one in value]
        case Mapping():
            return {name: _plain(one) for name, one in value.items()}
        case OwnObjective(value=name, maximise=maximise):
            return {"metric": name, "direction": DIRECTIONS[maximise]}
        case AttackChoice(attack=attack):
            poison = {} if attack.benign else {"labels": value.labels, "stamp": value.stamp}
            poison |= _said({"poison_ratio": value.poison_ratio, "source": value.source})
            return _plain({"name": attack.name, **_fields(attack), **poison})
        case Dataset() | Architecture():
            return _plain({"name": value.name, **_fields(value)})
        case RepairMethod() | Audit():
            options: Any = value  # a dataclass, as every registered one
            defaults = {part.name: part.default for part in dataclasses.fields(options)}
            given = {n: v for n, v in _fields(value).items() if (v, defaults[n]) != (None, None)}
            return _plain({"name": value.name, **given})
        case DrawnMethod(name=name, fixed=fixed, ranges=ranges):
            return _plain({"name": name, **dict(fixed), **dict(ranges)})
        case PrunerChoice(pruner=pruner, arguments=arguments):
            chosen = {name: "none" if one is None else one for name, one in arguments.items()}
            return _plain({"pruner": pruner, **chosen})
        case VictimImport(path=path, normalisation=numbers):
            place = {"backdoorbench" if value.backdoorbench else "path": path}
            return _plain({**place, **(_fields(numbers) if numbers else {}), **value.conditions})
    return _plain(_said(_fields(value))) if dataclasses.is_dataclass(value) else value


def _fields(value: Any, leave_out: str = "") -> dict[str, Any]:
    names = [part.name for part in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in names if name != leave_out}


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that say something: None, false and nothing in it leave a thing open."""
    return {
        name: value
        for name, value in fields.items()
        if value is not None and value is not False and value not in ({}, ())
    }
