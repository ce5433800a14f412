"""Where a network's attention lies: maps of its last stages, taken by hooks in one pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isqrt

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ulrl.errors import NotApplicable
from ulrl.models import Classifier

SMALL = 1e-6  # beside the norm that a map is divided by


def attention(features: Tensor, power: float) -> Float[Tensor, "n s s"] | None:
    """Return the sum over channels of |features|^power, each image's map of L2 norm 1.

    Feature maps are ``[n, c, s, s]`` or ``[n, s, s, c]``; tokens are ``[n, t, c]``, the last s²
    of which are the patches of a grid. Of any other shape, or with s = 1, there is no map.
    """
    size = _side(features.shape)
    if size is None:
        return None
    if features.ndim == 3:
        features = features[:, -(size**2) :]
    axis = 1 if features.ndim == 4 and features.shape[2] == features.shape[3] else -1
    maps: Tensor = features.abs().pow(power).sum(dim=axis).reshape(-1, size * size)
    maps = maps / (maps.norm(dim=1, keepdim=True) + SMALL)
    return maps.reshape(-1, size, size)


def stages_of(classifier: Classifier, images: UInt8[Tensor, "n c h w"]) -> tuple[str, ...]:
    """Return the paths of the three modules whose output is the last of its size, in order.

    Sizes are those above 1×1 of the least nested modules and of their children. The last three
    count, or as many as there are. Where all have one size, as in transformers, it is the last
    three blocks of the outermost row of blocks instead.

    Args:
        classifier: Its mode stays.
        images: Any few.

    Raises:
        NotApplicable: No output is a map.
    """
    sides = _sides(classifier, images)
    if not sides:
        raise NotApplicable("the network has no feature maps or tokens of more than one place")
    least = min(path.count(".") for path in sides)
    last: dict[int, str] = {}
    for path, size in sides.items():
        depth = path.count(".")
        if depth <= least + 1 and depth <= last.get(size, path).count("."):
            last[size] = path
    paths = tuple(sorted(last.values(), key=list(sides).index))
    if len(last) == 1:
        return _blocks(classifier.network, sides) or paths
    return paths[-3:]


@contextmanager
def watched(network: nn.Module, paths: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that each pass inside fills with the outputs of modules, by path."""
    outputs: dict[str, Tensor] = {}
    handles = []
    for path in paths:

        def keep(_module: nn.Module, _inputs: object, output: Tensor, path: str = path) -> None:
            outputs[path] = output

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _side(shape: torch.Size) -> int | None:
    """Return the side of the maps that an output of a shape is, if it is any, above 1."""
    size = 0
    if len(shape) == 4 and shape[2] == shape[3]:
        size = shape[2]
    elif len(shape) == 4 and shape[1] == shape[2]:
        size = shape[1]
    elif len(shape) == 3:
        size = isqrt(shape[1])
    return size if size > 1 else None


def _sides(classifier: Classifier, images: Tensor) -> dict[str, int]:
    """Return the side of each module's maps by path, in the order in which they are computed."""
    sides: dict[str, int] = {}
    handles = []
    for path, module in classifier.network.named_modules():

        def note(_module: nn.Module, _inputs: object, output: object, path: str = path) -> None:
            # What depends on no parameter is the image itself, such as a resized one.
            if isinstance(output, Tensor) and output.requires_grad:
                size = _side(output.shape)
                if size is not None:
                    sides[path] = size

        if path:
            handles.append(module.register_forward_hook(note))
    training = classifier.network.training
    classifier.network.eval()
    try:
        classifier.logits(images)
    finally:
        classifier.network.train(training)
        for handle in handles:
            handle.remove()
    return sides


def _blocks(network: nn.Module, sides: dict[str, int]) -> tuple[str, ...]:
    """Return the last three blocks of the first row of at least two blocks of one class."""
    for path, row in network.named_modules():
        if not isinstance(row, (nn.Sequential, nn.ModuleList)):
            continue
        prefix = f"{path}." if path else ""
        found = [
            (f"{prefix}{name}", type(block))
            for name, block in row.named_children()
            if f"{prefix}{name}" in sides and any(True for _ in block.parameters())
        ]
        if len(found) > 1 and len({kind for _, kind in found}) == 1:
            return tuple(name for name, _ in found[-3:])
    return ()
