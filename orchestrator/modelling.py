"""Models of a study by a description in plain values, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.entries import STAGES, Stage
from orchestrator.plan import Scenario
from orchestrator.store import Store
from ulrl.datasets import Treatment
from ulrl.models import ARCHITECTURES, Blueprint
from ulrl.portable import PixelModel, to_pixel_model
from ulrl.registry import options_of


def describe(stage: Stage[Any], key: str, scenario: Scenario) -> dict[str, Any] | None:
    """Return in plain values where weights are and what network they belong to.

    None means that the dataset's facts are not known on this machine.
    """
    facts = scenario.dataset.facts()
    if facts is None:
        return None
    return {
        "stage": stage.name,
        "key": key,
        "architecture": scenario.architecture.name,
        "options": options_of(scenario.architecture, places=False),
        "classes": facts.classes,
        "channels": facts.channels,
        "side": facts.side,
        "treatment": dataclasses.asdict(scenario.treatment),
    }


def materialise(
    store: Store, description: Mapping[str, Any]
) -> tuple[PixelModel, NDArray[np.float32]] | None:
    """Return the model that a description names and an example of its input, if it is stored.

    The example is a batch of two grey images: two, so that a graph made from it leaves the
    size of a batch open.
    """
    treatment: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["treatment"].items()
    }
    channels, side = description["channels"], description["side"]
    blueprint = Blueprint(
        architecture=ARCHITECTURES[description["architecture"]](**description["options"]),
        classes=description["classes"],
        channels=channels,
        side=side,
        treatment=Treatment(**treatment),
    )
    found = STAGES[description["stage"]].read(store, description["key"], blueprint)
    if found is None:
        return None
    model = to_pixel_model(found.content.of(blueprint))
    return model, np.full((2, channels, side, side), 0.5, dtype=np.float32)
