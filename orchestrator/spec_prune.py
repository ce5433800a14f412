"""The `prune` section: Optuna's pruners by name, and the arguments each of them takes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from orchestrator.definition import Prune, PrunerChoice
from orchestrator.spec_arguments import (
    MOST,
    REQUIRED,
    Argument,
    auto_or_whole,
    counted,
    defaults,
    in_range,
    read_arguments,
)
from orchestrator.spec_findings import Findings, Node, Wrong
from orchestrator.spec_values import fail, listed, mapping, nearest, number, word

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


def read_prune(node: Node, found: Findings) -> Prune:
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


def _setting(node: Node, found: Findings) -> PrunerChoice | None:
    if node.value == "none":
        return None
    place, name, given = _name_and_arguments(node, "wilcoxon")
    if name in CURVE_PRUNERS:
        raise Wrong(
            place,
            f"setting admits wilcoxon only: {name} compares curves, which have no meaning "
            f"across scenarios; got {name!r}",
        )
    return _pruner(place, name, given, found)


def _curve(node: Node, found: Findings) -> PrunerChoice | None:
    if node.value == "none":
        return None
    place, name, given = _name_and_arguments(node, None)
    if name == "wilcoxon":
        raise Wrong(
            place,
            f"{node.name} admits {listed(CURVE_PRUNERS, ' or ')}: wilcoxon compares settings "
            f"across scenarios; got 'wilcoxon'",
        )
    return _pruner(place, name, given, found)


def _name_and_arguments(node: Node, default: str | None) -> tuple[Node, str, dict[str, Node]]:
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
        raise Wrong(node, f"{node.name} names no pruner; write {{pruner: median}} or another")
    return node, default, given


def _pruner(node: Node, name: str, given: Mapping[str, Node], found: Findings) -> PrunerChoice:
    if name == "nop":
        raise Wrong(node, "nop is Optuna's word for no pruner; write none")
    if name not in PRUNERS:
        text = f"no pruner is called {name!r}" + nearest(name, PRUNERS, "there are")
        raise Wrong(node, text)
    table = PRUNERS[name]

    def read(place: Node, key: str) -> Any:
        return _curve(place, found) if key == "wrapped" else in_range(place, table[key])

    chosen = read_arguments(node, name, table, given, found, read)
    if name in _JOINT_RULES and (complaint := _JOINT_RULES[name](chosen)):
        raise Wrong(node, complaint)
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
