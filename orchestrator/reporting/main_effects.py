"""How large the main effect of an axis is, and whether it is distinguishable from noise.

Shares of an analysis of variance sum to 1 even if nothing matters. So the absolute size stands
beside them, and a permutation test: if an axis does nothing, its values may be exchanged among
settings that agree in all other axes, in each scenario apart (restricted permutation, Anderson
& ter Braak 2003). A small p says that the axis did something in these scenarios, not that it
would with other attacks.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.inference import LEVEL, holm
from orchestrator.reporting.axes import Axis
from orchestrator.reporting.blocks import Block, Floats

MOST_PERMUTATIONS, FEWEST_PERMUTATIONS = 999, 199
BINS = 4  # of a sampled axis
_WORK = 4e6  # values that are moved at once, for each axis


@dataclass(frozen=True, kw_only=True)
class MainEffect:
    """The main effect of an axis on the settings' means over scenarios.

    Attributes:
        size: Standard deviation, over the axis's values, of the mean that each reaches; in
            the objective's own unit.
        p_value: Of the permutation test, adjusted for the number of axes by Holm's method.
    """

    axis: str
    size: float
    p_value: float

    @property
    def is_noise(self) -> bool:
        """Whether the effect is not distinguishable from noise."""
        return self.p_value >= LEVEL


def main_effects(block: Block, axes: Sequence[Axis]) -> list[MainEffect]:
    """Return the main effect of each axis; always the same.

    `block` must be whole. Settings that were sampled have no others that agree with them in all
    other axes. Then an axis's range is cut in four, and the settings' means are permuted.
    """
    found = [_effect(block, axis, axes) for axis in axes]
    adjusted = holm([p for _, p in found])
    return [
        MainEffect(axis=axis.name, size=size, p_value=p)
        for axis, (size, _), p in zip(axes, found, adjusted, strict=True)
    ]


def _effect(block: Block, axis: Axis, axes: Sequence[Axis]) -> tuple[float, float]:
    """Return the size of an axis's effect, and its p before any adjustment."""
    settings = [dict(setting) for setting in block.settings]
    levels = np.array([axis.values.index(setting[axis.name]) for setting in settings])
    groups: dict[tuple[str, ...], list[int]] = defaultdict(list)
    others = [other.name for other in axes if other.name != axis.name]
    for place, setting in enumerate(settings):
        groups[tuple(setting[name] for name in others)].append(place)
    matched = [members for members in groups.values() if len(members) > 1]
    values = block.values
    if 2 * sum(map(len, matched)) < len(settings):
        matched = [list(range(len(settings)))]
        values = values.mean(axis=0, keepdims=True)
        levels = _binned(levels) if axis.numeric else levels
    by_size = [
        np.array([group for group in matched if len(group) == size])
        for size in sorted({len(group) for group in matched})
    ]
    parts = [values[:, places] for places in by_size]
    belongs = (levels[:, None] == np.unique(levels)).astype(float)
    design = np.concatenate([_centred(belongs[places], -2) for places in by_size], axis=None)
    weights: Floats = np.linalg.pinv(design.reshape(-1, belongs.shape[1])).T
    observed = float(_sizes(parts, weights))
    times = int(np.clip(_WORK / values.size, FEWEST_PERMUTATIONS, MOST_PERMUTATIONS))
    random = np.random.default_rng(0)
    permuted = [
        random.permuted(np.broadcast_to(part, (times, *part.shape)), axis=-1) for part in parts
    ]
    as_large = int((_sizes(permuted, weights) >= observed - 1e-12).sum())
    return observed, (1 + as_large) / (1 + times)


def _sizes(parts: Sequence[Floats], weights: Floats) -> Floats:
    """Return the sd of the levels' effects by least squares, groups having levels of their own.

    In a complete grid these are the levels' means. In groups that lack a level the means would
    be compared with those of other groups.

    Args:
        parts: Values ``[..., scenarios, groups, members]``, for each size of groups.
        weights: ``[all members, levels]``: of a member's distance from its group's mean.
    """
    apart = [_centred(part.mean(axis=-3), -1) for part in parts]
    flat = [mean.reshape(*mean.shape[:-2], -1) for mean in apart]
    sizes: Floats = (np.concatenate(flat, axis=-1) @ weights).std(axis=-1)
    return sizes


def _centred(values: Floats, axis: int) -> Floats:
    centred: Floats = values - values.mean(axis=axis, keepdims=True)
    return centred


def _binned(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return four bins of about as many settings each; equal values share a bin."""
    edges = np.quantile(levels, np.linspace(0, 1, BINS + 1)[1:-1])
    return np.searchsorted(edges, levels, side="left")
