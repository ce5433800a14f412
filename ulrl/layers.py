"""The neurons of a network: rows of linear layers and filters of convolutions."""

from collections.abc import Iterator
from enum import StrEnum

from jaxtyping import Float
from torch import Tensor, nn

from ulrl.models import Classifier

CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001 - torch has no public common base


class Layers(StrEnum):
    """Which layers have neurons that may be suspicious."""

    HEAD = "head"  # the official code: a neuron is a row of the last linear layer
    ALL = "all"  # every convolution's filters and every linear layer's rows, as TSBD scores


def neurons_of(classifier: Classifier, layers: Layers) -> dict[str, nn.Parameter]:
    """Return weights and biases of the layers by parameter name, the head's last.

    Raises:
        ValueError: A weight is no parameter but computed from others at each pass, so that
            no step moves it.
    """
    name = classifier.model_spec.head
    head = dict(_parameters(name, classifier.head))
    if layers is Layers.HEAD:
        return head
    found: dict[str, nn.Parameter] = {}
    for path, module in classifier.network.named_modules():
        if path != name:
            found |= dict(_parameters(path, module))
    return found | head


def as_rows(values: Float[Tensor, "rows ..."]) -> Tensor:
    """Return a weight as ``[rows, fan_in]``: a row per neuron, all that leads into it.

    A bias, which has one number per neuron, stays ``[rows]``.
    """
    return values.flatten(1) if values.ndim > 1 else values


def bias_name(weight: str) -> str:
    """Return the name of the bias that goes with a weight."""
    layer, _, parameter = weight.rpartition(".")
    return f"{layer}.{parameter.replace('weight', 'bias')}"


def layer_name(weight: str) -> str:
    """Return what people call the layer of a weight."""
    return weight.removesuffix(".weight")


def _parameters(layer: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    names: tuple[str, ...] = ()
    if isinstance(module, nn.MultiheadAttention):  # its projection out is a layer of its own
        names = ("in_proj_weight", "in_proj_bias")
    elif isinstance(module, (nn.Linear, CONVOLUTION)):
        names = ("weight", "bias")
    for name in names:
        value = getattr(module, name)
        if value is None:
            continue
        if not isinstance(value, nn.Parameter):
            raise ValueError(  # noqa: TRY004 - it is the network that is unsuited
                f"{layer}.{name} is computed from other parameters (weight_norm, spectral_norm, "
                f"prune), so no neuron of {layer} can be scored or reset; make it a parameter "
                f"first, with torch.nn.utils.parametrize.remove_parametrizations, "
                f"remove_weight_norm or prune.remove"
            )
        yield f"{layer}.{name}", value
