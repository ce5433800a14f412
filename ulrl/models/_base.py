"""What an architecture is, and the one way a network is built, fed and copied."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Generator, Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode

from ulrl.datasets import Preprocessing
from ulrl.errors import DivergedError
from ulrl.randomness import preserved_default_rng, seeded_default_rng
from ulrl.registry import label_of, registrar

ARCHITECTURES: dict[str, type["Architecture"]] = {}
register = registrar("architecture", ARCHITECTURES)

EVALUATION_BATCH = 500  # fixed: another batch size may change the last bit of a logit
_OF_ONE = "Expected more than 1 value per channel"  # what torch's BatchNorm says of one value
TOO_SMALL = (
    "batches of 1 are too small for this network: BatchNorm over features of 1 × 1 needs two "
    "images at least"
)


class WeightsError(Exception):
    """Weights cannot be had or do not fit; the message says which and what to do."""


class Architecture(ABC):
    """A family member with its options; each subclass is a final frozen dataclass.

    Attributes:
        name: In study files.
        replayable: Whether a training step does the same on every batch of one length, so that
            on a GPU it may be recorded and replayed: no branch on values or on Python's own
            chance. Dropout is fine.
    """

    name: ClassVar[str]
    replayable: ClassVar[bool] = False

    @property
    def called(self) -> str:
        """What a study file calls it, without its options."""
        return self.name

    @property
    def head(self) -> str:
        """Path of the last linear layer inside the built module, if all images have one path."""
        raise NotImplementedError

    def head_for(self, *, classes: int, channels: int, side: int) -> str:
        """Return the path of the last linear layer of a network for such images."""
        del classes, channels, side
        return self.head

    def check(self, *, classes: int, channels: int, side: int) -> None:
        """Raise ``ValueError`` where there can be no network for such images."""
        del classes, channels, side  # most are made for all

    @property
    def label(self) -> str:
        """The name a table shows; it tells variants apart."""
        return label_of(self)

    def identity(self) -> dict[str, Any]:
        """Return plain values that fix what `start` loads, beyond the options: never a path.

        Raises:
            WeightsError: They are not known because a file is missing.
        """
        return {}

    def named(self, state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Return a file's weights under the names that `network` has, as far as they are known.

        Numbers stay as they are. `network` may be without numbers (on torch's ``meta``).
        """
        del network
        return state

    def start(self, network: nn.Module) -> None:
        """Load what training starts from, where that is more than a random draw.

        Raises:
            WeightsError: The weights cannot be had, or do not fit.
        """
        del network  # most start from scratch

    @abstractmethod
    def build(self, *, classes: int, channels: int, side: int) -> nn.Module:
        """Return a new network for images of `channels` × `side` × `side`.

        Initial weights come from torch's default generator, as layers draw them.
        """


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """All that is needed to build a network for given images, but its weights."""

    architecture: Architecture
    classes: int
    channels: int
    side: int
    preprocessing: Preprocessing

    @property
    def head(self) -> str:
        """Path of the last linear layer inside the network."""
        return self.architecture.head_for(
            classes=self.classes, channels=self.channels, side=self.side
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """A network's parameters and buffers by name, on the CPU, with its specification."""

    model_spec: ModelSpec
    state: dict[str, Tensor] = field(repr=False)

    @property
    def head(self) -> Float[Tensor, "classes fan_in"]:
        """Weight of the last linear layer: a row per class."""
        return self.state[f"{self.model_spec.head}.weight"]


class Classifier:
    """A network on a device, fed with uint8 images."""

    def __init__(self, model_spec: ModelSpec, network: nn.Module, device: torch.device) -> None:
        self.model_spec = model_spec
        self.device = device
        # Convolutions are faster so: by a quarter for narrow networks on one CPU thread.
        self.network: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (1, -1, 1, 1)
        preprocessing = model_spec.preprocessing
        self._mean = 255 * torch.tensor(preprocessing.mean, device=device).reshape(shape)
        self._std = 255 * torch.tensor(preprocessing.std, device=device).reshape(shape)

    @property
    def head(self) -> nn.Linear:
        """The last linear layer."""
        head = self.network.get_submodule(self.model_spec.head)
        if not isinstance(head, nn.Linear):
            raise TypeError(
                f"{self.model_spec.head} is {type(head).__name__}, not a linear layer, as "
                f"repair methods and audits need it"
            )
        return head

    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores in the network's present mode; gradients are recorded.

        Raises:
            ValueError: BatchNorm in train mode has a single value per channel: one image of 1 × 1.
        """
        inputs = (images.to(self.device).float() - self._mean) / self._std
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        try:
            scores: Tensor = self.network(inputs)
        except ValueError as error:
            if _OF_ONE in str(error):
                raise ValueError(TOO_SMALL) from error
            raise
        return scores

    @torch.no_grad()
    def predict(self, images: UInt8[Tensor, "n c h w"]) -> Tensor:
        """Return the predicted class of each image, on the CPU; the mode is kept.

        On a GPU matrix products take TF32 as convolutions there do by torch's default: a
        transformer's tests take 27 % of the time.

        Raises:
            DivergedError: A class score is not finite; the largest of NaN would be class 0.
        """
        training = self.network.training
        self.network.eval()
        found = []
        with _tensor_cores(self.device):
            for batch in torch.split(images, EVALUATION_BATCH):
                scores = self.logits(batch)
                finite = scores.isfinite().all(dim=1)
                found.append(torch.where(finite, scores.argmax(dim=1), -1))
        self.network.train(training)
        predictions = torch.cat(found).cpu()
        wrong = int((predictions < 0).sum())
        if wrong:
            raise DivergedError(
                f"the network's outputs are not finite for {wrong} of {len(predictions)} images"
            )
        return predictions

    def weights(self) -> Weights:
        """Return a copy of the present weights."""
        state = self.network.state_dict()
        copies = {
            name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name, value in state.items()
        }
        return Weights(model_spec=self.model_spec, state=copies)


def initialise(model_spec: ModelSpec, source: Generator, device: torch.device) -> Classifier:
    """Return a new classifier whose initial weights depend on `source` alone."""
    with seeded_default_rng(source):
        network = _build(model_spec)
    model_spec.architecture.start(network)
    return Classifier(model_spec, network, device)


def restore(weights: Weights, device: torch.device) -> Classifier:
    """Return a classifier with a copy of `weights`."""
    with preserved_default_rng(), _Undrawn():
        classifier = Classifier(weights.model_spec, _build(weights.model_spec), device)
    classifier.network.load_state_dict(weights.state)
    return classifier


class _Undrawn(TorchFunctionMode):
    """Leaves out the random draws of layers whose weights are about to be loaded.

    They are most of what it takes to build a network; whatever draws in another way than
    these does so as ever, and is overwritten. Tensors' own draws stay: `init.trunc_normal_`
    repeats them until what it finds lies within its bounds, which it otherwise never might.
    """

    _DRAWS: ClassVar = frozenset(
        {
            init.kaiming_normal_,
            init.kaiming_uniform_,
            init.normal_,
            init.uniform_,
            init.xavier_normal_,
            init.xavier_uniform_,
        }
    )

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        given = kwargs or {}
        if func in self._DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def _tensor_cores(device: torch.device) -> Iterator[None]:
    """Let products of float32 matrices on a GPU be taken in TF32 inside."""
    if device.type != "cuda":
        yield
        return
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    products.fp32_precision = "tf32"
    try:
        yield
    finally:
        products.fp32_precision = before


def _build(model_spec: ModelSpec) -> nn.Module:
    return model_spec.architecture.build(
        classes=model_spec.classes, channels=model_spec.channels, side=model_spec.side
    )
