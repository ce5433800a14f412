"""Sections with rules of their own: `victim`, `search` and `prune`.

The last two have Optuna's argument names, so a file is checked without importing Optuna; tests
hold the tables and Optuna together.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

import numpy as np
from pydantic import ConfigDict, Field, create_model

from orchestrator.spec.axes import Axes
from orchestrator.spec.entries import place_of
from orchestrator.spec.exclude import mask_of, read_conditions, way_out
from orchestrator.spec.model import (
    BRACES,
    SCENARIO_AXES,
    Fraction,
    Grid,
    Normalisation,
    Prune,
    PrunerChoice,
    Search,
    VictimImport,
    VictimRule,
)
from orchestrator.spec.rules import AbsolutePath, nearest
from orchestrator.spec.space import DrawnMethod, Range, is_open
from orchestrator.spec.validation import Reader, field_reader, named_in, read, rules_of
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


# A type and a default for each argument: ... is required, None is left to Optuna.
Table: TypeAlias = Mapping[str, tuple[Any, Any]]
MOST = 1_000_000  # a study has as many trials


def _from(low: int, most: int = MOST) -> Any:
    """Return the type of a whole number from `low` to `most`, which Optuna still takes."""
    return Annotated[int, Field(ge=low, le=most)]


_AUTO = _from(1) | Literal["auto"]
_MEDIAN = {
    "n_startup_trials": (_from(0), 5),
    "n_warmup_steps": (_from(0), 0),
    "interval_steps": (_from(1), 1),
    "n_min_trials": (_from(1), 1),
}
PRUNERS: dict[str, Table] = {
    # Optuna's own 0.1 and 2 abandon an equally good setting in one study of five.
    "wilcoxon": {"p_threshold": (Fraction, 0.01), "n_startup_steps": (_from(0), 7)},
    "median": _MEDIAN,
    "percentile": {"percentile": (Annotated[float, Field(ge=0, le=100)], ...), **_MEDIAN},
    "successive_halving": {
        "min_resource": (_AUTO, "auto"),
        "reduction_factor": (_from(2), 4),
        "min_early_stopping_rate": (_from(0, 1000), 0),  # an exponent
        "bootstrap_count": (_from(0), 0),
    },
    "hyperband": {
        "min_resource": (_from(1), 1),
        "max_resource": (_AUTO, "auto"),
        "reduction_factor": (_from(2), 3),
        "bootstrap_count": (_from(0), 0),
    },
    "threshold": {
        "lower": (float | None, None),
        "upper": (float | None, None),
        "n_warmup_steps": (_from(0), 0),
        "interval_steps": (_from(1), 1),
    },
    "patient": {
        "wrapped": (Any, ...),  # a pruner again
        "patience": (_from(0), ...),
        "min_delta": (Annotated[float, Field(ge=0)], 0.0),
    },
}
CURVE_PRUNERS = tuple(name for name in PRUNERS if name != "wilcoxon")
SAMPLERS: dict[str, Table] = {
    "tpe": {
        "n_startup_trials": (_from(0), 10),
        "n_ei_candidates": (_from(1, 100_000), 24),
        "multivariate": (bool | None, None),
        "constant_liar": (bool, True),
    },
    "qmc": {"qmc_type": (Literal["sobol", "halton"], "sobol"), "scramble": (bool, False)},
    "random": {},
    "cmaes": {
        "n_startup_trials": (_from(0), 1),
        "consider_pruned_trials": (bool, False),
        "popsize": (_from(2, 100_000) | None, None),
        "use_separable_cma": (bool, False),
        "with_margin": (bool, False),
        "lr_adapt": (bool, False),
    },
    "gp": {"n_startup_trials": (_from(0), 10), "deterministic_objective": (bool, False)},
}
# NumPy, which Optuna draws with, takes seeds of 32 bits.
_SEARCH: Table = {"settings": (_from(1), ...), "seed": (_from(0, 2**32 - 1), 0)}
EXAMPLE = "search: {sampler: tpe, settings: 40}"
FEWEST_RANGES = {"cmaes": 2}  # that a sampler can draw from at all


def read_search(node: YamlNode) -> Search:
    """Return how settings are drawn."""
    if not isinstance(node.value, dict):
        raise node.invalid("a mapping", f"; write {EXAMPLE}")
    missing = [key for key in ("sampler", "settings") if key not in node.value]
    if missing:
        raise InvalidValue(node, f"search needs {' and '.join(missing)}; write {EXAMPLE}")
    given = dict(node.value)
    sampler, tables = given.pop("sampler"), {name: {**_SEARCH, **t} for name, t in SAMPLERS.items()}
    name, chosen = _read_arguments(sampler, "sampler", replace(node, value=given), tables)
    ways = [key for key in ("use_separable_cma", "with_margin", "lr_adapt") if chosen.get(key)]
    if len(ways) > 1:  # Optuna's CMA-ES would refuse them
        raise InvalidValue(node, f"{' and '.join(ways)} exclude each other; choose one")
    settings, seed = chosen.pop("settings"), chosen.pop("seed")
    return Search(sampler=name, settings=settings, seed=seed, arguments=chosen)


def read_prune(node: YamlNode) -> Prune:
    """Return who may abandon work; a part that is not named keeps its default."""
    if node.value == "none":
        return Prune()
    if not isinstance(node.value, dict):
        raise node.invalid("none, or a mapping with setting and curve")
    chosen = {}
    for level, part in node.known(("setting", "curve")).items():
        with node.problems.collecting():
            chosen[level] = _read_pruner(part)
    return replace(DEFAULT_PRUNE, **chosen)


def _read_pruner(node: YamlNode) -> PrunerChoice | None:
    """Return the pruner of a level, or the one that another wraps."""
    if node.value == "none":
        return None
    given = dict(node.entries)
    named = node if isinstance(node.value, str) else given.pop("pruner", None)
    if not isinstance(node.value, str | dict):
        raise node.invalid("none, a pruner's name, or a mapping with pruner and its arguments")
    if named is None and node.name == "setting":
        named = node.child("pruner", "wilcoxon")
    if named is None:
        raise InvalidValue(
            node, f"{node.name} names no pruner; write {{pruner: median}} or another"
        )
    if named.value == "nop":
        raise InvalidValue(named, "nop is Optuna's word for no pruner; write none")
    if named.shown.strip("'") in PRUNERS and (named.value == "wilcoxon") != (
        node.name == "setting"
    ):
        valid = "wilcoxon" if node.name == "setting" else " or ".join(CURVE_PRUNERS)
        reason = "wilcoxon compares settings across scenarios, the others curves within one"
        raise InvalidValue(named, f"{node.name} admits {valid}: {reason}; got {named.shown}")
    name, chosen = _read_arguments(named, "pruner", replace(node, value=given), PRUNERS)
    if "wrapped" in given:
        chosen["wrapped"] = _read_pruner(given["wrapped"])
    if complaint := _joint_rule(name, chosen):
        raise InvalidValue(named_in(complaint, node), complaint)
    return PrunerChoice(pruner=name, arguments=chosen)


def _read_arguments(
    named: YamlNode, word: str, node: YamlNode, tables: Mapping[str, Table]
) -> tuple[str, dict[str, Any]]:
    """Return the name of a sampler or pruner, and all arguments that it has."""
    name = read(named, str)
    if name not in tables:
        end = nearest(name, tables, "there are")
        raise InvalidValue(named, f"no {word} is called {name!r}{end}")
    table: Any = tables[name]
    model: Any = create_model(name, __config__=ConfigDict(extra="forbid"), **table)
    chosen = read(node, model)
    given = chosen.model_fields_set
    return name, {key: value for key, value in chosen if value is not None or key in given}


def _joint_rule(name: str, chosen: Mapping[str, Any]) -> str:
    """Return why Optuna would refuse arguments together, or never prune with them."""
    lower, upper = chosen.get("lower"), chosen.get("upper")
    if name == "threshold" and lower is None and upper is None:
        return "threshold needs lower or upper"
    if lower is not None and upper is not None and lower > upper:
        return f"lower is at most upper, {upper}; got {lower}"
    resources = ("max_resource",) if name == "hyperband" else ("min_resource",)
    low, high = chosen.get("min_resource"), chosen.get("max_resource", "auto")
    if high != "auto" and high < low:
        return f"max_resource is at least min_resource, {low}; got {high}"
    for resource in resources:
        if chosen.get("bootstrap_count") and chosen[resource] == "auto":
            count = chosen["bootstrap_count"]
            return f"bootstrap_count above 0 needs {resource} as a number, not auto; got {count}"
    return ""


DEFAULT_PRUNE = Prune(
    setting=PrunerChoice(
        pruner="wilcoxon",
        arguments={key: default for key, (_, default) in PRUNERS["wilcoxon"].items()},
    )
)


def check_search(node: YamlNode | None, search: Search | None, axes: Axes) -> None:
    """Note ranges that no sampler draws from, and a sampler that has nothing to draw.

    The section and what it says are None where there is none or it is wrong.
    """
    grid = axes.grid()
    if node is None:
        _note_ranges(grid, axes)
    if node is None or search is None:
        return
    if is_open(grid.settings.get("defence_seed", ())):
        node.note(
            "a sampler would draw defence_seed as if it were a hyper-parameter; give one value, or "
            "list the settings in place of search to have each run with several"
        )
    _note_oracles(node, grid, axes)
    # A method whose one setting there is stands beside the others as it is.
    spaces = {
        method: space
        for method, space in grid.spaces.items()
        if any(is_open(axis) for axis in space.axes.values())
    }
    if not spaces:
        node.note("there is nothing to draw: no setting axis of the grid has a choice")
        return
    most = max(space.size for space in spaces.values())
    if search.settings > most:
        of = "there are" if len(grid.spaces) == 1 else "there are of any repair method"
        node.at(["settings"]).note(f"settings is at most the {most:,} {of}; got {search.settings}")
    for method, space in spaces.items():
        if len(space.ranges) < FEWEST_RANGES.get(search.sampler, 0):
            of = "" if len(grid.spaces) == 1 else f" of {method}"
            node.note(
                f"{search.sampler} needs at least two ranges{of}, since it draws from lists at "
                f"random; take tpe, or write ranges"
            )


def _note_oracles(node: YamlNode, grid: Grid, axes: Axes) -> None:
    way_out = "out of the grid, or list the settings in place of search"
    if grid.settings.get("suspects", (None,)) != (None,):
        node.note(
            f"a sampler would learn from suspects that no defence knows; leave them {way_out}"
        )
    for item in axes.items.get("repair", ()):
        entry = item.value
        drawn = isinstance(entry, DrawnMethod)
        rule = dict(entry.fixed).get("rule") if drawn else getattr(entry, "rule", None)
        if rule == "oracle":
            item.node.note(
                f"a sampler would learn from rule oracle, which no defence can follow; leave it "
                f"{way_out}"
            )


def _note_ranges(grid: Grid, axes: Axes) -> None:
    text = f"a range is drawn from by a sampler; add {EXAMPLE}, or list values"
    for name, axis in grid.settings.items():
        if isinstance(axis, Range):
            axes.items[name][0].node.note(text)
    for item in axes.items.get("repair", ()):
        for option, _ in item.value.ranges if isinstance(item.value, DrawnMethod) else ():
            item.options[option].note(text)
