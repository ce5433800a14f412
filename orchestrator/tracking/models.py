"""Models of the best trials in MLflow's portable form."""

import dataclasses
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.plan.plan import Scenario
from orchestrator.store.serialization import STAGES, Stage
from orchestrator.store.store import Store
from ulrl.datasets import Preprocessing
from ulrl.models import ARCHITECTURES, ModelSpec
from ulrl.portable import PixelModel, to_pixel_model
from ulrl.registry import options_of

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def describe(stage: Stage[Any], key: str, scenario: Scenario) -> dict[str, Any] | None:
    """Return in plain values where weights are and what network they belong to.

    None means that the dataset's facts are not known on this machine.
    """
    facts = scenario.dataset.info()
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
        "treatment": dataclasses.asdict(scenario.preprocessing),
    }


def materialise(
    store: Store, description: Mapping[str, Any]
) -> tuple[PixelModel, NDArray[np.float32]] | None:
    """Return the model that a description names and an example of its input, if it is stored.

    The example is a batch of two grey images: two, so that a graph made from it leaves the
    size of a batch open.
    """
    preprocessing: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description["treatment"].items()
    }
    channels, side = description["channels"], description["side"]
    model_spec = ModelSpec(
        architecture=ARCHITECTURES[description["architecture"]](**description["options"]),
        classes=description["classes"],
        channels=channels,
        side=side,
        preprocessing=Preprocessing(**preprocessing),
    )
    found = STAGES[description["stage"]].read(store, description["key"], model_spec)
    if found is None:
        return None
    model = to_pixel_model(found.content.of(model_spec))
    return model, np.full((2, channels, side, side), 0.5, dtype=np.float32)


def save_portable(network: torch.nn.Module, example: NDArray[np.float32], folder: Path) -> None:
    """Make `folder` with a network as MLflow's model: a graph with weights, no pickled class.

    It loads and serves where torch is installed and this project is not. A server that has a
    GPU serves it on the CPU, where its weights are.

    Args:
        network: In eval mode.
        example: A batch of two; the size of a batch stays open.
        folder: Absent yet.
    """
    from mlflow.models import Model
    from mlflow.pytorch import save_model

    save_model(
        network,
        folder,
        signature=_signature(network, example),
        input_example=example,
        # Given, since MLflow's own search takes seconds.
        pip_requirements=[f"torch=={version('torch').partition('+')[0]}"],
        serialization_format="pt2",
    )
    model = Model.load(str(folder))
    model.flavors["python_function"]["config"] = {"device": "cpu"}
    model.save(str(folder / "MLmodel"))


def _signature(network: torch.nn.Module, example: np.ndarray) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    with torch.inference_mode():
        logits = network(torch.from_numpy(example)).numpy()
    inputs, outputs = (
        Schema([TensorSpec(array.dtype, (-1, *array.shape[1:]))]) for array in (example, logits)
    )
    return ModelSignature(inputs, outputs)
