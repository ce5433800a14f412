"""Masks on the scales of BatchNorm's channels, as RNP and ANP learn and cut by them."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ulrl.attacks import Step
from ulrl.fitting import Epoch, raise_if_diverged
from ulrl.methods._base import RepairContext, Tensors
from ulrl.methods._cuts import Cut, Rule, findings, sweep
from ulrl.methods._loop import hold_out
from ulrl.methods._options import ORACLE_LOSS, batchnorms, check_batchnorm, cut_of
from ulrl.methods._tuning import CuttingMethod
from ulrl.models import Classifier, Weights, restore
from ulrl.sgd import SGD

# Scores at which held-out accuracy is taken: masks of at most 0, 0.01, …, 0.99. The official codes
# take 0.05 apart; with few samples there are few steps, after which most masks lie above 0.9.
LEVELS = tuple(-step / 100 for step in range(100))
PUBLISHED_LEVELS = LEVELS[::5]


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise:
    """How a network is disturbed: all scales are (mask + `scale`) times, all shifts 1 + `shift`.

    Attributes:
        scale: Added to the masks.
        shift: Relative change of the shifts.
    """

    scale: Float[Tensor, " channels"]
    shift: Float[Tensor, " channels"]


class Masked(nn.Module):
    """A network whose BatchNorm scales are multiplied by masks, all of which begin at 1.

    Nothing but the masks is to be trained.

    Attributes:
        masks: Of all layers, in the order of their modules.
        noise: Added in each pass; None for none.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network.requires_grad_(requires_grad=False)
        self._norms = tuple(batchnorms(network))  # a tuple, which does not register them again
        self._sizes = [len(norm.weight) for _, norm in self._norms]
        device = next(network.parameters()).device
        self.masks = nn.Parameter(torch.ones(sum(self._sizes), device=device))
        self.noise: Noise | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the network's outputs; gradients flow to masks and noise."""
        factors = self.masks if self.noise is None else self.masks + self.noise.scale
        values = {
            f"{path}.weight": norm.weight * factor
            for (path, norm), factor in zip(
                self._norms, torch.split(factors, self._sizes), strict=True
            )
        }
        if self.noise is not None:
            changes = torch.split(self.noise.shift, self._sizes)
            values |= {
                f"{path}.bias": norm.bias * (1 + change)
                for (path, norm), change in zip(self._norms, changes, strict=True)
            }
        logits: Tensor = functional_call(self._network, values, (inputs,))
        return logits

    def scores(self) -> dict[str, Tensor]:
        """Return minus each mask, by the name of its scale.

        Rounded to four decimals, as the official codes write and compare them.
        """
        rounded = self.masks.detach().cpu().double().round(decimals=4)
        parts = torch.split(rounded, self._sizes)
        return {f"{path}.weight": -part for (path, _), part in zip(self._norms, parts, strict=True)}


class MaskDescent:
    """SGD on masks with momentum 0.9; they stay in [0, 1]."""

    def __init__(self, masked: Masked) -> None:
        self._masks = masked.masks
        self._sgd = SGD(nn.ParameterList([masked.masks]), lr=0.0, momentum=0.9, weight_decay=0.0)

    def step(self, loss: Tensor, rate: float) -> None:
        """Take a step down the loss."""
        self._sgd.param_groups[0]["lr"] = rate
        self._sgd.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._sgd.step()
        with torch.no_grad():
            self._masks.clamp_(0, 1)


def masked_classifier(weights: Weights, device: torch.device) -> tuple[Classifier, Masked]:
    """Return a classifier with masks on a copy of `weights`, and its network."""
    masked = Masked(restore(weights, device).network)
    return Classifier(weights.model_spec, masked, device), masked


def learned(
    epochs: Iterator[Epoch], total: int, masked: Masked, context: RepairContext, name: str
) -> Generator[Step, None, Tensors]:
    """Learn masks, and return their scores with the accuracies on held-out samples.

    Args:
        epochs: The training, of which `masked` is the network.
        total: How many there are.
        masked: With the masks.
        context: Whose victim is cut; `epochs` has trained on the other part of its samples.
        name: Of the stage, for an error.

    Raises:
        DivergedError: Training left the finite numbers.
    """
    whole = total + len(LEVELS)
    for epoch in raise_if_diverged(epochs, name, "a smaller mask_lr"):
        yield Step(epoch.number, whole)
    _, held = hold_out(context.clean, 0.2, context.victim.model_spec.classes)
    classifier = restore(context.victim, context.device)
    cuts = sweep(findings(masked.scores()), LEVELS, classifier, held)
    while True:
        try:
            yield Step(total + next(cuts).done, whole)
        except StopIteration as end:
            found: Tensors = end.value
            return found


def check_training(stage: Any) -> None:
    """Raise ``ValueError`` unless learning rate and batch size of masks are within range."""
    if not 0 < stage.mask_lr <= 100:
        raise ValueError(f"mask_lr is above 0 and at most 100; got {stage.mask_lr}")
    if stage.batch_size < 1:
        raise ValueError(f"batch_size is at least 1; got {stage.batch_size}")


@dataclass(frozen=True, kw_only=True)
class CutByMasks(CuttingMethod):
    """A method that cuts the channels of low masks.

    Attributes:
        rule: ``budget``, ``threshold``, ``largest`` or ``oracle``; by default the one whose option
            is given, else ``budget``.
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
        mask_threshold: Largest mask that is cut, in [0, 1], by default `usual_threshold`.
        share: Of all channels, in [0, 1], by default 0.02.
    """

    usual_threshold: ClassVar[float]

    rule: Rule | None = None
    budget: float | None = None
    mask_threshold: float | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        self.stages  # noqa: B018 - for the rules of their fields

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there is no BatchNorm to mask."""
        super().check(network, head, classes)
        check_batchnorm(network, self.name)

    @property
    def cut(self) -> Cut:
        """The rule with its strength.

        Raises:
            ValueError: An option is out of range, or means nothing by the rule.
        """
        offered = {
            Rule.BUDGET: ("budget", 0.05),
            Rule.THRESHOLD: ("mask_threshold", self.usual_threshold),
            Rule.LARGEST: ("share", 0.02),
            Rule.ORACLE: ("", ORACLE_LOSS),
        }
        cut = cut_of(self, offered)
        return replace(cut, strength=-cut.strength) if cut.rule is Rule.THRESHOLD else cut
