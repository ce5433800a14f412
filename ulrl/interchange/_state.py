"""State dicts from outside, and the rule by which they become a network's weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ulrl.interchange._refusal import ImportRefused, reason_of, shown
from ulrl.interchange._torchfile import read_torch
from ulrl.models import ModelSpec, Weights
from ulrl.randomness import preserved_default_rng

# Keys under which programs keep the network; beside them, copies by other names (averages,
# generators of triggers) do not count.
WRAPPERS = ("model", "state_dict", "model_state_dict", "net", "network", "weights", "netC")
# What wrappers put before each name: DataParallel, torch.compile, Lightning and the like.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "netC.", "backbone.")
COUNTER = "num_batches_tracked"
NAMED = 3  # entries that a message names of each kind of difference

State = dict[str, Tensor]


def read_state(path: str | Path) -> State:
    """Return the tensors by name of a ``.safetensors`` or ``torch.save`` file.

    A file of ``torch.save`` holds the state dict itself, or a dict with it under one of
    ``model``, ``state_dict``, ``model_state_dict``, ``net``, ``network``, ``weights`` and
    ``netC``, or under another key if no other dict there has tensors by name. Prefixes of
    wrappers (``module.``, ``_orig_mod.``, ``model.``, ``net.``, ``network.``, ``netC.``,
    ``backbone.``) are taken off, in any order, while one of them is before every name. A
    weight that torch's pruning left as ``NAME_orig`` and ``NAME_mask`` becomes their product.

    Raises:
        ImportRefused: It is no such file, is damaged or holds more than tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise ImportRefused(f"{path} is a folder; name the file with the weights")
    if path.exists() and not path.is_file():
        raise ImportRefused(f"{path} is no regular file; name the file with the weights")
    if path.suffix == ".safetensors":
        return as_state(_read_safetensors(path), str(path))
    content = read_torch(path)
    if not isinstance(content, Mapping):
        raise ImportRefused(
            f"{path} holds no state dict but a {type(content).__name__}; save model.state_dict()"
        )
    return as_state(_unwrapped(content, str(path)), str(path))


def _unwrapped(content: Mapping[Any, Any], source: str) -> Mapping[Any, Any]:
    """Return the state dict of a file, which may lie in dicts of other things."""
    while True:
        found = [name for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not found:
            found = [name for name, value in content.items() if _is_state(value)]
        if len(found) > 1:
            listed = ", ".join(shown(name)[1:-1] for name in found)
            raise ImportRefused(
                f"{source} has a dict under each of {listed}, and which is meant is not clear; "
                f"save the state dict alone"
            )
        if not found:
            return content
        content = content[found[0]]


def _is_state(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) for name in value)
        and all(isinstance(one, Tensor) for one in value.values())
    )


def as_state(content: object, source: str) -> State:
    """Return a state dict with plain names and whole tensors; `source` begins each message.

    Raises:
        ImportRefused: It is no dict of tensors by name.
    """
    if not isinstance(content, Mapping) or not content:
        raise ImportRefused(f"{source} holds no tensors by name; save model.state_dict()")
    state = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ImportRefused(
                f"{source}: a state dict has tensors by name; got {shown(name)} with a "
                f"{type(value).__name__}; save model.state_dict()"
            )
        state[name] = _plain(name, value, source)
    return _unpruned(_peeled(state), source)


def fit_state(state: State, model_spec: ModelSpec, source: str = "the state dict") -> Weights:
    """Return `state` as weights of the network that `model_spec` describes, by name and shape.

    Names may be this project's or, of ``timm:NAME`` and ``vit_b_16``, those of the network
    without a resize before it: timm's, and for vision transformers torchvision's and Hugging
    Face's. Floating-point numbers take the network's precision; nothing is interpolated. The
    one thing that may be missing is BatchNorm's ``num_batches_tracked``, which old
    checkpoints lack and which changes no output: it becomes 0. `source` begins each message.

    Raises:
        ImportRefused: Names or shapes differ, or a number is not finite.
    """
    network = sketch_of(model_spec)
    expected = network.state_dict()
    given = model_spec.architecture.named(state, network)
    _check_names(given, expected, f"{source} does not fit {model_spec.architecture.label}")
    fitted = {
        name: _converted(given[name], like, name, source)
        if name in given
        else torch.zeros(like.shape, dtype=like.dtype)
        for name, like in expected.items()
    }
    return Weights(model_spec=model_spec, state=fitted)


def sketch_of(model_spec: ModelSpec) -> nn.Module:
    """Return the network of a specification, without numbers; no generator is drawn from."""
    with preserved_default_rng(), torch.device("meta"):
        return model_spec.architecture.build(
            classes=model_spec.classes, channels=model_spec.channels, side=model_spec.side
        )


def _read_safetensors(path: Path) -> State:
    from safetensors.torch import load

    try:
        # The bytes, not a map of the file: that would change under us if the file does.
        return load(path.read_bytes())
    except FileNotFoundError as error:
        raise ImportRefused(f"{path} is not there; check the path") from error
    except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
        raise ImportRefused(
            f"{path} cannot be read as safetensors ({reason_of(error)}); it is damaged or of "
            f"another format: fetch it again"
        ) from error


def _peeled(state: State) -> State:
    """Return a state dict without what wrappers put before every name."""
    while prefix := next(
        (one for one in PREFIXES if all(name.startswith(one) for name in state)), None
    ):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _plain(name: str, value: Tensor, source: str) -> Tensor:
    """Return a dense tensor whose every number is in the file, and finite."""
    value = value.detach()
    dense = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if type(value) is not Tensor or not dense or value.is_complex():
        raise ImportRefused(
            f"{source}: {shown(name)} is sparse, quantised, complex or of a special kind; save "
            f"dense tensors of real numbers"
        )
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ImportRefused(
            f"{source}: {shown(name)} claims {value.numel()} numbers, more than are in the file; "
            f"save contiguous tensors"
        )
    if value.is_floating_point():
        _check_finite(value.float(), name, source)
    return value


def _check_finite(value: Tensor, name: str, source: str) -> None:
    wrong = int((~value.isfinite()).sum())
    if wrong:
        raise ImportRefused(
            f"{source}: {shown(name)[1:-1]} has {wrong} of {value.numel()} numbers that are NaN "
            f"or infinite in {value.dtype}; take a checkpoint from before training diverged"
        )


def _unpruned(state: State, source: str) -> State:
    """Fold what ``torch.nn.utils.prune`` has taken apart."""
    folded = dict(state)
    for name, mask in state.items():
        stem = name.removesuffix("_mask")
        if stem == name or f"{stem}_orig" not in state:
            continue
        original = state[f"{stem}_orig"]
        sound = stem not in state and mask.shape == original.shape
        if not sound or not bool(((mask == 0) | (mask == 1)).all()):
            raise ImportRefused(
                f"{source}: {shown(name)} is no mask of 0 and 1 for {shown(stem)}; make pruning "
                f"permanent with torch.nn.utils.prune.remove before saving"
            )
        del folded[name], folded[f"{stem}_orig"]
        folded[stem] = original * mask.to(original.dtype)
    return folded


def _check_names(given: State, expected: State, beginning: str) -> None:
    missing = [
        name for name in expected if name not in given and name.rpartition(".")[2] != COUNTER
    ]
    unexpected = [name for name in given if name not in expected]
    reshaped = [
        f"{name} {list(value.shape)} instead of {list(expected[name].shape)}"
        for name, value in given.items()
        if name in expected and value.shape != expected[name].shape
    ]
    kinds = ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
    found = [f"{len(names)} {kind} ({_some(names)})" for names, kind in kinds if names]
    if found:
        raise ImportRefused(
            f"{beginning}: {'; '.join(found)}; name the architecture, its options and the dataset "
            f"that the file was made with"
        )


def _some(names: list[str]) -> str:
    first = ", ".join(shown(name)[1:-1] for name in names[:NAMED])
    return first if len(names) <= NAMED else f"{first}, ..."


def _converted(value: Tensor, like: Tensor, name: str, source: str) -> Tensor:
    if value.is_complex() or value.is_floating_point() != like.is_floating_point():
        raise ImportRefused(
            f"{source}: {name} is {value.dtype}, and the network has {like.dtype}; save the state "
            f"dict as trained"
        )
    converted = value.to(like.dtype, copy=True, memory_format=torch.contiguous_format)
    _check_finite(converted, name, source)
    return converted
