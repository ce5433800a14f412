"""Stage results as entries of the store, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from orchestrator.store import Entry
from ulrl.evaluation import Evaluation
from ulrl.metrics import Metrics
from ulrl.models import Blueprint, Weights
from ulrl.scoring import NeuronScores
from ulrl.unlearning import Ascent

_MAPPINGS = ("before", "after", "movement")  # fields that are tensors by name


def pack(result: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a dataclass's fields as plain values and tensors.

    A mapping of tensors, whose order counts, becomes tensors named ``field/name`` and a
    list of the names.
    """
    values: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        if isinstance(value, Tensor):
            tensors[field.name] = value
        elif isinstance(value, Mapping):
            values[field.name] = list(value)
            tensors |= {f"{field.name}/{name}": tensor for name, tensor in value.items()}
        else:
            values[field.name] = value
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
    fields: dict[str, Any] = {}
    for name in (field.name for field in dataclasses.fields(kind)):
        if name in entry.tensors:
            fields[name] = entry.tensors[name]
        elif name not in entry.values:
            continue  # the dataclass says what is missing
        elif name in _MAPPINGS:
            fields[name] = {key: entry.tensors[f"{name}/{key}"] for key in entry.values[name]}
        else:
            value = entry.values[name]
            fields[name] = tuple(value) if isinstance(value, list) else value
    return fields
