"""Architectures that can start from trained weights."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ulrl.models._base import Architecture, WeightsError
from ulrl.models._weight_files import SUFFIXES, digest, read_weights
from ulrl.randomness import preserved_default_rng
from ulrl.registry import label_of

IMAGENET = "imagenet"
# What makes a field's value a place: it is in no key, and a study's reader makes it absolute.
WEIGHTS: Mapping[str, Any] = {"runtime": True, "words": (IMAGENET,)}
INSIDE = "1."  # what names begin with that lie behind a resize
SHOWN = 5  # differences that a message lists

State = dict[str, Tensor]


class Pretrainable(Architecture):
    """An architecture with an option ``weights``: ``imagenet``, or a file.

    A file fits if it has each entry of the network, by name and shape, and no other. The
    head stays as drawn where the file has none or one for another number of classes.
    Weights of three channels are summed for images of one, as timm does.
    """

    replayable = True

    @property
    @abstractmethod
    def weights(self) -> str | None:
        """What training starts from; by default a random draw."""

    @property
    def published(self) -> str | None:
        """The name of the weights that ``imagenet`` means, where there are any."""
        return None

    @property
    def label(self) -> str:
        return label_of(self._without_folder())

    def identity(self) -> dict[str, Any]:
        if self.weights is None:
            return {}
        return {"weights": self.published if self.weights == IMAGENET else digest(self.weights)}

    def start(self, network: nn.Module) -> None:
        if self.weights is None:
            return
        if self.weights == IMAGENET:
            state = self.fetched(network)
            given = {name: v for name, v in state.items() if not name.startswith(f"{self.head}.")}
        else:
            given = self.translated(read_weights(self.weights), network)
        _fit(network, given, self)

    def fetched(self, network: nn.Module) -> State:
        """Return the published weights under the network's own names, fetched if need be.

        Raises:
            WeightsError: They cannot be fetched.
        """
        raise NotImplementedError

    def translated(self, state: State, network: nn.Module) -> State:
        """Return what training starts from, of a file's weights: as `named`, or interpolated."""
        return self.named(state, network)

    def check_weights(self) -> None:
        """Raise ``ValueError`` unless `weights` can name some."""
        if self.weights is None or (self.weights == IMAGENET and self.published is not None):
            return
        if not self.weights.endswith(SUFFIXES):
            there = "" if self.published is None else f"{IMAGENET} or "
            *most, last = SUFFIXES
            rule = f"weights is {there}a file that ends in {', '.join(most)} or {last}"
            raise ValueError(f"{rule}; got {Path(self.weights).name!r}")

    def _without_folder(self) -> "Pretrainable":
        """Return a copy that says what a label may: a file's name, and not where it lies."""
        if self.weights is None:
            return self
        final: Any = self  # a dataclass, as each final architecture is
        copy: Pretrainable = replace(final, weights=Path(self.weights).name)
        return copy


def bare(state: State) -> State:
    """Return weights under the names that they have without a resize before the network."""
    if all(name.startswith(INSIDE) for name in state):
        return {name.removeprefix(INSIDE): value for name, value in state.items()}
    return state


def inside(state: State) -> State:
    """Return weights under the names that they have behind a resize."""
    return {f"{INSIDE}{name}": value for name, value in state.items()}


def fetch(make: Callable[[], nn.Module], published: str) -> State:
    """Return the weights of the network that `make` builds and fetches.

    Raises:
        WeightsError: `make` fails, whatever the reason.
    """
    try:
        with preserved_default_rng():
            return make().state_dict()
    except Exception as error:  # whatever a network, a proxy or a disk comes up with
        raise WeightsError(
            f"weights {published} cannot be fetched ({type(error).__name__}); where there is "
            f"no network, download the file elsewhere and write weights: FILE.safetensors"
        ) from error


def _fit(network: nn.Module, given: State, architecture: Pretrainable) -> None:
    """Load `given` into `network`, or say why not and leave it as it is."""
    own = network.state_dict()
    head = f"{architecture.head}."
    mine = {name for name in own if name.startswith(head)}
    if any(given[name].shape[:1] != own[name].shape[:1] for name in mine & given.keys()):
        given = {name: value for name, value in given.items() if name not in mine}
    given = {name: _summed(value, own.get(name)) for name, value in given.items()}
    optional = mine if mine.isdisjoint(given) else set()
    differences = _differences(own, given, optional)
    if differences:
        shown = differences[:SHOWN]
        rest = len(differences) - len(shown)
        listed = "; ".join([*shown, f"and {rest:,} more"] if rest else shown)
        count = f"{len(differences):,} difference{'s' if len(differences) > 1 else ''}"
        raise WeightsError(
            f"{architecture.weights} does not fit {architecture.label}: {count}: {listed}"
        )
    network.load_state_dict({**own, **given})


def _differences(own: Mapping[str, Tensor], given: State, optional: set[str]) -> list[str]:
    lines = [
        f"it lacks {name}"
        for name in own
        # Old files have no such counters, and nothing here reads them.
        if not (name in given or name in optional or name.endswith("num_batches_tracked"))
    ]
    for name, value in given.items():
        if name not in own:
            lines.append(f"the network has no {name}")
        elif value.shape != own[name].shape:
            sizes = f"{list(value.shape)}, not {list(own[name].shape)}"
            lines.append(f"{name} is {sizes}")
    return lines


def _summed(value: Tensor, own: Tensor | None) -> Tensor:
    """Return a convolution of red, green and blue as one that sees the same value in each."""
    if own is not None and value.ndim == own.ndim == 4 and value.shape[1] == 3 > own.shape[1]:
        return value.sum(dim=1, keepdim=True)
    return value
