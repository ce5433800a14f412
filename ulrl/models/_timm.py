"""What timm says of its models, and how they are built and looked at."""

import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from ulrl.messages import nearest
from ulrl.models._pretrained import State
from ulrl.randomness import preserved_default_rng

CLASSES = 10  # of a network that is only looked at
# What networks raise for images, and filters for files, that do not suit them.
UNSUITED = (RuntimeError, ValueError, AssertionError, ArithmeticError, LookupError, TypeError)
HUB = re.compile(r"(hf[-_]hub:)?(timm/)?(?P<name>[^/:]+)")  # as the Hugging Face Hub prints names
FILTERS = ("checkpoint_filter_fn", "_filter_fn")  # timm's names for what reads its older files


@dataclass(frozen=True, kw_only=True)
class TimmModelInfo:
    """What timm knows of a model.

    Attributes:
        classifiers: Paths of its last layers: one, several or none.
        sides: Height and width in pixels of the images that it was made for.
        fixed: Whether it takes no other size than it is built for.
        published: Name of its weights, if there are any.
    """

    classifiers: tuple[str, ...]
    sides: tuple[int, int]
    fixed: bool
    published: str | None


@lru_cache(maxsize=256)
def model_info_of(model: str) -> TimmModelInfo:
    """Return what timm knows of a model, whose name may have a tag.

    Raises:
        ValueError: timm has no such model, or none with such a tag.
    """
    from timm.models import PretrainedCfg, get_pretrained_cfg, list_models, list_pretrained

    name, _, tag = model.partition(".")
    models = list_models()
    hub = HUB.fullmatch(model)
    if hub and hub["name"] != model and hub["name"].partition(".")[0] in models:
        raise ValueError(f"timm has no model {model!r}; write timm:{hub['name']}")
    if name not in models:
        raise ValueError(f"timm has no model {model!r}{nearest(name, models)}")
    tagged = list_pretrained(f"{name}.*")
    if tag and model not in tagged:
        raise ValueError(f"timm has no weights {model!r}{nearest(model, tagged)}")
    known = get_pretrained_cfg(model) or PretrainedCfg()
    paths = known.classifier or ()
    found = known.hf_hub_id or known.url
    return TimmModelInfo(
        classifiers=(paths,) if isinstance(paths, str) else tuple(paths),
        sides=known.input_size[1:],
        fixed=bool(known.fixed_input_size),
        published=f"timm/{name}{'.' if known.tag else ''}{known.tag or ''}" if found else None,
    )


def classifier_of(model: str) -> str:
    """Return the path of a model's last layer.

    Raises:
        ValueError: There is not one.
    """
    paths = model_info_of(model).classifiers
    if not paths:
        raise ValueError(f"timm names no last layer of {model}; write classifier: PATH")
    if len(paths) > 1:
        raise ValueError(
            f"{model} has {len(paths)} last layers ({', '.join(paths)}), and a network here has "
            f"one; choose another model, or one of them with classifier: PATH"
        )
    return paths[0]


def create(model: str, size: int | None, **options: Any) -> nn.Module:
    """Return a new network for images of `size`, by default of the model's own size."""
    from timm import create_model

    info = model_info_of(model)
    if size is not None and info.fixed and info.sides != (size, size):
        options["img_size"] = size
    network: nn.Module = create_model(model, **options)
    return network


@lru_cache(maxsize=256)
def check(model: str, size: int | None, classifier: str) -> None:
    """Raise ``ValueError`` unless a model suits ULRL, at a size and with a last layer."""
    try:
        network = _sketch(model, size)
    except UNSUITED as error:
        text = f"{model} cannot be built for images of {size} px; leave size out, or choose another"
        raise ValueError(text) from error
    try:
        layer = network.get_submodule(classifier)
    except AttributeError:
        raise ValueError(f"{model} has no layer {classifier}; classifier names its last") from None
    if not isinstance(layer, nn.Linear) or layer.out_features != CLASSES:
        raise ValueError(
            f"{classifier}, the last layer of {model}, is {type(layer).__name__}, not a linear "
            f"layer with a row for each class, as repair methods and audits need it; "
            f"choose another model, or another layer with classifier: PATH"
        )
    height, width = (size, size) if size else model_info_of(model).sides
    if height != width:
        raise ValueError(f"{model} is made for images of {height} × {width} px; write size: SIDE")
    if not _scores(network, height):
        raise ValueError(
            f"{model} gives no row of scores for an image of {height} px; choose another "
            f"{'size' if size else 'model'}"
        )


@lru_cache(maxsize=256)
def default_size(model: str, side: int) -> int:
    """Return the side that a model sees of images of `side`, where a study does not say it."""
    info = model_info_of(model)
    if not info.fixed and _scores(_sketch(model, None), side):
        return side
    return info.sides[0]


def renewed(network: nn.Module, state: State) -> State:
    """Return a file's weights under the names that timm's present version has."""
    module = sys.modules[type(network).__module__]
    for name in FILTERS:
        if hasattr(module, name):
            rename = getattr(module, name)
            wanted = len(signature(rename).parameters)  # some do not look at the network
            try:
                return dict(rename(*(dict(state), network)[:wanted]))
            except UNSUITED:
                return state  # of no known version; missing entries are listed by name
    return state


@lru_cache(maxsize=8)
def _sketch(model: str, size: int | None) -> nn.Module:
    """Return a network without numbers, to be looked at; chance is left as it was."""
    with preserved_default_rng(), torch.device("meta"):
        return create(model, size, num_classes=CLASSES, in_chans=3)


def _scores(network: nn.Module, side: int) -> bool:
    """Whether a network turns images of `side` into a score per class, in both modes."""
    for training in (True, False):
        network.train(training)
        try:
            with preserved_default_rng(), torch.device("meta"), torch.no_grad():
                scores = network(torch.empty(2, 3, side, side))
        except UNSUITED:
            return False
        if not isinstance(scores, Tensor) or scores.shape != (2, CLASSES):
            return False
    return True
