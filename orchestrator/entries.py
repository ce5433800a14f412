"""Stage results as entries of the store, and back."""

import dataclasses
from typing import Any

from torch import Tensor

from orchestrator.store import Entry
from ulrl.evaluation import Evaluation
from ulrl.metrics import Metrics
from ulrl.models import Blueprint, Weights
from ulrl.scoring import NeuronScores
from ulrl.unlearning import Ascent


def pack(result: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a dataclass's fields as plain values and tensors."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    tensors = {name: value for name, value in fields.items() if isinstance(value, Tensor)}
    values = {name: value for name, value in fields.items() if name not in tensors}
    return values, tensors


def ascent_of(entry: Entry) -> Ascent:
    """Return the ascent that an entry holds."""
    return Ascent(**_fields(Ascent, entry))


def scores_of(entry: Entry) -> NeuronScores:
    """Return the neuron scores that an entry holds."""
    return NeuronScores(**_fields(NeuronScores, entry))


def weights_of(entry: Entry, blueprint: Blueprint) -> Weights:
    """Return the weights that an entry holds, for the blueprint they were made from."""
    return Weights(blueprint=blueprint, state=dict(entry.tensors))


def evaluation_of(entry: Entry) -> Evaluation:
    """Return the evaluation that an entry holds."""
    return Evaluation(
        selection=Metrics(**entry.values["selection"]), report=Metrics(**entry.values["report"])
    )


def _fields(kind: type[Any], entry: Entry) -> dict[str, Any]:
    wanted = {field.name for field in dataclasses.fields(kind)}
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry.values.items()
        if name in wanted
    }
    return values | entry.tensors
