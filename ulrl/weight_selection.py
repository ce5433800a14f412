"""The result of phase 1 that phase 2 uses: suspects, and which weights are re-initialised."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ulrl.errors import DivergedError
from ulrl.layers import layer_name
from ulrl.scoring import NeuronScores, rounded_share


class ReinitBias(StrEnum):
    """What becomes of a suspect's bias."""

    ZERO = "zero"  # the official code
    KEEP = "keep"


@dataclass(frozen=True, kw_only=True)
class ResetConfig:
    """How much of a suspect is re-initialised.

    Attributes:
        reinit_ratio: Fraction of a suspect's incoming weights, those that moved most; 1.0
            is the official code (the whole neuron), 0.0 re-initialises nothing.
        reinit_bias: What becomes of its bias when the ratio is above 0.
    """

    reinit_ratio: float = 1.0
    reinit_bias: ReinitBias = ReinitBias.ZERO

    def __post_init__(self) -> None:
        if not 0 <= self.reinit_ratio <= 1:
            raise ValueError(
                f"reinit_ratio is a fraction of a neuron's weights, in [0, 1]; "
                f"got {self.reinit_ratio}"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSuspects:
    """The suspects of one layer.

    Attributes:
        weight: Name of the parameter whose rows they are.
        rows: The rows in increasing order.
        reset: Which incoming weights of each are re-initialised.
    """

    weight: str
    rows: tuple[int, ...]
    reset: Bool[Tensor, "suspects fan_in"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspects:
    """All that phase 1 passes on: the flagged neurons and which weights are re-initialised.

    Attributes:
        layers: The layers that have any. With none, relearning is plain fine-tuning.
        reset_bias: Whether their biases are set to 0.
    """

    layers: tuple[LayerSuspects, ...]
    reset_bias: bool


def select_weights(config: ResetConfig, scores: NeuronScores) -> Suspects:
    """Return the suspects with the share of their weights that `config` gives up.

    Raises:
        DivergedError: The ascent diverged before its accuracy fell to the threshold, so that
            there are no scores to choose by.
    """
    if scores.diverged:
        raise DivergedError(
            f"unlearning diverged in epoch {scores.stop_epoch}, before the accuracy fell to the "
            f"threshold; a smaller unlearn_lr or unlearn_clip_norm may help"
        )
    rows: dict[str, list[int]] = {}
    for layer, row in scores.places:
        rows.setdefault(layer, []).append(row)
    layers = tuple(
        LayerSuspects(
            weight=weight,
            rows=tuple(rows[layer_name(weight)]),
            reset=weights_to_reset(movement, config.reinit_ratio),
        )
        for weight, movement in scores.movement.items()
    )
    zeroed = config.reinit_bias is ReinitBias.ZERO and config.reinit_ratio > 0
    return Suspects(layers=layers, reset_bias=bool(layers) and zeroed)


def weights_to_reset(
    movement: Float[Tensor, "suspects fan_in"], ratio: float
) -> Bool[Tensor, "suspects fan_in"]:
    """Mark the `ratio` of each suspect's incoming weights that moved most.

    That is the round-half-up(ratio × fan-in) largest movements of the row, ties by index.
    """
    count = rounded_share(ratio, movement.shape[1])
    order = movement.sort(dim=1, descending=True, stable=True).indices
    chosen = torch.zeros(movement.shape, dtype=torch.bool)
    return chosen.scatter(1, order[:, :count], value=True)
