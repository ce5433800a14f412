"""The sections of a study file on victims, pruning and resources."""

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from orchestrator.spec.axes import Axes
from orchestrator.spec.exclude import Mask, mask_of, read_conditions
from orchestrator.spec.model import (
    SCENARIO_AXES,
    STAGES,
    ArchitectureRequest,
    Budget,
    Device,
    Limits,
    Normalisation,
    Prune,
    PrunerChoice,
    ResourceRequest,
    Resources,
    VictimImport,
    VictimRule,
)
from orchestrator.spec.search_section import (
    MOST,
    REQUIRED,
    Argument,
    auto_or_whole,
    counted,
    defaults,
    in_range,
    read_arguments,
)
from orchestrator.spec.validation import (
    Reader,
    absolute_path,
    at_most,
    between,
    choice,
    fail,
    field_reader,
    fraction,
    items,
    known,
    listed,
    mapping,
    nearest,
    number,
    section,
    whole,
    word,
)
from orchestrator.spec.yaml_tree import InvalidValue, Problems, YamlNode
from ulrl.interchange import zoo_name
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.supervised import VictimConfig

_MEDIAN = {
    "n_startup_trials": counted(5),
    "n_warmup_steps": counted(0),
    "interval_steps": counted(1, low=1),
    "n_min_trials": counted(1, low=1),
}
PRUNERS: dict[str, dict[str, Argument]] = {
    "wilcoxon": {
        # Optuna's own 0.1 and 2 abandon an equally good setting in one study of five.
        "p_threshold": Argument(read=number, default=0.01, low=0, high=1),
        "n_startup_steps": counted(7),
    },
    "median": _MEDIAN,
    "percentile": {"percentile": Argument(read=number, low=0, high=100), **_MEDIAN},
    "successive_halving": {
        "min_resource": Argument(read=auto_or_whole, default="auto", low=1, most=MOST),
        "reduction_factor": counted(4, low=2),
        "min_early_stopping_rate": counted(0, most=1000),  # an exponent
        "bootstrap_count": counted(0),
    },
    "hyperband": {
        "min_resource": counted(1, low=1),
        "max_resource": Argument(read=auto_or_whole, default="auto", low=1, most=MOST),
        "reduction_factor": counted(3, low=2),
        "bootstrap_count": counted(0),
    },
    "threshold": {
        "lower": Argument(read=number, default=None),
        "upper": Argument(read=number, default=None),
        "n_warmup_steps": counted(0),
        "interval_steps": counted(1, low=1),
    },
    "patient": {
        "wrapped": Argument(read=lambda node: node),  # a pruner again, read by `_pruner`
        "patience": counted(REQUIRED),
        "min_delta": Argument(read=number, default=0.0, low=0),
    },
}
CURVE_PRUNERS = tuple(name for name in PRUNERS if name != "wilcoxon")


def read_prune(node: YamlNode, found: Problems) -> Prune:
    """Return who may abandon work; a part that is not named keeps its default."""
    if node.value == "none":
        return Prune()
    if not isinstance(node.value, dict):
        raise fail(node, "none, or a mapping with setting and curve")
    parts = mapping(node, ("setting", "curve"), found)
    readers = {"setting": _setting, "curve": _curve}
    chosen = {
        key: found.read(part, partial(readers[key], found=found), None)
        for key, part in parts.items()
    }
    return replace(DEFAULT_PRUNE, **chosen)


def _setting(node: YamlNode, found: Problems) -> PrunerChoice | None:
    if node.value == "none":
        return None
    place, name, given = _name_and_arguments(node, "wilcoxon")
    if name in CURVE_PRUNERS:
        raise InvalidValue(
            place,
            f"setting admits wilcoxon only: {name} compares curves, which have no meaning "
            f"across scenarios; got {name!r}",
        )
    return _pruner(place, name, given, found)


def _curve(node: YamlNode, found: Problems) -> PrunerChoice | None:
    if node.value == "none":
        return None
    place, name, given = _name_and_arguments(node, None)
    if name == "wilcoxon":
        raise InvalidValue(
            place,
            f"{node.name} admits {listed(CURVE_PRUNERS, ' or ')}: wilcoxon compares settings "
            f"across scenarios; got 'wilcoxon'",
        )
    return _pruner(place, name, given, found)


def _name_and_arguments(
    node: YamlNode, default: str | None
) -> tuple[YamlNode, str, dict[str, YamlNode]]:
    """Return where the pruner is named, its name and its arguments."""
    if isinstance(node.value, str):
        return node, node.value, {}
    if not isinstance(node.value, dict):
        raise fail(node, "none, a pruner's name, or a mapping with pruner and its arguments")
    given = dict(node.value)
    if "pruner" in given:
        named = given.pop("pruner")
        return replace(named, path=node.path), word(named), given
    if default is None:
        raise InvalidValue(
            node, f"{node.name} names no pruner; write {{pruner: median}} or another"
        )
    return node, default, given


def _pruner(
    node: YamlNode, name: str, given: Mapping[str, YamlNode], found: Problems
) -> PrunerChoice:
    if name == "nop":
        raise InvalidValue(node, "nop is Optuna's word for no pruner; write none")
    if name not in PRUNERS:
        text = f"no pruner is called {name!r}" + nearest(name, PRUNERS, "there are")
        raise InvalidValue(node, text)
    table = PRUNERS[name]

    def read(place: YamlNode, key: str) -> Any:
        return _curve(place, found) if key == "wrapped" else in_range(place, table[key])

    chosen = read_arguments(node, name, table, given, found, read)
    if name in _JOINT_RULES and (complaint := _JOINT_RULES[name](chosen)):
        raise InvalidValue(node, complaint)
    return PrunerChoice(pruner=name, arguments=chosen)


DEFAULT_PRUNE = Prune(
    setting=PrunerChoice(pruner="wilcoxon", arguments=defaults(PRUNERS["wilcoxon"]))
)


def _no_bootstrap_with(resource: str) -> Callable[[Mapping[str, Any]], str]:
    def rule(arguments: Mapping[str, Any]) -> str:
        if arguments["bootstrap_count"] == 0 or arguments[resource] != "auto":
            return ""
        count = arguments["bootstrap_count"]
        return f"bootstrap_count above 0 needs {resource} as a number, not auto; got {count}"

    return rule


def _hyperband(arguments: Mapping[str, Any]) -> str:
    low, high = arguments["min_resource"], arguments["max_resource"]
    if high != "auto" and high < low:
        return f"max_resource is at least min_resource, {low}; got {high}"
    return _no_bootstrap_with("max_resource")(arguments)


def _threshold(arguments: Mapping[str, Any]) -> str:
    lower, upper = arguments.get("lower"), arguments.get("upper")
    if lower is None and upper is None:
        return "threshold needs lower or upper"
    if lower is not None and upper is not None and lower > upper:
        return f"lower is at most upper, {upper}; got {lower}"
    return ""


_JOINT_RULES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "successive_halving": _no_bootstrap_with("min_resource"),
    "hyperband": _hyperband,
    "threshold": _threshold,
}


T = TypeVar("T")
MOST_HOURS = 24 * 366 * 10  # ten years: a larger number is in seconds
MOST_CPUS, MOST_GPUS = 1024, 64  # of one worker: no machine has more
# Stages that run inside another's item and have no worker of their own.
INNER = {"score_neurons": "unlearn", "evaluate": "train_victim and relearn"}


def read_resources(node: YamlNode, architectures: Iterable[str], found: Problems) -> Resources:
    """Return the section ``resources``; `architectures` are the names in the grid."""
    names = sorted(set(architectures))
    by_stage = partial(_by_stage, read=partial(_ask, found=found), found=found)
    readers: dict[str, Reader] = {
        "workers": _times,
        "cpu": _cpus,
        "gpu": _gpu,
        "device": partial(choice, enum=Device),
        "stages": by_stage,
        "architectures": partial(_by_architecture, names=names, by_stage=by_stage, found=found),
    }
    resources = Resources(**section(node, readers, found))
    _check_cpus(node, resources, found)
    _check_gpus(node, resources, found)
    return resources


def read_limits(node: YamlNode, found: Problems) -> Limits:
    """Return the section ``limits``."""
    readers: dict[str, Reader] = {
        "minutes": partial(_minutes, found=found),
        "attempts": _times,
    }
    return Limits(**section(node, readers, found))


def read_budget(node: YamlNode, found: Problems) -> Budget:
    """Return the section ``budget``."""
    readers: dict[str, Reader] = {
        "hours": partial(_duration, most=MOST_HOURS),
        "trials": _times,
    }
    return Budget(**section(node, readers, found))


def _count(most: int) -> Callable[[YamlNode], int]:
    """Return a reader of whole numbers from 1 to `most`."""

    def read(node: YamlNode) -> int:
        count = whole(node)
        between(node, count, 1)
        at_most(node, count, most)
        return count

    return read


_cpus, _times = _count(MOST_CPUS), _count(1_000_000)


def _gpu(node: YamlNode) -> float:
    share = number(node)
    between(node, share, 0)
    at_most(node, share, MOST_GPUS)
    if share > 1 and not share.is_integer():
        raise fail(node, "at most 1, or a whole number")
    return share


def _ask(node: YamlNode, found: Problems) -> ResourceRequest:
    return ResourceRequest(**section(node, {"cpu": _cpus, "gpu": _gpu}, found))


def _by_stage(node: YamlNode, read: Callable[[YamlNode], T], found: Problems) -> Mapping[str, T]:
    refused = {
        stage: f"{stage} has no worker of its own; it runs with {other}"
        for stage, other in INNER.items()
    }
    values: dict[str, T] = {}
    for stage, part in mapping(node, STAGES, found, refused).items():
        with found.collecting():
            values[stage] = read(part)
    return values


def _by_architecture(
    node: YamlNode, names: list[str], by_stage: Reader, found: Problems
) -> Mapping[str, ArchitectureRequest]:
    if not isinstance(node.value, dict):
        raise fail(node, "a mapping of architectures to what each takes")
    complaint = "no architecture of this grid is called {!r}"
    readers: dict[str, Reader] = {"cpu": _cpus, "gpu": _gpu, "stages": by_stage}
    entries = known(node.value, names, found, complaint, "they are") if names else node.value
    values = {}
    for name, part in entries.items():
        with found.collecting():
            values[name] = ArchitectureRequest(**section(part, readers, found))
    return values


def _minutes(node: YamlNode, found: Problems) -> Mapping[str, float]:
    read = partial(_duration, most=MOST_HOURS * 60)
    if isinstance(node.value, dict):
        return _by_stage(node, read, found)
    return dict.fromkeys(STAGES, read(node))


def _duration(node: YamlNode, most: float) -> float:
    value = number(node)
    if not 0 < value <= most:
        raise fail(node, f"above 0 and at most {most:g}")
    return value


def _check_cpus(node: YamlNode, resources: Resources, found: Problems) -> None:
    """Note where fewer CPUs are asked for than torch has threads."""
    for ask in _nested(node):
        cpu = ask.value.get("cpu") if isinstance(ask.value, dict) else None
        with suppress(InvalidValue):  # what is no number of CPUs is noted where it is read
            if cpu is not None and _cpus(cpu) < resources.cpu:
                rule = f"at least resources.cpu, torch's threads, which are {resources.cpu}"
                found.add(cpu, str(fail(cpu, rule)))


def _check_gpus(node: YamlNode, resources: Resources, found: Problems) -> None:
    """Note a study that would compute on two kinds of device, or on one that it lacks."""
    gpus = resources.gpus
    if 0 in gpus and any(gpus):
        found.add(
            node,
            "all stages have a share of a GPU or none has: a study computes on one kind of "
            "device; gpu is 0 in one place and above 0 in another",
        )
    if resources.device is Device.CUDA and 0 in gpus:
        found.add(node, "device cuda wants a share of a GPU; gpu is 0")


def _nested(node: YamlNode) -> Iterable[YamlNode]:
    """Yield the lines of a section that ask for stages and architectures."""
    parts: Any = node.value if isinstance(node.value, dict) else {}
    for key in ("stages", "architectures"):
        inner = parts[key].value if key in parts else None
        for ask in (inner if isinstance(inner, dict) else {}).values():
            yield ask
            if key == "architectures":
                yield from _nested(ask)


BACKDOORBENCH = "backdoorbench"
PLACES = ("path", BACKDOORBENCH)
NUMBERS = ("mean", "std")
BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, kw_only=True)
class VictimSection:
    """What the section says."""

    recipe: VictimRecipe = field(default_factory=VictimRecipe)
    rule: VictimRule = field(default_factory=VictimRule)
    imports: tuple[VictimImport, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImportTemplate:
    """The grid that victims are for: its axes, and what of them is left."""

    axes: Axes
    kept: Mask


def read_victim(node: YamlNode, grid: ImportTemplate | None, found: Problems) -> VictimSection:
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
        return VictimSection(rule=rule, imports=imports)
    recipe = VictimRecipe(recipe=values.pop("recipe", Recipe.FAST), changes=values)
    _check_recipe(node, recipe, grid, found)
    return VictimSection(recipe=recipe, rule=rule)


def _check_recipe(
    node: YamlNode, recipe: VictimRecipe, grid: ImportTemplate | None, found: Problems
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
    node: YamlNode, grid: ImportTemplate | None, found: Problems
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


def _read_import(node: YamlNode, axes: Axes, found: Problems) -> VictimImport:
    if isinstance(node.value, str):
        return VictimImport(path=_template(node))
    if not isinstance(node.value, dict):
        raise fail(node, "a path, or a mapping with a path and the scenarios it serves")
    given = dict(node.value)
    places = {key: given.pop(key) for key in PLACES if key in given}
    if len(places) > 1:
        raise InvalidValue(node, f"the entry has both {' and '.join(places)}; leave one out")
    if not places:
        raise InvalidValue(node, "the entry has no path; write {path: FOLDER, attack: ..., ...}")
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


def _normalisation(node: YamlNode, given: Mapping[str, YamlNode]) -> Normalisation:
    for key in NUMBERS:
        if key not in given:
            raise InvalidValue(node, f"mean and std go together; add {key}")
    values = {key: tuple(number(item) for item in items(part)) for key, part in given.items()}
    try:
        return Normalisation(**values)
    except ValueError as error:
        at = next(given[key] for key in NUMBERS if str(error).startswith(key))
        raise InvalidValue(at, str(error)) from error


def _template(node: YamlNode) -> str:
    """Return a path in which ``{AXIS}`` stands for a scenario's value, and nothing else is special.

    The text is never given to Python's own formatting, whose instructions can fail and can ask
    for any amount of memory.
    """
    path = absolute_path(node)
    if re.search(r"[{}]", BRACES.sub("", path)):
        raise InvalidValue(node, f"{node.name} is a path with axes in braces; each {{ needs its }}")
    for name in BRACES.findall(path):
        if name in SCENARIO_AXES:
            continue
        stem = re.match(r"\w*", name)
        if stem and stem[0] in SCENARIO_AXES:
            text = f"braces hold an axis and no format; write {{{stem[0]}}}, not {{{name}}}"
            raise InvalidValue(node, text)
        hint = nearest(name, SCENARIO_AXES, "there are")
        raise InvalidValue(node, f"no scenario axis is called {name!r}{hint}")
    return path


def _check_cover(
    node: YamlNode, entries: list[VictimImport], grid: ImportTemplate, found: Problems
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
