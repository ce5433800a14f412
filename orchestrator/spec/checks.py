"""Combinations of the grid that a dataset does not allow, found before anything runs."""

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from orchestrator.spec.axes import Axes
from orchestrator.spec.entries import Item
from orchestrator.spec.exclude import way_out
from orchestrator.spec.model import is_of_ulrl
from orchestrator.spec.space import Range
from orchestrator.spec.yaml_tree import YamlNode
from ulrl.attacks import LabelRule
from ulrl.audits import Audit
from ulrl.datasets import DatasetError, DatasetInfo
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.interchange import sketch_of
from ulrl.methods import ULRL, RepairMethod
from ulrl.models import ModelSpec
from ulrl.plugins import source_of
from ulrl.poison_checks import check_poison, check_trigger
from ulrl.scoring import TARGET

_CLEAN_AXES = ("preset", "clean_ratio", "clean_draw")
# What decides whether phase 1 can flag a neuron of a head, and phase 2 leave a classifier.
_RULE_AXES = (
    *("preset", "layers", "suspect_rule", "suspect_share", "max_suspects", "mad_epsilon"),
    *("suspects", "score", "alpha", "cosine_form", "cosine_reduction"),
)


def check_combinations(axes: Axes, preset: Preset) -> None:
    """Note each attack and each clean ratio that a dataset it meets cannot supply.

    Also each rule for suspects that cannot tell so few classes apart. Only combinations that
    exclusions leave count. A dataset whose file is not there has no facts yet, so no rule is held
    against it.
    """
    facts = _facts(axes, noted=True)
    _check_poison(axes, facts)
    _check_architectures(axes, facts)
    _check_settings(axes, facts, preset, _CLEAN_AXES, _check_clean)
    _check_settings(axes, facts, preset, _RULE_AXES, _check_rule)
    _check_repair_axes(axes)
    _check_methods(axes, facts)
    _check_oracles(axes)
    _check_targets(axes)


def _facts(axes: Axes, *, noted: bool = False) -> dict[int, DatasetInfo]:
    """Return what is known of each dataset by its place; files that cannot be read are `noted`."""
    facts: dict[int, DatasetInfo] = {}
    for place, item in enumerate(axes.items["dataset"]):
        try:
            if found := item.value.info():
                facts[place] = found
        except (DatasetError, OSError) as error:
            if noted:
                item.node.note(str(error))
    return facts


def _check_repair_axes(axes: Axes) -> None:
    """Note axes of ULRL's hyper-parameters where no method has them."""
    methods = axes.items.get("repair", ())
    if not methods or any(item.value.name == ULRL for item in methods):
        return
    for name, items in axes.items.items():
        if is_of_ulrl(name) and items:
            items[0].node.note(
                f"{name} is an axis of {ULRL}, and no entry of repair is {ULRL}; leave it out"
            )


def _check_methods(axes: Axes, facts: dict[int, DatasetInfo]) -> None:
    """Note each method that does not apply to a network that it meets."""
    if all(item.value.name == ULRL for item in axes.items.get("repair", ())):
        return
    networks = _Networks(axes, facts)
    places = _left(axes, "dataset", "architecture", "repair")
    refused: dict[int, list[tuple[int, int, ValueError]]] = defaultdict(list)
    for d, a, m in places:
        if error := networks.refusal(axes.items["repair"][m].value, d, a):
            refused[m].append((d, a, error))
    for m, refusals in refused.items():
        method = axes.items["repair"][m]
        everywhere = len(refusals) == sum(place[2] == m for place in places)
        for d, a, error in refusals:
            node = _option_in(error, method)
            point = {"repair": method.value, "architecture": axes.items["architecture"][a].value}
            if len(axes.items["dataset"]) > 1:
                point["dataset"] = axes.items["dataset"][d].value
            # A value that is wrong for every network is to be another.
            says_all = str(error).endswith("?") or (everywhere and node is not method.node)
            text = f"{error}" if says_all else f"{error}; {way_out(axes, point)}"
            _note(axes, d, node, ValueError(text))


def _option_in(error: ValueError, item: Item) -> YamlNode:
    """Return the option that a text begins with, "share is" or "NAME with share: 0", or the entry.

    An option that the entry leaves out is no place in the file.
    """
    begun = re.match(r"(?:\w+ with )?(\w+)", str(error))
    return item.options.get(begun[1], item.node) if begun else item.node


def _check_oracles(axes: Axes) -> None:
    """Note each method that would choose by the ASR where there is no attack."""
    if "repair" not in axes.items:
        return
    noted: set[int] = set()
    for d, p, m in _left(axes, "dataset", "poisoning", "repair"):
        choice, method = axes.poisonings[p][0].value, axes.items["repair"][m]
        if m in noted or not choice.attack.benign or method.value.name == ULRL:
            continue
        if method.value.resolved(axes.items["dataset"][d].value.name).oracle:
            noted.add(m)
            method.node.note(
                f"rule oracle chooses by the ASR, and there is none without an attack; "
                f"{way_out(axes, {'repair': method.value, 'attack': choice})}"
            )


def _check_targets(axes: Axes) -> None:
    """Note ``suspects: target`` where ULRL meets an attack without one target."""
    if "suspects" not in axes.items or "suspects" in axes.folded:  # with a search it is refused
        return
    methods = axes.items.get("repair", ())
    dimensions = ("poisoning", "suspects", *(["repair"] if methods else []))
    for p, s, *m in _left(axes, *dimensions):
        choice, named = axes.poisonings[p][0].value, axes.items["suspects"][s]
        one_target = not choice.attack.benign and choice.labels is not LabelRule.ALL_TO_ALL
        other = any(methods[place].value.name != ULRL for place in m)
        if named.value == TARGET and not one_target and not other:
            what = "without an attack" if choice.attack.benign else "where labels are all_to_all"
            named.node.note(
                f"suspects target is the row of the attacker's class, and there is none {what}; "
                f"{way_out(axes, {'suspects': TARGET, 'attack': choice})}"
            )
            return


def check_audits(axes: Axes, audits: Sequence[Item]) -> None:
    """Note each audit that does not apply to a network of the grid."""
    if not audits or axes.left is None:
        return
    networks = _Networks(axes, _facts(axes))
    for d, a in _left(axes, "dataset", "architecture"):
        for audit in audits:
            if error := networks.refusal(audit.value, d, a):
                called = axes.items["architecture"][a].value.label
                end = "" if str(error).endswith("?") else f"; leave it out, or {called}"
                text = f"{error}{end}"
                _note(axes, d, _option_in(error, audit), ValueError(text))
            elif error := networks.refusal_of_images(audit.value, d, a):
                _note(axes, d, _option_in(error, audit), error)


class _Networks:
    """The networks of a grid without their numbers, each built once."""

    def __init__(self, axes: Axes, facts: dict[int, DatasetInfo]) -> None:
        self._axes, self._facts = axes, facts
        self._built: dict[tuple[int, int], tuple[nn.Module, str]] = {}

    def refusal_of_images(self, audit: Audit, dataset: int, architecture: int) -> ValueError | None:
        """Return why an audit that `refusal` lets pass does not apply to the dataset's images."""
        if dataset not in self._facts:
            return None
        facts, (network, _) = self._facts[dataset], self._built[dataset, architecture]
        try:
            audit.check_images(network, facts.channels, facts.side)
        except ValueError as error:
            return error
        return None

    def refusal(
        self, applied: RepairMethod | Audit, dataset: int, architecture: int
    ) -> ValueError | None:
        """Return why a method or an audit does not apply to a network, if it does not.

        Of a dataset whose file is not there nothing is known.
        """
        if dataset not in self._facts:
            return None
        facts, items = self._facts[dataset], self._axes.items
        model_spec = ModelSpec(
            architecture=items["architecture"][architecture].value,
            classes=facts.classes,
            channels=facts.channels,
            side=facts.side,
            preprocessing=items["dataset"][dataset].value.preprocessing,
        )
        place = (dataset, architecture)
        try:
            if place not in self._built:
                self._built[place] = sketch_of(model_spec), model_spec.head
            applied.check(*self._built[place], facts.classes)
        except ValueError as error:
            return error
        return None


def _check_poison(axes: Axes, facts: dict[int, DatasetInfo]) -> None:
    targets = axes.items["target_label"]
    tried: set[tuple[int, int]] = set()
    for d, p, t in _left(axes, "dataset", "poisoning", "target_label"):
        (attack, ratio), target = axes.poisonings[p], targets[t]
        if not axes.attacked[p]:
            continue
        try:
            if d in facts:
                poison = attack.value.poison(ratio.value, target.value)
                check_poison(poison, facts[d])
                if source_of(poison.attack) and (d, id(attack)) not in tried:  # the user's own
                    tried.add((d, id(attack)))
                    side, channels = facts[d].side, facts[d].channels
                    check_trigger(poison, side=side, channels=channels)
        except ValueError as error:
            # A rule's text begins with what it is about; an attack's own are about its entry.
            places = {"poison_ratio": ratio.node, "target_label": target.node}
            node = (places | dict(attack.options)).get(str(error).split()[0], attack.node)
            is_default = node.place == axes.node.place
            _note(axes, d, attack.node if is_default else node, error)


def _check_architectures(axes: Axes, facts: dict[int, DatasetInfo]) -> None:
    for d, a in _left(axes, "dataset", "architecture"):
        architecture = axes.items["architecture"][a]
        if d not in facts:
            continue
        classes, channels, side = facts[d].classes, facts[d].channels, facts[d].side
        try:
            architecture.value.check(classes=classes, channels=channels, side=side)
        except ValueError as error:
            _note(axes, d, architecture.node, error)


def _check_clean(parts: Hyperparameters, supply: DatasetInfo) -> None:
    parts.clean.check(supply.train_count)


def _check_rule(parts: Hyperparameters, supply: DatasetInfo) -> None:
    rule, classes, layers = parts.score, supply.classes, parts.unlearn.layers
    rule.check(classes, layers)
    named = rule.suspects is not None
    parts.relearn.check(rule.certain(classes, layers), classes, named=named)


def _check_settings(
    axes: Axes,
    facts: dict[int, DatasetInfo],
    preset: Preset,
    of: tuple[str, ...],
    check: Callable[[Hyperparameters, DatasetInfo], None],
) -> None:
    """Note each value of some setting axes that a check refuses for a dataset."""
    names = [name for name in axes.items if name in of]
    apart = [name for name in names if name not in axes.folded]
    folded = [name for name in names if name in axes.folded]  # no exclusion speaks of them
    columns = [axes.items[name] for name in folded]
    points = itertools.product(_left(axes, "dataset", *apart), itertools.product(*columns))
    for (d, *places), others in points:
        if d not in facts:
            continue
        dataset = axes.items["dataset"][d]
        chosen = {name: axes.items[name][at] for name, at in zip(apart, places, strict=True)}
        chosen |= dict(zip(folded, others, strict=True))
        items = {name: _hardest(name, item) for name, item in chosen.items()}
        given: dict[str, Any] = {name: item.value for name, item in items.items()}
        values = preset_values(given.pop("preset", preset), dataset.value.name) | given
        try:
            check(assemble(values), facts[d])
        except ValueError as error:
            _note(axes, d, items.get(str(error).split()[0], dataset).node, error)


def _hardest(name: str, item: Item) -> Item:
    """Return the end of a range that asks most of a rule or a dataset; a value as it is."""
    if not isinstance(item.value, Range):
        return item
    end = "high" if name == "max_suspects" else "low"
    return Item(node=item.node.at([end]), value=getattr(item.value, end))


def _left(axes: Axes, *names: str) -> list[list[int]]:
    """Return the positions on some dimensions of whatever is left of the grid."""
    dimensions = list(axes.dimensions)
    others = tuple(place for place, name in enumerate(dimensions) if name not in names)
    in_grid_order = [name for name in dimensions if name in names]
    columns = [in_grid_order.index(name) for name in names]
    rows: list[list[int]] = np.argwhere(axes.left.any(axis=others))[:, columns].tolist()
    return rows


def _note(axes: Axes, dataset: int, node: YamlNode, error: ValueError) -> None:
    node.note(f"on {axes.items['dataset'][dataset].value.label}, {error}")
