"""The study file: from YAML to a frozen `Study`, or every mistake in it at once."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from orchestrator.address import Address
from orchestrator.spec.axes import Axes, read_grid
from orchestrator.spec.checks import check_combinations
from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.exclude import is_excluded, read_exclude
from orchestrator.spec.model import (
    Budget,
    Exclusion,
    Grid,
    Limits,
    LogModels,
    Objective,
    Resources,
    Search,
    Study,
    Tracking,
)
from orchestrator.spec.search_section import check_search, read_search
from orchestrator.spec.sections import (
    DEFAULT_PRUNE,
    ImportTemplate,
    VictimSection,
    read_budget,
    read_limits,
    read_prune,
    read_resources,
    read_victim,
)
from orchestrator.spec.validation import (
    Reader,
    absolute_path,
    choice,
    fail,
    items,
    mapping,
    optuna_storage,
    section,
    store_place,
    tracking_uri,
    truth,
    word,
)
from orchestrator.spec.yaml_tree import Problems, YamlNode, read_tree
from ulrl.attacks import AttackFileError
from ulrl.attacks.imported import Imported
from ulrl.datasets import DatasetError
from ulrl.hyperparameters import Preset
from ulrl.models import WeightsError
from ulrl.plugins import Plugin, PluginError, load_plugin, read_plugin

__all__ = ["is_excluded", "load_study", "missing_data", "resolved_yaml"]

KEYS = (
    *("name", "plugins", "preset", "grid", "exclude", "search", "victim", "prune", "objective"),
    *("resources", "limits", "budget", "optuna", "mlflow", "store"),
)
DEFAULT_URI = "sqlite:///runs/mlflow.db"
DEFAULT_STORE = "runs/store"
_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,100}")


def load_study(path: str, overrides: Sequence[str] = ()) -> Study:
    """Return the study that a file describes, after ``KEY=VALUE`` overrides.

    Raises:
        SpecError: All that is wrong with the file, in its order, a line each.
    """
    found = Problems()
    root = read_tree(path, overrides, found)
    keys = _top_level(root, found)
    nothing: tuple[Plugin, ...] = ()
    plugins = found.read(keys.get("plugins"), partial(_plugins, found=found), nothing)
    preset = found.read(keys.get("preset"), partial(choice, enum=Preset), Preset.DEFAULT)
    search = found.read(keys.get("search"), partial(read_search, found=found), None)
    axes, grid, exclude = _grid(keys, preset, search, found)
    if "preset" in keys and "preset" in grid.settings:
        found.add(keys["preset"], "preset is an axis of this grid already; say it there alone")
    victims = found.read(
        keys.get("victim"), partial(read_victim, grid=axes, found=found), VictimSection()
    )
    if axes is not None and "import" not in _keys_of(keys.get("victim")):
        _refuse_imported(axes.axes, found)
    study = Study(
        name=found.read(keys.get("name"), _name, ""),
        source=path,
        plugins=plugins,
        grid=grid,
        preset=preset,
        exclude=exclude,
        search=search,
        victim=victims.recipe,
        imports=victims.imports,
        victim_rule=victims.rule,
        prune=found.read(keys.get("prune"), partial(read_prune, found=found), DEFAULT_PRUNE),
        objective=found.read(keys.get("objective"), partial(choice, enum=Objective), Objective.DER),
        resources=found.read(
            keys.get("resources"),
            partial(read_resources, architectures=_architectures(grid), found=found),
            Resources(),
        ),
        limits=found.read(keys.get("limits"), partial(read_limits, found=found), Limits()),
        budget=found.read(keys.get("budget"), partial(read_budget, found=found), Budget()),
        optuna_storage=found.read(keys.get("optuna"), partial(_optuna, found=found), None),
        mlflow=found.read(
            keys["mlflow"], partial(_tracking, found=found), Tracking(uri=Address(""))
        ),
        store=found.read(keys["store"], store_place, Address("")),
    )
    found.raise_if_any()
    return study


def missing_data(study: Study) -> list[str]:
    """Return a line for each file that is not there; a plan can do without."""
    lines = []
    for place, entry in enumerate(study.grid.attacks):
        try:
            entry.attack.identity()
        except AttackFileError as error:
            lines.append(f"grid.attack.{place}: {error}")
    for place, dataset in enumerate(study.grid.datasets):
        try:
            if dataset.info() is None:
                dataset.identity()
        except DatasetError as error:
            lines.append(f"grid.dataset.{place}: {error}")
    for place, architecture in enumerate(study.grid.architectures):
        try:
            architecture.identity()
        except WeightsError as error:
            lines.append(f"grid.architecture.{place}: {error}")
    return lines


def _top_level(root: YamlNode, found: Problems) -> dict[str, YamlNode]:
    """Return the keys of the file, and those whose defaults need work as if written there."""
    keys = mapping(root, KEYS, found)
    for key in ("name", "grid"):
        if key not in keys:
            found.add(YamlNode(path=key, place=root.place, value=None), "this key is required")
    keys.setdefault("mlflow", YamlNode(path="mlflow", place=root.place, value=None))
    keys.setdefault("store", YamlNode(path="store", place=root.place, value=DEFAULT_STORE))
    return keys


def _grid(
    keys: Mapping[str, YamlNode], preset: Preset, search: Search | None, found: Problems
) -> tuple[ImportTemplate | None, Grid, tuple[Exclusion, ...]]:
    nothing = Grid(attacks=(), datasets=(), architectures=())
    if "grid" not in keys:
        return None, nothing, ()
    with found.collecting():
        excluded = keys.get("exclude")
        axes = read_grid(keys["grid"], found, search, _axes_named(excluded))
        if axes.is_sound():
            ranges = {n: a.items[0].node for n, a in axes.settings.items() if a.range}
            check_search(keys.get("search"), search, axes.grid().settings, ranges, found)
        if axes.fits:
            exclude, kept = read_exclude(excluded, axes, found)
            check_combinations(axes, kept, preset, found)
            return ImportTemplate(axes=axes, kept=kept), axes.grid(), exclude
    return None, nothing, ()


def _axes_named(exclude: YamlNode | None) -> set[str]:
    """Return the keys of all exclusions."""
    entries = () if exclude is None else items(exclude)
    return {key for entry in entries if isinstance(entry.value, dict) for key in entry.value}


def _keys_of(node: YamlNode | None) -> Mapping[str, YamlNode]:
    return node.value if node is not None and isinstance(node.value, dict) else {}


def _refuse_imported(axes: Axes, found: Problems) -> None:
    """Note attacks that are known by an import alone, where nothing is imported."""
    for item in axes.by_name["attack"].items:
        if isinstance(item.value.attack, Imported):
            found.add(
                item.node,
                "imported attacks come with their victims; name them under victim: {import: ...}",
            )


def _plugins(node: YamlNode, found: Problems) -> tuple[Plugin, ...]:
    """Return the files that define attacks or repair methods, which are loaded here."""
    plugins: dict[str, Plugin] = {}
    for item in items(node):
        with found.collecting():
            path = absolute_path(item)
            try:
                plugin = read_plugin(Path(path))
                load_plugin(plugin)
            except PluginError as error:
                found.add(item, str(error))
                continue
            if plugin.module in plugins:
                found.add(item, f"two plugins have the file name {Path(path).name}; rename one")
            plugins[plugin.module] = plugin
    return tuple(plugins.values())


def _name(node: YamlNode) -> str:
    name = word(node)
    if not _NAME.fullmatch(name):
        rule = "letters, digits, - _ and . (not first), at most 100"
        raise fail(node, rule)
    return name


def _architectures(grid: Grid) -> list[str]:
    return [architecture.name for architecture in grid.architectures]


def _optuna(node: YamlNode, found: Problems) -> Address | None:
    storage: Address | None = section(node, {"storage": optuna_storage}, found).get("storage")
    return storage


def _tracking(node: YamlNode, found: Problems) -> Tracking:
    readers: dict[str, Reader] = {
        "uri": tracking_uri,
        "log_models": partial(choice, enum=LogModels),
        "register": truth,
    }
    default = YamlNode(path="mlflow.uri", place=node.place, value=DEFAULT_URI)
    values = section(node, readers, found)
    if values.get("register") and values.get("log_models") is LogModels.NONE:
        found.add(
            _keys_of(node)["register"],
            "a registered model is a logged one; let log_models be best or all",
        )
    return Tracking(**{"uri": tracking_uri(default), **values})
