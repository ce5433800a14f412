"""The `victim` section: how victims are trained, or where they are imported from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.definition import SCENARIO_AXES, Normalisation, VictimImport, VictimRule
from orchestrator.spec_exclude import Mask, mask_of, read_conditions
from orchestrator.spec_findings import Findings, Node, Wrong
from orchestrator.spec_grid import Axes
from orchestrator.spec_places import absolute_path
from orchestrator.spec_values import (
    Reader,
    choice,
    fail,
    field_reader,
    fraction,
    items,
    mapping,
    nearest,
    number,
)
from ulrl.interchange import zoo_name
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.supervised import VictimConfig

BACKDOORBENCH = "backdoorbench"
PLACES = ("path", BACKDOORBENCH)
NUMBERS = ("mean", "std")
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class Victims:
    """What the section says."""

    recipe: VictimRecipe = field(default_factory=VictimRecipe)
    rule: VictimRule = field(default_factory=VictimRule)
    imports: tuple[VictimImport, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Combinations:
    """The grid that victims are for: its axes, and what of them is left."""

    axes: Axes
    kept: Mask


def read_victim(node: Node, grid: Combinations | None, found: Findings) -> Victims:
    """Return the section, with the values that are right; the others are noted."""
    training: dict[str, Reader] = {
        "recipe": partial(choice, enum=Recipe),
        **{part.name: field_reader(VictimConfig, part.name)[0] for part in fields(VictimConfig)},
    }
    rules: dict[str, Reader] = {"min_acc": fraction, "min_asr": fraction}
    parts = mapping(node, (*training, *rules, "import"), found)
    values: dict[str, Any] = {}
    for key, part in parts.items():
        with found.collecting():
            if key in rules | training:
                values[key] = (rules | training)[key](part)
    rule = VictimRule(**{key: values.pop(key) for key in rules if key in values})
    if "import" in parts:
        for key in parts.keys() & training.keys():
            text = "the victims of this study are imported, so nothing is trained; leave this out"
            found.add(parts[key], text)
        imports = _read_imports(parts["import"], grid, found)
        return Victims(rule=rule, imports=imports)
    recipe = VictimRecipe(recipe=values.pop("recipe", Recipe.FAST), changes=values)
    _check_recipe(node, recipe, grid, found)
    return Victims(recipe=recipe, rule=rule)


def _check_recipe(
    node: Node, recipe: VictimRecipe, grid: Combinations | None, found: Findings
) -> None:
    """Note what forbids a recipe for one of the datasets and attacks."""
    if grid is None:
        return
    datasets = {item.value.name for item in grid.axes.by_name["dataset"].items}
    attacks = {item.value.attack.name for item in grid.axes.by_name["attack"].items}
    messages = set()
    for dataset, attack in product(datasets, attacks):
        try:
            recipe.config(dataset, attack)
        except ValueError as error:
            messages.add(str(error))
    for message in sorted(messages):
        found.add(node, message)


def _read_imports(
    node: Node, grid: Combinations | None, found: Findings
) -> tuple[VictimImport, ...]:
    if node.value in (None, ()):
        found.add(node, "import has no values; name a folder, or list at least one")
        return ()
    if grid is None:
        return ()
    before = len(found)
    entries = []
    for entry in items(node):
        with found.collecting():
            entries.append(_read_import(entry, grid.axes, found))
    if len(found) == before and grid.axes.is_sound():
        _check_cover(node, entries, grid, found)
    return tuple(entries)


def _read_import(node: Node, axes: Axes, found: Findings) -> VictimImport:
    if isinstance(node.value, str):
        return VictimImport(path=_template(node))
    if not isinstance(node.value, dict):
        raise fail(node, "a path, or a mapping with a path and the scenarios it serves")
    given = dict(node.value)
    places = {key: given.pop(key) for key in PLACES if key in given}
    if len(places) > 1:
        raise Wrong(node, f"the entry has both {' and '.join(places)}; leave one out")
    if not places:
        raise Wrong(node, "the entry has no path; write {path: FOLDER, attack: ..., ...}")
    ((kind, place),) = places.items()
    path = _template(place)
    numbers = {key: given.pop(key) for key in NUMBERS if key in given}
    normalisation = _normalisation(node, numbers) if numbers else None
    for key in [key for key in given if key not in SCENARIO_AXES]:
        hint = nearest(key, (*SCENARIO_AXES, *PLACES, *NUMBERS), "there are")
        found.add(given.pop(key), f"no scenario axis is called {key!r}{hint}")
    conditions: Mapping[str, tuple[Any, ...]] = {}
    if given:
        conditions = read_conditions(replace(node, value=given), axes, found)
    return VictimImport(
        path=path,
        backdoorbench=kind == BACKDOORBENCH,
        normalisation=normalisation,
        conditions=conditions,
    )


def _normalisation(node: Node, given: Mapping[str, Node]) -> Normalisation:
    for key in NUMBERS:
        if key not in given:
            raise Wrong(node, f"mean and std go together; add {key}")
    values = {key: tuple(number(item) for item in items(part)) for key, part in given.items()}
    try:
        return Normalisation(**values)
    except ValueError as error:
        at = next(given[key] for key in NUMBERS if str(error).startswith(key))
        raise Wrong(at, str(error)) from error


def _template(node: Node) -> str:
    """Return a path in which ``{AXIS}`` stands for a scenario's value, and nothing else is special.

    The text is never given to Python's own formatting, whose instructions can fail and can ask
    for any amount of memory.
    """
    path = absolute_path(node)
    if re.search(r"[{}]", BRACES.sub("", path)):
        raise Wrong(node, f"{node.name} is a path with axes in braces; each {{ needs its }}")
    for name in BRACES.findall(path):
        if name in SCENARIO_AXES:
            continue
        stem = re.match(r"\w*", name)
        if stem and stem[0] in SCENARIO_AXES:
            text = f"braces hold an axis and no format; write {{{stem[0]}}}, not {{{name}}}"
            raise Wrong(node, text)
        hint = nearest(name, SCENARIO_AXES, "there are")
        raise Wrong(node, f"no scenario axis is called {name!r}{hint}")
    return path


def _check_cover(
    node: Node, entries: list[VictimImport], grid: Combinations, found: Findings
) -> None:
    """Note an entry that serves nothing, and a scenario that nothing serves."""
    served = np.zeros_like(grid.kept)
    for entry, place in zip(entries, items(node), strict=True):
        own = mask_of(entry.conditions, grid.axes)
        if not (own & grid.kept).any():
            found.add(place, "the entry matches nothing in the grid")
        served |= own
    bare = np.argwhere(grid.kept & ~served)
    if len(bare):
        names = list(grid.axes.dimensions)
        point = {
            name: values[place]
            for (name, values), place in zip(grid.axes.dimensions.items(), bare[0], strict=True)
            if name in ("poisoning", "dataset", "architecture")
        }
        attack = point[names[0]].attack.value.attack.name
        others = [point[name].value.label for name in ("dataset", "architecture")]
        text = f"no entry serves {attack}, {', '.join(others)}; add one, or exclude it"
        found.add(node, text)


def import_path(entry: VictimImport, names: Mapping[str, Any]) -> str:
    """Return where an entry's victim lies, for a scenario's values by axis."""
    path = Path(BRACES.sub(lambda found: str(names[found[1]]), entry.path))
    if entry.backdoorbench:
        axes = ("dataset", "architecture", "attack", "poison_ratio")
        path /= zoo_name(**{axis: names[axis] for axis in axes})
    return str(path)
