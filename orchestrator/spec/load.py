"""The study file: from YAML to a frozen `Study`, or every problem in it at once."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from orchestrator.address import Address
from orchestrator.spec.axes import Axes, read_grid
from orchestrator.spec.checks import check_audits, check_combinations
from orchestrator.spec.entries import AXES, KEYS, REGISTRIES, Item, place_of, read_entry
from orchestrator.spec.exclude import read_exclude
from orchestrator.spec.model import (
    DIRECTIONS,
    AuditedModels,
    Budget,
    Device,
    Exclusion,
    Grid,
    Limits,
    LogModels,
    Objective,
    OwnObjective,
    Prune,
    Resources,
    Search,
    Study,
    Tracking,
)
from orchestrator.spec.rules import (
    NO_MLFLOW,
    AbsolutePath,
    OptunaStorage,
    RuleError,
    StorePlace,
    lettered,
    nearest,
)
from orchestrator.spec.sections import (
    DEFAULT_PRUNE,
    check_search,
    read_prune,
    read_search,
    read_victim,
)
from orchestrator.spec.validation import Reader, axis_values, read
from orchestrator.spec.yaml_tree import InvalidValue, YamlNode, read_tree
from ulrl.attacks import AttackFileError
from ulrl.audits import Audit
from ulrl.datasets import DatasetError
from ulrl.hyperparameters import Preset
from ulrl.methods import ULRL
from ulrl.metrics import LOWEST, OWN_METRICS, SAMPLE, MetricError, value_of
from ulrl.models import WeightsError
from ulrl.plugins import Plugin, PluginError, load_plugin, read_module, read_plugin

OPTIONAL = ("plugins", "exclude", "search", "metrics", "audit", "optuna", "labels")
NONE = "none"  # as null, in place of a section that may be left out
DEFAULT_URI = "sqlite:///runs/mlflow.db"
DEFAULT_STORE = "runs/store"


def _name(name: str) -> str:
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9_.-]{1,100}", name):
        raise RuleError("letters, digits, - _ and . (not first), at most 100")
    return name


def load_study(path: str, overrides: Sequence[str] = (), root: YamlNode | None = None) -> Study:
    """Return the study that a file describes, after ``KEY=VALUE`` overrides.

    `root` is what `read_tree` returned of them, if that was called already.

    Raises:
        SpecError: All that is wrong with the file, in its order, a line each.
    """
    root = root or read_tree(path, overrides)
    given = root.known(KEYS, partial(place_of, here="the study"))
    given = {
        key: node
        for key, node in given.items()
        if key not in OPTIONAL or node.value not in (None, NONE)
    }
    for key in ("name", "grid"):
        if key not in given:
            root.child(key, None).note("this key is required")
    preset_node, sections = given.get("preset"), dict(given)
    sections.setdefault("store", root.child("store", DEFAULT_STORE))
    sections.setdefault("mlflow", root.child("mlflow", {}))
    found: dict[str, Any] = {"prune": DEFAULT_PRUNE}
    for key in [key for key in _READERS if key in sections]:
        with root.problems.collecting():
            found[key] = _READERS[key](sections[key])
        if key == "plugins":
            root.problems.raise_if_any()  # what it would have registered is no second mistake
    _check_objective(given.get("objective", root), found)
    audits: tuple[Item, ...] = found.pop("audit", ())
    found["audits"] = tuple(item.value for item in audits)
    _check_audited(root, given.get("audit_models"), found)
    found["optuna_storage"] = found.pop("optuna", None)
    axes, found["exclude"] = _grid(given, found.get("preset", Preset.DEFAULT), found.get("search"))
    if axes and not axes.unsound:
        _check_attacked(given, found, axes)
        check_audits(axes, audits)
    grid = axes.grid() if axes else Grid(attacks=(), datasets=(), architectures=())
    if preset_node is not None and axes is not None:
        _check_preset(preset_node, found.get("preset"), axes)
    with root.problems.collecting():
        found |= read_victim(given.get("victim"), axes)
    if axes and not axes.unsound:
        with root.problems.collecting():
            found["labels"] = _labels(given.get("labels"), grid)
    if "resources" in given and "resources" in found:
        names = [architecture.name for architecture in grid.architectures]
        _check_resources(given["resources"], found["resources"], names)
    root.problems.raise_if_any()
    places = {} if axes is None else {name: axes.places(name) for name in REGISTRIES}
    return Study(source=path, grid=grid, places=places, **found)


def _check_preset(node: YamlNode, preset: Preset | None, axes: Axes) -> None:
    """Note a preset at the top that the grid has too, or that no method of the grid has.

    That of every resolved study, the default one, says nothing.
    """
    if "preset" in axes.items:
        node.note("preset is an axis of this grid already; say it there alone")
    methods = () if "repair" in axes.unsound else axes.items.get("repair", ())
    others = bool(methods) and all(item.value.name != ULRL for item in methods)
    if others and preset not in (None, Preset.DEFAULT):
        node.note(f"preset is of {ULRL}, and no entry of repair is {ULRL}; leave it out")


def missing_data(study: Study) -> list[str]:
    """Return a line for each file that is not there; a plan can do without."""
    lines = []
    axes: dict[str, Sequence[Any]] = {
        "attack": [entry.attack for entry in study.grid.attacks],
        "dataset": study.grid.datasets,
        "architecture": study.grid.architectures,
    }
    for axis, entries in axes.items():
        for place, entry in enumerate(entries):
            try:
                if axis != "dataset" or entry.info() is None:
                    entry.identity()
            except (AttackFileError, DatasetError, WeightsError) as error:
                known = study.places.get(axis, ())
                where = known[place] if place < len(known) else f"grid.{axis}.{place}"
                lines.append(f"{where}: {error}")
    return lines


def _grid(
    keys: Mapping[str, YamlNode], preset: Preset, search: Search | None
) -> tuple[Axes | None, tuple[Exclusion, ...]]:
    """Return the grid and what is left of it, unless it cannot be read, and the exclusions."""
    if "grid" not in keys:
        return None, ()
    excluded = keys.get("exclude")
    named = {key for entry in excluded.items for key in entry.entries} if excluded else set()
    with keys["grid"].problems.collecting():
        axes = read_grid(keys["grid"], search, named)
        if not axes.unsound:
            check_search(keys.get("search"), search, axes)
        if axes.fits:
            exclude, axes = read_exclude(excluded, axes)
            check_combinations(axes, preset)
            return axes, exclude
    return None, ()


def _plugins(node: YamlNode) -> tuple[Plugin, ...]:
    """Return the files and modules that register something, which are loaded here."""
    plugins: dict[str, Plugin] = {}
    for item in node.items:
        with node.problems.collecting():
            name: str = read(item, str)
            try:
                if name.endswith(".py") or "/" in name:
                    plugin = read_plugin(Path(read(item, AbsolutePath)))
                else:
                    plugin = read_module(name)
                if plugin.module in plugins:
                    text = f"two plugins have the name {Path(name).name}; rename one"
                    raise InvalidValue(item, text)
                load_plugin(plugin)
            except PluginError as error:
                raise InvalidValue(item, str(error)) from error
            plugins[plugin.module] = plugin
    return tuple(plugins.values())


def _labels(node: YamlNode | None, grid: Grid) -> Mapping[str, str]:
    """Return what the report calls axes, attacks, datasets, architectures and values of the grid.

    No two names may look the same.
    """
    if node is None or node.value is None:
        return {}
    values = (v for found in grid.settings.values() if isinstance(found, tuple) for v in found)
    known = {*AXES, *chain.from_iterable(REGISTRIES.values()), *(d.label for d in grid.datasets)}
    known |= {architecture.label for architecture in grid.architectures}
    known |= {str(value) for value in values if isinstance(value, str)}
    labels: dict[str, str] = {}
    for name, entry in node.known(sorted(known)).items():
        with node.problems.collecting():
            text = read(entry, str)
            shown = lettered(text)
            if re.search(r"\$.+\$|\\", shown):
                rule = "a text, in which Greek letters alone may be LaTeX's: $\\tau$"
                raise entry.invalid(rule)
            if shown in known - {name} or shown in map(lettered, labels.values()):
                raise InvalidValue(entry, f"{text!r} is another name already")
            labels[name] = text
    return labels


def _objective(node: YamlNode) -> Objective | OwnObjective:
    """Return what a study seeks; a mapping is what `resolved_yaml` makes of a metric of one's own.

    Raises:
        InvalidValue: It is no objective, or its direction is not the metric's.
    """
    given = node.known(("metric", "direction")) if isinstance(node.value, dict) else {}
    named = given.get("metric", node)
    if named.value not in OWN_METRICS:
        return Objective(read(named, Objective))
    name = str(named.value)
    maximise = name not in LOWEST
    if "direction" in given and given["direction"].value != DIRECTIONS[maximise]:
        text = f"{name} is registered to {DIRECTIONS[maximise]}; leave direction out"
        raise InvalidValue(given["direction"], text)
    return OwnObjective(value=name, maximise=maximise)


def _check_objective(node: YamlNode, found: Mapping[str, Any]) -> None:
    """Note what does not go with a metric of the user's own as the objective."""
    objective = found.get("objective")
    if not isinstance(objective, OwnObjective):
        return
    if objective.value not in found.get("metrics", ()):
        node.note(f"{objective.value} is not measured; write metrics: [{objective.value}]")
    if found["prune"].curve is not None:
        node.note(
            f"after each epoch ACC, ASR and RA are known alone, so {objective.value} cannot cut "
            f"trials; write prune: {{curve: none}}"
        )


def _check_attacked(given: Mapping[str, YamlNode], found: dict[str, Any], axes: Axes) -> None:
    """Note what needs an objective where no attack is left; nothing prunes there by default."""
    if not axes.left.any() or axes.left[list(axes.attacked)].any():
        return
    if found.get("search") is not None:
        given["search"].note(
            "a sampler learns from the objective, and without an attack there is none; list the "
            "settings, or add an attack"
        )
    prune = found.get("prune", Prune())
    if "prune" in given and (prune.setting or prune.curve):
        given["prune"].note(
            "settings and curves are pruned by the objective, and without an attack there is none; "
            "write prune: none, or add an attack"
        )
    found["prune"] = Prune()


def _metrics(node: YamlNode) -> tuple[str, ...]:
    """Return the names of the user's own metrics."""
    return tuple(name for _, name in axis_values(node, _metric, str))


def _metric(node: YamlNode) -> str:
    name: str = read(node, str)
    if name not in OWN_METRICS:
        hint = nearest(name, OWN_METRICS, "there are")
        raise InvalidValue(node, f"no further metric is called {name!r}{hint}")
    try:
        value_of(name, SAMPLE)
    except MetricError as error:
        raise InvalidValue(node, str(error)) from error
    return name


def _audits(node: YamlNode) -> tuple[Item, ...]:
    """Return the audits; what is wrong, or there twice, is noted and left out."""
    places: dict[Audit, Item] = {}
    for entry in node.items:
        with node.problems.collecting():
            for item in read_entry(entry, "audit"):
                first = places.setdefault(item.value, item)
                if first is not item:
                    text = f"{item.value} stands twice; first at {first.node.path}"
                    raise InvalidValue(item.node, text)
    return tuple(places.values())


def _check_audited(root: YamlNode, node: YamlNode | None, found: dict[str, Any]) -> None:
    """Take `audit_models` under the study's own name, and note what does not go with it."""
    audited = found.pop("audit_models", AuditedModels.BEST)
    found["audited"] = audited
    if not found["audits"]:
        if node is not None:
            node.note("there is nothing to audit models by; write audit: [...], or leave it out")
        return
    logged = found["mlflow"].log_models if "mlflow" in found else LogModels.ALL
    where = root.at(["mlflow", "log_models"]) if node is None else node
    if audited is AuditedModels.ALL and logged is not LogModels.ALL:
        where.note("every repaired model is to be stored; write mlflow: {log_models: all}")
    if audited is AuditedModels.BEST and logged is LogModels.NONE:
        where.note(
            "the best repaired models are to be stored; let mlflow.log_models be best or all, or "
            "write audit_models: victim"
        )


def _optuna_storage(node: YamlNode) -> Address | None:
    storage = node.known(("storage",)).get("storage")
    return None if storage is None else read(storage, OptunaStorage)


def _mlflow(node: YamlNode) -> Tracking:
    """Return where MLflow's record goes; the word `none` is no MLflow."""
    if node.value == NO_MLFLOW:
        return Tracking(uri=None)
    if node.value is not None and not isinstance(node.value, dict):
        raise node.invalid(f"a mapping or {NO_MLFLOW}")
    uri = node.child("uri", DEFAULT_URI)
    tracking: Tracking = read(replace(node, value={"uri": uri, **node.entries}), Tracking)
    return tracking


def _as(hint: Any) -> Reader:
    return partial(read, hint=hint)


_READERS: Mapping[str, Reader] = {
    "plugins": _plugins,
    "metrics": _metrics,
    "audit": _audits,
    "audit_models": _as(AuditedModels),
    "search": read_search,
    "prune": read_prune,
    "optuna": _optuna_storage,
    "name": _as(Annotated[str, AfterValidator(_name)]),
    "preset": _as(Preset),
    "objective": _objective,
    "resources": _as(Resources),
    "limits": _as(Limits),
    "budget": _as(Budget),
    "mlflow": _mlflow,
    "store": _as(StorePlace),
}


def _check_resources(node: YamlNode, resources: Resources, names: Sequence[str]) -> None:
    """Note what a study cannot have; `names` are the architectures of its grid."""
    if names and "architectures" in node.entries:
        node.entries["architectures"].known(names)
    for keys, request in resources.requests():
        if request.cpu is not None and request.cpu < resources.cpu:
            with node.problems.collecting():
                raise node.at([*keys, "cpu"]).invalid(
                    f"at least resources.cpu, torch's threads, which are {resources.cpu}"
                )
    gpus = resources.gpus
    if 0 in gpus and any(gpus):
        node.note(
            "all stages have a share of a GPU or none has: a study computes on one kind of "
            "device; gpu is 0 in one place and above 0 in another"
        )
    if resources.device is Device.CUDA and 0 in gpus:
        node.note("device cuda wants a share of a GPU; gpu is 0")
