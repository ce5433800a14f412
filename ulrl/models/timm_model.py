"""Any image classifier of the timm library, as ``timm:NAME``."""

from collections import Counter
from dataclasses import dataclass, field

from torch import nn

from ulrl.models import _timm
from ulrl.models._base import register
from ulrl.models._pretrained import IMAGENET, WEIGHTS, Pretrainable, State, bare, fetch, inside
from ulrl.models._resize import Resize
from ulrl.models._vit_names import timm_names
from ulrl.registry import options_of


@register("timm")
@dataclass(frozen=True, kw_only=True)
class TimmModel(Pretrainable):
    """A model of ``timm`` behind a resize; its names follow a leading ``1.``.

    It has one linear layer at its end, whose rows are what ULRL judges: models with a
    convolution there, with several such layers or with none are refused. Drop rates are
    those that timm's model has by default.

    Attributes:
        model: As timm calls it, with or without the tag of its weights.
        size: Side in pixels to which images are resized inside. By default the model's own
            if it takes no other, else the images' own, or the model's where they are too
            small for it.
        classifier: Path of the last linear layer inside timm's model; by default what timm
            says.
        weights: What training starts from: ``imagenet``, the weights of the model's tag or
            of its default one; or a file with timm's or this project's names (of a vision
            transformer, torchvision's and Hugging Face's too); by default a random draw.
    """

    model: str
    size: int | None = None
    classifier: str | None = None
    weights: str | None = field(default=None, metadata=WEIGHTS)

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= 2048:
            raise ValueError(f"size is in pixels, from 1 to 2048; got {self.size}")
        if self.weights == IMAGENET and self.published is None:
            raise ValueError(f"timm has no weights of {self.model}; leave weights out")
        self.check_weights()
        _timm.check(self.model, self.size, self._classifier)

    @property
    def called(self) -> str:
        return f"timm:{self.model}"

    @property
    def label(self) -> str:
        options = options_of(self._without_folder())
        del options["model"]
        listed = ",".join(f"{name}={value}" for name, value in options.items())
        return f"{self.called}({listed})" if listed else self.called

    @property
    def head(self) -> str:
        return f"1.{self._classifier}"

    @property
    def published(self) -> str | None:
        return _timm.model_info_of(self.model).published

    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        size = _timm.default_size(self.model, side) if self.size is None else self.size
        network = _timm.create(self.model, self.size, num_classes=classes, in_chans=channels)
        return nn.Sequential(Resize(size), network)

    def fetched(self, network: nn.Module) -> State:
        del network

        def make() -> nn.Module:
            return _timm.create(self.model, self.size, pretrained=True)

        return inside(fetch(make, str(self.published)))

    def named(self, state: State, network: nn.Module) -> State:
        given = timm_names(bare(state))
        renewed = _timm.renewed(network.get_submodule("1"), given)
        # What timm left out, added or interpolated would make it another network.
        return inside(renewed if _sizes(renewed) == _sizes(given) else given)

    def translated(self, state: State, network: nn.Module) -> State:
        return inside(_timm.renewed(network.get_submodule("1"), timm_names(bare(state))))

    @property
    def _classifier(self) -> str:
        return _timm.classifier_of(self.model) if self.classifier is None else self.classifier


def _sizes(state: State) -> Counter[int]:
    return Counter(value.numel() for value in state.values())
