"""Ascents of a head with five rows, written by hand."""

from typing import Any, TypeAlias

import torch

from ulrl.hyperparameters import assemble
from ulrl.scoring import NeuronScores, score_neurons
from ulrl.unlearning import Ascent

Rows: TypeAlias = dict[str, list[Any]]  # by parameter: rows of numbers, or numbers


def ascent_of(before: Rows, *after: Rows, accuracy: tuple[float, ...]) -> Ascent:
    """An ascent that kept every epoch."""
    return Ascent(
        before={name: torch.tensor(values) for name, values in before.items()},
        after={name: torch.tensor([epoch[name] for epoch in after]) for name in before},
        kept=tuple(range(1, len(after) + 1)),
        predicted=torch.tensor([[epoch, 10 - epoch] for epoch in range(1, len(after) + 1)]),
        accuracy=accuracy,
        loss=(1.0,) * len(after),
        diverged=False,
    )


BEFORE: Rows = {
    "head.weight": [[1.0, -1.0], [0.0, 2.0], [3.0, 3.0], [1.0, 1.0], [0.5, -0.5]],
    "head.bias": [0.0, 1.0, -1.0, 2.0, 0.0],
}
# L1 changes of the rows: 1 + 0, 1 + 1, 1.5 + 1.5, 2 + 2, 20 + 10; of the biases: 5 4 0 2 0.
AFTER: Rows = {
    "head.weight": [[0.0, -1.0], [1.0, 1.0], [4.5, 4.5], [-1.0, -1.0], [20.5, -10.5]],
    "head.bias": [5.0, 5.0, -1.0, 0.0, 0.0],
}
ELSEWHERE: Rows = {"head.weight": [[9.0, 9.0]] * 5, "head.bias": [9.0] * 5}


def scored(**config: Any) -> NeuronScores:
    ascent = ascent_of(BEFORE, ELSEWHERE, AFTER, accuracy=(0.9, 0.125))
    return score_neurons(assemble({"unlearn_threshold": 0.2, **config}).score, ascent)
