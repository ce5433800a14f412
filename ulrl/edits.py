"""What a repair changed in a network, layer by layer, by one rule for every method."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from ulrl.interchange import sketch_of
from ulrl.models import Weights

EDITS = ("parts", "zeroed_parts", "weights", "zeroed_weights", "moved", "norm")


@dataclass(frozen=True, kw_only=True, eq=False)
class Edits:
    """The differences between a victim's parameters and those of the repaired network.

    Buffers, such as BatchNorm's running statistics, are not compared.

    Attributes:
        layers: Paths of the modules that have parameters, in the network's order.
        by_layer: A number of each layer, by `EDITS`. ``parts``: output channels, rows or channels
            of a BatchNorm, the slices of a tensor called ``weight`` along its first dimension.
            ``zeroed_parts``: those that are 0 throughout and were not in the victim.
            ``weights``: single weights, biases included. ``zeroed_weights``: those that are 0 and
            were not. ``moved``: the Euclidean norm of the difference. ``norm``: the Euclidean
            norm of the victim's weights.
    """

    layers: tuple[str, ...] = ()
    by_layer: Mapping[str, Float64[Tensor, "layers"]] = field(default_factory=dict)

    @property
    def zeroed_parts(self) -> int:
        """How many parts are newly zero in the whole network."""
        return int(self.by_layer["zeroed_parts"].sum())

    @property
    def zeroed_share(self) -> float:
        """The share of all weights that are newly zero, in [0, 1]."""
        found = self.by_layer
        return float(found["zeroed_weights"].sum() / found["weights"].sum())

    @property
    def change(self) -> float:
        """The norm of the difference over that of the victim's weights; at least 0."""
        moved, norm = (float(self.by_layer[name].norm()) for name in ("moved", "norm"))
        return moved / norm if norm else 0.0


def compare(victim: Weights, repaired: Weights) -> Edits:
    """Return what differs between a victim and the network that a repair made of it.

    Args:
        victim: Before.
        repaired: After; of the same specification.
    """
    rows: dict[str, Tensor] = {}
    for name, _ in sketch_of(victim.model_spec).named_parameters():
        path, _, last = name.rpartition(".")
        layer = path or name
        known = rows.setdefault(layer, torch.zeros(len(EDITS), dtype=torch.float64))
        rows[layer] = known + _row(
            victim.state[name], repaired.state[name], has_parts=last.endswith("weight")
        )
    table = torch.stack([*rows.values()])
    table[:, 4:] = table[:, 4:].sqrt()
    return Edits(layers=tuple(rows), by_layer=dict(zip(EDITS, table.unbind(1), strict=True)))


def _row(before: Tensor, after: Tensor, *, has_parts: bool) -> Tensor:
    """Return a tensor's numbers by `EDITS`, with squares in place of norms."""
    old, new = before.double(), after.double()
    parts = zeroed = 0
    if has_parts:
        parts = len(old)
        dead = [values.reshape(parts, -1).eq(0).all(dim=1) for values in (old, new)]
        zeroed = int((dead[1] & ~dead[0]).sum())
    gone = int((new.eq(0) & old.ne(0)).sum())
    moved, norm = (float((values**2).sum()) for values in (new - old, old))
    return torch.tensor([parts, zeroed, old.numel(), gone, moved, norm], dtype=torch.float64)
