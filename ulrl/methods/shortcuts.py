"""Suppress a residual block's shortcut, then fine-tune its stage (ICASSP 2023)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.fitting import BATCHNORM, Epoch, SGDConfig, Sources, raise_if_diverged, train
from ulrl.messages import nearest
from ulrl.methods._base import RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.methods.nc import NeuralCleanse, stamp
from ulrl.models import Classifier, restore
from ulrl.precision import Precision

PROBE = "probe"
FACTORS = tuple(step / 10 for step in range(11))  # at which a probe measures


class Trained(StrEnum):
    """Which parameters are fine-tuned."""

    STAGE = "stage"  # those of the block and its neighbours, the official code's
    ALL = "all"


@register("shortcuts")
@dataclass(frozen=True, kw_only=True)
class Shortcuts(RepairMethod):
    """Multiply the output of one block's shortcut by a factor, for good, and fine-tune.

    After "Backdoor Defense via Suppressing Model Shortcuts" (Yang et al., ICASSP 2023); defaults
    are the official code's, but for the block. There the block is chosen on poisoned test images
    (mostly ``layer3.1``, of an identity shortcut). Here it is named, or chosen with a stand-in for
    the trigger, made from clean samples: the smallest one that Neural Cleanse finds, by a search
    that trials of ``nc`` share.

    Only blocks with a projection in the shortcut are offered. Their factor goes into the weights
    of the projection's last layer, exactly; an identity has no weights.

    Attributes:
        block: Path of the block, such as ``layer3.0``, or ``probe``.
        gamma: The factor, in [0, 1]; with 0 the shortcut is cut.
        trained: Which parameters are fine-tuned.
        lr: Learning rate, above 0; it stays as it is.
        epochs: Passes over the samples, from 1 to 1000. They are seen as they are.
        weight_decay: L2 penalty, in [0, 1).
        batch_size: Samples per step; a last short batch is left out.
    """

    block: str = PROBE
    gamma: float = 0.0
    trained: Trained = Trained.STAGE
    lr: float = 0.01
    epochs: int = 10
    weight_decay: float = 5e-4
    batch_size: int = 128

    def __post_init__(self) -> None:
        if not self.block:
            raise ValueError(f"block is the path of a block, or {PROBE}; got nothing")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is in [0, 1]; got {self.gamma}")
        self.sgd.check("", self.lr)

    @property
    def sgd(self) -> SGDConfig:
        """How the network is fine-tuned."""
        return SGDConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=lambda _: self.lr,
            weight_decay=self.weight_decay,
            precision=Precision.AMP,
            augment=False,
            drop_last=True,
        )

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the block, or any block, has no projection shortcut."""
        offered = list(projections(network))
        if not offered:
            raise ValueError(
                f"{self.name} needs residual blocks with a projection in the shortcut, and the "
                f"network has none: elsewhere there are no weights that could hold the factor"
            )
        if self.block == PROBE:
            NeuralCleanse().check(network, head, classes)
        elif self.block not in offered:
            reason = "there is no such block"
            if self.block in dict(_blocks(network)):
                reason = "its shortcut is an identity, without weights that could hold the factor"
            raise ValueError(
                f"block is {' or '.join(offered)} for {self.name} on this network, or {PROBE}; got "
                f"{self.block}: {reason}{nearest(self.block, offered)}"
            )

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """Fine-tuning alone if the block is named; else the search and the probe before it."""
        suppress = SuppressShortcut(config=self)
        if self.block != PROBE:
            return (suppress,)
        search, _ = NeuralCleanse().stages
        return search, ProbeShortcuts(), suppress


@dataclass(frozen=True, kw_only=True)
class ProbeShortcuts(RepairStage):
    """Measure how the success of the smallest trigger depends on each block's factor."""

    name = "shortcut_probe"

    def reads(self, before: Tensors) -> Tensors:
        """Return the smallest trigger and its class."""
        label = before["norms"].argmin().reshape(1)
        return {
            "label": label,
            "mask": before["masks"][label],
            "pattern": before["patterns"][label],
        }

    def cost(self, samples: int) -> float:
        """Return a forward pass for each factor of three blocks."""
        return len(FACTORS) * 3 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the rates and the blocks' scores.

        Returns:
            ``rates`` ``[blocks, factors]``, the share of stamped images of other classes that are
            taken for the trigger's, at factors 0, 0.1, ..., 1; ``scores`` ``[blocks]``, see
            `sensitivity`. Blocks are in the order of `projections`.
        """
        trigger = self.reads(before)
        classifier = restore(context.victim, context.device)
        samples, label = context.clean.samples, int(trigger["label"])
        others = samples.images[samples.labels != label]
        stamped = stamp(others, trigger["mask"][0], trigger["pattern"][0])
        layers = projections(classifier.network)
        rates = torch.zeros(len(layers), len(FACTORS))
        for row, layer in enumerate(layers.values()):
            original = {name: value.clone() for name, value in layer.state_dict().items()}
            for column, factor in enumerate(FACTORS):
                layer.load_state_dict(original)
                scale(layer, factor)
                if len(others):
                    hits = classifier.predict(stamped) == label
                    rates[row, column] = hits.float().mean()
            layer.load_state_dict(original)
            yield Step(row + 1, len(layers))
        return {"rates": rates, "scores": sensitivity(rates)}


@dataclass(frozen=True, kw_only=True)
class SuppressShortcut(RepairStage):
    """Fold the factor into a block's shortcut and fine-tune around it.

    Attributes:
        config: Block, factor and training; with ``probe`` the block of the highest score.
    """

    config: Shortcuts

    name = "suppress_shortcut"

    def reads(self, before: Tensors) -> Tensors | None:
        """Return the number of the block that the probe chose."""
        if self.config.block != PROBE:
            return None
        return {"block": before["scores"].argmax().reshape(1)}

    def cost(self, samples: int) -> float:
        """Return a pass per epoch."""
        return float(self.config.epochs * samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network.

        Raises:
            DivergedError: Training left the finite numbers.
        """
        classifier = restore(context.victim, context.device)
        chosen, layers = self.reads(before), projections(classifier.network)
        block = self.config.block if chosen is None else list(layers)[int(chosen["block"])]
        _suppress(layers[block], self.config.gamma)
        if self.config.trained is Trained.STAGE:
            _freeze_outside(classifier, block.rpartition(".")[0] or block)

        def look(epoch: Epoch) -> None:
            context.observe(classifier)
            if epoch.number == self.config.epochs:
                classifier.predict(context.clean.samples.images)

        sources = Sources.of(context.clean.seed, "shortcuts")
        epochs = train(classifier, context.clean.samples, _loss, self.config.sgd, sources)
        for epoch in raise_if_diverged(epochs, "shortcuts", "a smaller lr", look):
            yield Step(epoch.number, self.config.epochs)
        return classifier.weights().state


def projections(network: nn.Module) -> dict[str, nn.Module]:
    """Return, by its block's path, the last layer of each shortcut that ends in a linear map."""
    found: dict[str, nn.Module] = {}
    for path, block in _blocks(network):
        shortcut = getattr(block, "shortcut", None) or getattr(block, "downsample", None)
        if isinstance(shortcut, nn.Sequential) and len(shortcut):
            last = shortcut[-1]
            if isinstance(last, nn.Conv2d) or (isinstance(last, BATCHNORM) and last.affine):
                found[path] = last
    return found


def _blocks(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield residual blocks by path: two convolutions, and a place for a shortcut.

    Other networks call a layer on their one path ``downsample``.
    """
    for path, module in network.named_modules():
        children = dict(module.named_children())
        place = hasattr(module, "shortcut") or hasattr(module, "downsample")
        if place and {"conv1", "conv2"} <= children.keys():
            yield path, module


def scale(layer: nn.Module, factor: float) -> None:
    """Multiply what a convolution or a BatchNorm gives by a factor, in place."""
    with torch.no_grad():
        for parameter in layer.parameters(recurse=False):
            parameter.mul_(factor)


def sensitivity(rates: Float[Tensor, "blocks factors"]) -> Float[Tensor, " blocks"]:
    """Return the largest rise of the rate between two factors, over exp of the rate before it."""
    before, after = rates[:, :-1], rates[:, 1:]
    return ((after - before) / before.exp()).max(dim=1).values


def _suppress(layer: nn.Module, gamma: float) -> None:
    """Fold the factor in, and let the layer learn as it would with the factor after it.

    With w the weight and gamma · w what is stored, the gradient of w is gamma times that of what is
    stored, and a step of w moves that by gamma times as much. Momentum and weight decay are linear,
    so they follow.
    """
    scale(layer, gamma)
    for parameter in layer.parameters(recurse=False):
        parameter.register_hook(lambda gradient: gradient * gamma**2)  # type: ignore[no-untyped-call]


def _freeze_outside(classifier: Classifier, stage: str) -> None:
    for name, parameter in classifier.network.named_parameters():
        parameter.requires_grad_(name.startswith(f"{stage}."))


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels)
