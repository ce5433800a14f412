"""The section `victim`: how victims are trained, or where pre-trained ones are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from typing import Any, get_type_hints

import numpy as np

from orchestrator.spec.axes import Axes, place_of
from orchestrator.spec.exclude import mask_of, read_conditions, way_out
from orchestrator.spec.model import (
    BRACES,
    SCENARIO_AXES,
    Normalisation,
    VictimImport,
    VictimRule,
)
from orchestrator.spec.rules import AbsolutePath, nearest
from orchestrator.spec.validation import Reader, field_reader, read, rules_of
from orchestrator.spec.yaml_tree import InvalidValue, YamlNode
from ulrl.attacks.imported import Imported
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.supervised import VictimConfig

BACKDOORBENCH = "backdoorbench"
PLACES = ("path", BACKDOORBENCH)
NUMBERS = ("mean", "std")


def read_victim(node: YamlNode | None, axes: Axes | None) -> dict[str, Any]:
    """Return the parts of a `Study` that the section says; what is wrong is noted.

    Raises:
        InvalidValue: It is no mapping.
    """
    imported = node is not None and "import" in node.entries
    for item in axes.items["attack"] if axes is not None else ():
        if not imported and isinstance(item.value.attack, Imported):
            item.node.note(
                "imported attacks come with their victims; name them under victim: {import: ...}"
            )
        if imported and item.value.attack.benign:
            item.node.note(
                "a benign model is trained, and the victims of this study are imported; study it "
                "in a file of its own"
            )
    if node is None:
        return {}
    rules = get_type_hints(VictimRule, include_extras=True)
    readers: dict[str, Reader] = {key: partial(read, hint=hint) for key, hint in rules.items()}
    training: dict[str, Reader] = {"recipe": partial(read, hint=Recipe)}
    for part in fields(VictimConfig):
        training[part.name] = field_reader(VictimConfig, part.name)[0]
    values: dict[str, Any] = {}
    imports: tuple[VictimImport, ...] = ()
    keys = (*training, *rules, "import")
    for key, entry in node.known(keys, partial(place_of, here="the section victim")).items():
        with node.problems.collecting():
            if key == "import":
                imports = _read_imports(entry, axes)
            elif imported and key in training:
                text = "the victims of this study are imported, so nothing is trained"
                entry.note(f"{text}; leave this out")
            else:
                values[key] = (readers | training)[key](entry)
    rule = VictimRule(**{key: values.pop(key) for key in rules if key in values})
    recipe = VictimRecipe(recipe=values.pop("recipe", Recipe.FAST), changes=values)
    if axes is not None and not imported:
        _check_recipe(node, recipe, axes)
    return {"victim": recipe, "imports": imports, "victim_rule": rule}


def _check_recipe(node: YamlNode, recipe: VictimRecipe, axes: Axes) -> None:
    """Note why a dataset or attack of the grid cannot have a recipe."""
    datasets = {item.value.name for item in axes.items["dataset"]}
    attacks = {item.value.attack.name for item in axes.items["attack"]}
    for dataset, attack in product(sorted(datasets), sorted(attacks)):
        with node.problems.collecting(), rules_of(node):
            recipe.config(dataset, attack)


def _read_imports(node: YamlNode, axes: Axes | None) -> tuple[VictimImport, ...]:
    if node.value in (None, ()):
        raise InvalidValue(node, "import has no values; name a folder, or list at least one")
    if axes is None:
        return ()
    before = node.problems.count
    entries = []
    for entry in node.items:
        with node.problems.collecting():
            entries.append(_read_import(entry, axes))
    if node.problems.count == before and not axes.unsound:
        _check_cover(node, entries, axes)
    return tuple(entries)


def _read_import(node: YamlNode, axes: Axes) -> VictimImport:
    if isinstance(node.value, str):
        return VictimImport(path=_template(node))
    if not isinstance(node.value, dict):
        raise node.invalid("a path, or a mapping with a path and the scenarios it serves")
    given = node.known((*PLACES, *NUMBERS, *SCENARIO_AXES))
    places = {key: given.pop(key) for key in PLACES if key in given}
    if len(places) > 1:
        raise InvalidValue(node, f"the entry has both {' and '.join(places)}; leave one out")
    if not places:
        raise InvalidValue(node, "the entry has no path; write {path: FOLDER, attack: ..., ...}")
    ((kind, place),) = places.items()
    numbers = {key: given.pop(key) for key in NUMBERS if key in given}
    conditions = read_conditions(replace(node, value=given), axes) if given else {}
    return VictimImport(
        path=_template(place),
        backdoorbench=kind == BACKDOORBENCH,
        normalisation=_normalisation(node, numbers) if numbers else None,
        conditions=conditions,
    )


def _normalisation(node: YamlNode, given: Mapping[str, YamlNode]) -> Normalisation:
    for key in NUMBERS:
        if key not in given:
            raise InvalidValue(node, f"mean and std go together; add {key}")
    values = {key: read(part, tuple[float, ...]) for key, part in given.items()}
    with rules_of(node):
        return Normalisation(**values)


def _template(node: YamlNode) -> str:
    """Return a path in which ``{AXIS}`` stands for a scenario's value, and nothing else is special.

    The text is never given to Python's own formatting, whose instructions can fail and can ask
    for any amount of memory.
    """
    path: str = read(node, AbsolutePath)
    if re.search(r"[{}]", BRACES.sub("", path)):
        raise InvalidValue(node, f"{node.name} is a path with axes in braces; each {{ needs its }}")
    for name in BRACES.findall(path):
        stem = re.match(r"\w*", name)
        if name not in SCENARIO_AXES and stem and stem[0] in SCENARIO_AXES:
            text = f"braces hold an axis and no format; write {{{stem[0]}}}, not {{{name}}}"
            raise InvalidValue(node, text)
        if name not in SCENARIO_AXES:
            hint = nearest(name, SCENARIO_AXES, "there are")
            raise InvalidValue(node, f"no scenario axis is called {name!r}{hint}")
    return path


def _check_cover(node: YamlNode, entries: Sequence[VictimImport], axes: Axes) -> None:
    """Note an entry that serves nothing, and a scenario that nothing serves."""
    served = np.zeros_like(axes.left)
    for entry, place in zip(entries, node.items, strict=True):
        own = mask_of(entry.conditions, axes)
        if not (own & axes.left).any():
            place.note("the entry matches nothing in the grid")
        served |= own
    for bare in np.argwhere(axes.left & ~served)[:1]:
        dimensions = axes.dimensions.items()
        point = {name: items[place] for (name, items), place in zip(dimensions, bare, strict=True)}
        attack, ratio = (item.value for item in point.pop("poisoning"))
        others = [point[name].value.label for name in ("dataset", "architecture")]
        values = {"attack": attack, "poison_ratio": ratio}
        values |= {name: point[name].value for name in SCENARIO_AXES if name in point}
        several = {n: v for n, v in values.items() if len({*map(str, axes.column(n))}) > 1}
        text = f"no entry serves {attack.attack.name}, {', '.join(others)}; add one"
        node.note(f"{text}, or {way_out(axes, several)}")
