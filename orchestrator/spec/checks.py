"""Combinations of the grid that a dataset does not allow, found before anything runs."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from orchestrator.spec.axes import Axes, Item
from orchestrator.spec.exclude import Mask
from orchestrator.spec.space import Range
from orchestrator.spec.yaml_tree import Problems, YamlNode
from ulrl.clean import CleanConfig, CleanDraw
from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.hyperparameters import Preset, assemble, names, preset_values
from ulrl.methods import ULRL

# What decides whether phase 1 can flag a neuron of a head, and phase 2 leave a classifier.
_RULE_AXES = (
    *("preset", "layers", "suspect_rule", "suspect_share", "max_suspects", "mad_epsilon"),
    *("alpha", "cosine_form", "cosine_reduction"),
)


def check_combinations(axes: Axes, kept: Mask, preset: Preset, found: Problems) -> None:
    """Note each attack and each clean ratio that a dataset it meets cannot supply.

    Also each rule for suspects that cannot tell so few classes apart. Only combinations that
    `kept` leaves count. A dataset whose file is not there tells nothing yet, so nothing is held
    against it.
    """
    facts = [_facts(item, found) for item in axes.by_name["dataset"].items]
    _check_poison(axes, kept, facts, found)
    _check_clean(axes, kept, facts, preset, found)
    _check_rule(axes, kept, facts, preset, found)
    _check_repair(axes, found)


def _check_repair(axes: Axes, found: Problems) -> None:
    """Note axes of ULRL's hyper-parameters beside a repair method that has none of them."""
    if "repair" not in axes.by_name:
        return
    others = [value for value in axes.by_name["repair"].values if value != ULRL]
    for name, axis in axes.settings.items():
        own = name == "preset" or (name in names() and names()[name][0] != "clean")
        if others and own and (len(axis.items) > 1 or axis.range):
            found.add(
                axis.items[-1].node,
                f"{name} is an axis of {ULRL}, and {others[0]} would repeat its trials for every "
                f"value; leave one value, or study {others[0]} in a file of its own",
            )


def _facts(item: Item, found: Problems) -> DatasetInfo | None:
    try:
        facts: DatasetInfo | None = item.value.info()
    except (DatasetError, OSError) as error:
        found.add(item.node, str(error))
        return None
    return facts


def _check_poison(
    axes: Axes, kept: Mask, facts: Sequence[DatasetInfo | None], found: Problems
) -> None:
    poisonings, targets = axes.poisonings, axes.by_name["target_label"].items
    for p, d, t in _left(axes, kept, "poisoning", "dataset", "target_label"):
        supply, target = facts[d], targets[t]
        attack, ratio = poisonings[p].attack, poisonings[p].ratio
        if supply is None:
            continue
        try:
            attack.value.poison(ratio.value, target.value).check(supply)
        except ValueError as error:
            # A rule's text begins with what it is about; an attack's own are about its entry.
            places = {"poison_ratio": ratio.node, "target_label": target.node, **attack.options}
            node = places.get(str(error).partition(" ")[0], attack.node)
            found.add(node if _is_written(node, axes) else attack.node, _on(axes, d, error))


def _check_clean(
    axes: Axes, kept: Mask, facts: Sequence[DatasetInfo | None], preset: Preset, found: Problems
) -> None:
    datasets = axes.by_name["dataset"].items
    if "clean_ratio" in axes.by_name:
        ratios = [_lowest(item) for item in axes.by_name["clean_ratio"].items]
        pairs = [(ratios[c], d) for c, d in _left(axes, kept, "clean_ratio", "dataset")]
    else:
        pairs = [
            (
                replace(
                    datasets[d], value=preset_values(preset, datasets[d].value.name)["clean_ratio"]
                ),
                d,
            )
            for (d,) in _left(axes, kept, "dataset")
        ]
    draws = [CleanDraw.RANDOM]
    if "clean_draw" in axes.by_name:
        draws = [node.value for node in axes.by_name["clean_draw"].items]
    for ratio, d in pairs:
        supply = facts[d]
        try:
            if supply is not None:
                for draw in draws:
                    config = CleanConfig(clean_ratio=ratio.value, clean_draw=draw)
                    config.check(supply.train_count)
        except ValueError as error:
            found.add(ratio.node, _on(axes, d, error))


def _check_rule(
    axes: Axes, kept: Mask, facts: Sequence[DatasetInfo | None], preset: Preset, found: Problems
) -> None:
    names = [name for name in axes.by_name if name in _RULE_AXES]
    apart = [name for name in names if name not in axes.folded]
    drawn = [name for name in names if name in axes.folded]  # no exclusion speaks of them
    datasets = axes.by_name["dataset"].items
    points = itertools.product(
        _left(axes, kept, "dataset", *apart),
        itertools.product(*(range(len(axes.by_name[name].items)) for name in drawn)),
    )
    for (d, *places), others in points:
        supply = facts[d]
        if supply is None:
            continue
        chosen = zip((*apart, *drawn), (*places, *others), strict=True)
        items = {name: axes.by_name[name].items[place] for name, place in chosen}
        given: dict[str, Any] = {name: _hardest(name, item) for name, item in items.items()}
        values = preset_values(given.pop("preset", preset), datasets[d].value.name) | given
        parts = assemble(values)
        rule, classes, layers = parts.score, supply.classes, parts.unlearn.layers
        try:
            rule.check(classes, layers)
            parts.relearn.check(rule.certain(classes, layers), classes)
        except ValueError as error:
            item = items.get(str(error).partition(" ")[0], datasets[d])
            found.add(item.node, _on(axes, d, error))


def _hardest(name: str, item: Item) -> Any:
    """Return the value of an axis with which a rule is least able to answer."""
    if isinstance(item.value, Range):
        return item.value.high if name == "max_suspects" else item.value.low
    return item.value


def _lowest(item: Item) -> Item:
    """Return the end of a range that asks most of a dataset; a value as it is."""
    if isinstance(item.value, Range):
        return Item(node=item.node.value["low"], value=item.value.low)
    return item


def _left(axes: Axes, kept: Mask, *names: str) -> list[list[int]]:
    """Return the positions on some dimensions of whatever is left of the grid."""
    dimensions = list(axes.dimensions)
    others = tuple(place for place, name in enumerate(dimensions) if name not in names)
    in_grid_order = [name for name in dimensions if name in names]
    columns = [in_grid_order.index(name) for name in names]
    rows: list[list[int]] = np.argwhere(kept.any(axis=others))[:, columns].tolist()
    return rows


def _is_written(node: YamlNode, axes: Axes) -> bool:
    """Whether the user wrote a value; a default stands for an axis at the grid's place."""
    return node.place != axes.node.place


def _on(axes: Axes, dataset: int, error: ValueError) -> str:
    return f"on {axes.by_name['dataset'].items[dataset].value.label}, {error}"
