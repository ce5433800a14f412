"""Ranges, samplers and their arguments in a study file.

So a file is checked without importing Optuna; tests hold the tables and Optuna together.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from orchestrator.spec.model import Search
from orchestrator.spec.space import Range, Space, Span, is_open
from orchestrator.spec.validation import (
    Reader,
    at_most,
    between,
    fail,
    known,
    listed,
    nearest,
    number,
    truth,
    whole,
    word,
)
from orchestrator.spec.yaml_tree import InvalidValue, Problems, YamlNode

REQUIRED = object()


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument; a default of None is left to Optuna."""

    read: Reader
    default: Any = REQUIRED
    low: float = float("-inf")
    high: float | None = None
    most: int | None = None  # of a count: what Optuna still takes in sensible time and memory


Table: TypeAlias = Mapping[str, Argument]
MOST = 1_000_000  # a study has as many trials


def counted(default: Any, low: int = 0, most: int = MOST) -> Argument:
    """Return an argument that is a whole number, from `low` to `most`."""
    return Argument(read=whole, default=default, low=low, most=most)


def switch(*, default: bool | None) -> Argument:
    """Return an argument that is true or false."""
    return Argument(read=truth, default=default)


def auto_or_whole(node: YamlNode) -> int | str:
    if node.value == "auto":
        return "auto"
    try:
        return whole(node)
    except InvalidValue:
        raise fail(node, "a whole number or auto") from None


def defaults(table: Table) -> dict[str, Any]:
    """Return the arguments that have a default of ours."""
    parts = table.items()
    return {key: part.default for key, part in parts if part.default not in (REQUIRED, None)}


def in_range(node: YamlNode, argument: Argument) -> Any:
    """Return an argument's value, once it is of its type and in its range."""
    value = argument.read(node)
    if isinstance(value, int | float):
        between(node, value, argument.low, argument.high)
        if argument.most is not None:
            at_most(node, value, argument.most)
    return value


def read_arguments(
    node: YamlNode,
    name: str,
    table: Table,
    given: Mapping[str, YamlNode],
    found: Problems,
    read: Callable[[YamlNode, str], Any],
) -> dict[str, Any]:
    """Return all arguments of what is called `name`; `read` makes one of a place and a key."""
    chosen = defaults(table)
    complaint = f"{name} has no argument {{!r}}"
    for key, place in known(given, table, found, complaint, "it has").items():
        with found.collecting():
            chosen[key] = read(place, key)
    missing = [key for key, part in table.items() if part.default is REQUIRED and key not in given]
    if missing:
        raise InvalidValue(node, f"{name} needs {listed(missing, ' and ')}")
    return chosen


EXAMPLE = "search: {sampler: tpe, settings: 40}"


def _qmc_type(node: YamlNode) -> str:
    if node.value not in ("sobol", "halton"):
        raise fail(node, "sobol or halton")
    return str(node.value)


SAMPLERS: dict[str, Table] = {
    "tpe": {
        "n_startup_trials": counted(10),
        "n_ei_candidates": counted(24, low=1, most=100_000),
        "multivariate": switch(default=None),
        "constant_liar": switch(default=True),
    },
    "qmc": {
        "qmc_type": Argument(read=_qmc_type, default="sobol"),
        "scramble": switch(default=False),
    },
    "random": {},
    "cmaes": {
        "n_startup_trials": counted(1),
        "consider_pruned_trials": switch(default=False),
        "popsize": counted(None, low=2, most=100_000),
        "use_separable_cma": switch(default=False),
        "with_margin": switch(default=False),
        "lr_adapt": switch(default=False),
    },
    "gp": {"n_startup_trials": counted(10), "deterministic_objective": switch(default=False)},
}
# NumPy, which Optuna draws with, takes seeds of 32 bits.
_OWN: Table = {"settings": counted(None, low=1), "seed": counted(0, most=2**32 - 1)}
FEWEST_RANGES = {"cmaes": 2}  # that a sampler can draw from at all


def read_search(node: YamlNode, found: Problems) -> Search:
    """Return how settings are drawn."""
    if not isinstance(node.value, dict):
        raise fail(node, f"a mapping; write {EXAMPLE}")
    given = dict(node.value)
    missing = [key for key in ("sampler", "settings") if key not in given]
    if missing:
        raise InvalidValue(node, f"search needs {' and '.join(missing)}; write {EXAMPLE}")
    named = given.pop("sampler")
    name = word(named)
    if name not in SAMPLERS:
        raise InvalidValue(
            named, f"no sampler is called {name!r}" + nearest(name, SAMPLERS, "there are")
        )
    table = {**_OWN, **SAMPLERS[name]}

    def read(place: YamlNode, key: str) -> Any:
        return in_range(place, table[key])

    before = len(found)
    chosen = read_arguments(node, name, table, given, found, read)
    if len(found) > before:
        raise InvalidValue(node, "")
    if complaint := _joint_rule(chosen):
        raise InvalidValue(node, complaint)
    settings, seed = chosen.pop("settings"), chosen.pop("seed")
    return Search(sampler=name, settings=settings, seed=seed, arguments=chosen)


def _joint_rule(chosen: Mapping[str, Any]) -> str:
    """Return why Optuna's CMA-ES would refuse its switches, if it would."""
    ways = [key for key in ("use_separable_cma", "with_margin", "lr_adapt") if chosen.get(key)]
    return f"{' and '.join(ways)} exclude each other; choose one" if len(ways) > 1 else ""


def read_range(node: YamlNode, read: Reader, found: Problems) -> Range:
    """Return an axis between two values, each of which `read` makes of its place."""
    before = len(found)
    low, high = _ends(node, read, ("low", "high", "log", "step"), found)
    given = node.value
    log = found.read(given.get("log"), truth, default=False)
    step = found.read(given["step"], number, None) if "step" in given else None
    if None not in (low, high) and low >= high:
        found.add(given["high"], f"high is above low, {low}; got {high}")
    if len(found) > before:
        raise InvalidValue(node, "")
    return _checked(node, low, high, log=log, step=step)


def read_span(node: YamlNode, read: Reader, found: Problems) -> Span:
    """Return part of an axis, from one value to another."""
    before = len(found)
    low, high = _ends(node, read, ("low", "high"), found)
    if len(found) > before:
        raise InvalidValue(node, "")
    if low > high:
        raise InvalidValue(node.value["high"], f"high is at least low, {low}; got {high}")
    return Span(low=low, high=high)


def _ends(node: YamlNode, read: Reader, keys: Sequence[str], found: Problems) -> tuple[Any, Any]:
    given = node.value
    for key, place in given.items():
        if key not in keys:
            found.add(place, f"a range has no key {key!r}" + nearest(key, keys, "it has"))
    missing = [key for key in ("low", "high") if key not in given]
    if missing:
        raise InvalidValue(node, f"a range needs {' and '.join(missing)}")
    for key in ("low", "high"):
        if given[key].value is None:
            found.add(given[key], f"{key} is a number; got nothing")
    low, high = (found.read(given[key], read, None) for key in ("low", "high"))
    return low, high


def _checked(node: YamlNode, low: Any, high: Any, *, log: bool, step: float | None) -> Range:
    given = node.value
    if log and low <= 0:
        raise InvalidValue(given["low"], f"low is above 0 where log is true; got {low}")
    if step is None:
        return Range(low=low, high=high, log=log)
    place = given["step"]
    if log:
        raise InvalidValue(place, "log and step exclude each other; leave one out")
    if step <= 0:
        raise fail(place, "above 0")
    if isinstance(low, int) and not step.is_integer():
        raise fail(place, "a whole number, as the values are")
    steps = (high - low) / step
    if steps > MOST:
        raise InvalidValue(
            place,
            f"a range has at most {MOST:,} steps; got {steps:.3g}; leave step out, or raise it",
        )
    if abs(steps - round(steps)) > 1e-9 * max(1.0, steps):
        below = low + int(steps) * step
        raise InvalidValue(
            place,
            f"high is low plus a whole number of steps; got {low} to {high} by {step:g}, of which "
            f"the last is {below:.12g}",
        )
    return Range(low=low, high=high, step=int(step) if isinstance(low, int) else step)


def check_search(
    node: YamlNode | None,
    search: Search | None,
    axes: Mapping[str, Any],
    ranges: Mapping[str, YamlNode],
    found: Problems,
) -> None:
    """Note ranges that nobody draws from, and a sampler that has nothing to draw.

    Args:
        node: The section, if the file has it.
        search: What it says, if that is right.
        axes: Each setting axis: its values, or its range.
        ranges: Where the ranges stand.
        found: Takes the mistakes.
    """
    if node is None:
        for place in ranges.values():
            found.add(place, f"a range is drawn from by a sampler; add {EXAMPLE}, or list values")
        return
    if search is None:
        return
    note = partial(found.add, node)
    if is_open(axes.get("defence_seed", ())):
        note(
            "a sampler would draw defence_seed as if it were a hyper-parameter; give one value, or "
            "list the settings in place of search to have each run with several"
        )
    if not any(is_open(axis) for axis in axes.values()):
        note("there is nothing to draw: no setting axis of the grid has a choice")
        return
    size = Space(axes).size
    if search.settings > size:
        place = node.value["settings"]
        found.add(place, f"settings is at most the {size:,} there are; got {search.settings}")
    if len(ranges) < FEWEST_RANGES.get(search.sampler, 0):
        note(
            f"{search.sampler} needs at least two ranges, since it draws from lists at random; "
            f"take tpe, or write ranges"
        )
