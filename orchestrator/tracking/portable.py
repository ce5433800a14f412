"""Networks as MLflow's models, which load and serve without this project."""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


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
