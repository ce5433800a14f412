"""The study file: from YAML to a frozen `Study`, or every problem in it at once."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from orchestrator.spec.axes import Axes, read_grid
from orchestrator.spec.checks import check_combinations
from orchestrator.spec.exclude import read_exclude
from orchestrator.spec.model import (
    Budget,
    Device,
    Exclusion,
    Grid,
    Limits,
    Objective,
    Resources,
    Search,
    Study,
    Tracking,
)
from orchestrator.spec.optuna_sections import DEFAULT_PRUNE, check_search, read_prune, read_search
from orchestrator.spec.rules import AbsolutePath, OptunaStorage, RuleError, StorePlace
from orchestrator.spec.validation import read, read_or
from orchestrator.spec.victim import read_victim
from orchestrator.spec.yaml_tree import InvalidValue, YamlNode, read_tree
from ulrl.attacks import AttackFileError
from ulrl.datasets import DatasetError
from ulrl.hyperparameters import Preset
from ulrl.models import WeightsError
from ulrl.plugins import Plugin, PluginError, load_plugin, read_plugin

KEYS = (
    *("name", "plugins", "preset", "grid", "exclude", "search", "victim", "prune", "objective"),
    *("resources", "limits", "budget", "optuna", "mlflow", "store"),
)
DEFAULT_URI = "sqlite:///runs/mlflow.db"
DEFAULT_STORE = "runs/store"
T = TypeVar("T")


def _name(name: str) -> str:
    if not re.fullmatch(r"(?!\.)[A-Za-z0-9_.-]{1,100}", name):
        raise RuleError("letters, digits, - _ and . (not first), at most 100")
    return name


_Name = Annotated[str, AfterValidator(_name)]


def load_study(path: str, overrides: Sequence[str] = ()) -> Study:
    """Return the study that a file describes, after ``KEY=VALUE`` overrides.

    Raises:
        SpecError: All that is wrong with the file, in its order, a line each.
    """
    root = read_tree(path, overrides)
    keys = root.known(KEYS)
    for key in ("name", "grid"):
        if key not in keys:
            root.child(key, None).note("this key is required")

    def section(key: str, reader: Callable[[YamlNode], T], default: T) -> T:
        if key in keys:
            with root.problems.collecting():
                return reader(keys[key])
        return default

    nothing: tuple[Plugin, ...] = ()
    plugins = section("plugins", _plugins, nothing)
    preset = read_or(keys.get("preset"), Preset, Preset.DEFAULT)
    search = section("search", read_search, None)
    axes, exclude = _grid(keys, preset, search)
    grid = axes.grid() if axes else Grid(attacks=(), datasets=(), architectures=())
    if "preset" in keys and "preset" in grid.settings:
        keys["preset"].note("preset is an axis of this grid already; say it there alone")
    victim: dict[str, Any] = {}
    with root.problems.collecting():
        victim = read_victim(keys.get("victim"), axes)
    names = [architecture.name for architecture in grid.architectures]
    storage = section("optuna", lambda node: node.known(("storage",)).get("storage"), None)
    mlflow = keys.get("mlflow", root.child("mlflow", None))
    if mlflow.value is None or isinstance(mlflow.value, dict):
        mlflow = replace(mlflow, value={"uri": mlflow.child("uri", DEFAULT_URI), **mlflow.entries})
    store = keys.get("store", root.child("store", DEFAULT_STORE))
    fields: dict[str, Any] = {
        "name": read_or(keys.get("name"), _Name, ""),
        "prune": section("prune", read_prune, DEFAULT_PRUNE),
        "objective": read_or(keys.get("objective"), Objective, Objective.DER),
        "resources": section("resources", lambda node: _resources(node, names), Resources()),
        "limits": read_or(keys.get("limits"), Limits, Limits()),
        "budget": read_or(keys.get("budget"), Budget, Budget()),
        "optuna_storage": read_or(storage, OptunaStorage, None),
        "mlflow": read_or(mlflow, Tracking, None),
        "store": read_or(store, StorePlace, None),
    }
    root.problems.raise_if_any()
    return Study(
        source=path,
        plugins=plugins,
        grid=grid,
        preset=preset,
        exclude=exclude,
        search=search,
        **victim,
        **fields,
    )


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
                lines.append(f"grid.{axis}.{place}: {error}")
    return lines


def _grid(
    keys: Mapping[str, YamlNode], preset: Preset, search: Search | None
) -> tuple[Axes | None, tuple[Exclusion, ...]]:
    """Return the grid and what is left of it, unless it cannot be read, and the exclusions."""
    if "grid" not in keys:
        return None, ()
    excluded = keys.get("exclude")
    told_apart = {key for entry in excluded.items for key in entry.entries} if excluded else set()
    with keys["grid"].problems.collecting():
        axes = read_grid(keys["grid"], search, told_apart)
        if not axes.unsound:
            check_search(keys.get("search"), search, axes)
        if axes.fits:
            exclude, axes = read_exclude(excluded, axes)
            check_combinations(axes, preset)
            return axes, exclude
    return None, ()


def _plugins(node: YamlNode) -> tuple[Plugin, ...]:
    """Return the files that define attacks or repair methods, which are loaded here."""
    plugins: dict[str, Plugin] = {}
    for item in node.items:
        with node.problems.collecting():
            path = Path(read(item, AbsolutePath))
            try:
                plugin = read_plugin(path)
                load_plugin(plugin)
            except PluginError as error:
                raise InvalidValue(item, str(error)) from error
            if plugin.module in plugins:
                text = f"two plugins have the file name {path.name}; rename one"
                raise InvalidValue(item, text)
            plugins[plugin.module] = plugin
    return tuple(plugins.values())


def _resources(node: YamlNode, names: Sequence[str]) -> Resources:
    """Return the section ``resources``; `names` are the architectures of the grid."""
    if names and "architectures" in node.entries:
        with node.problems.collecting():
            node.entries["architectures"].known(names)
    resources: Resources = read(node, Resources)
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
    return resources
