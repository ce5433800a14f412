"""FP: channels that clean samples leave dormant are cut, then all is tuned (Liu et al., 2018)."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.clean import CleanSamples
from ulrl.errors import NotApplicable
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._cuts import Rule, findings, sweep
from ulrl.methods._loop import hold_out, watch
from ulrl.methods._options import batchnorms, cut_of
from ulrl.methods._tuning import CuttingMethod, SGDTuner, Tune
from ulrl.models import Classifier, restore

SHARES = 100  # cuts at which held-out accuracy is taken: 1 %, 2 %, … of all channels


class Where(StrEnum):
    """Which channels are scored and cut."""

    HEAD = "head"  # inputs of the last linear layer, as BackdoorBench does
    LAST_CONV = "last_conv"  # filters of the last convolution, as the paper does


@register("fine_pruning")
@dataclass(frozen=True, kw_only=True)
class FinePruning(CuttingMethod):
    """Cut the channels of the least mean activation, then fine-tune what is left.

    With `where` ``head``, the weights of the last linear layer for an input are set to 0. With
    ``last_conv`` it is a filter of the convolution that runs last or, where a BatchNorm reads its
    output, that BatchNorm's scale and shift: its filter alone would leave a constant. What is cut
    stays 0. BackdoorBench cuts until the accuracy in the test set has fallen, and tunes the first
    network beyond that; here it is the last before, by held-out samples.

    Attributes:
        where: ``head`` or ``last_conv``.
        rule: ``budget`` cuts as much as keeps the accuracy on a held-out part of the samples;
            ``largest`` a `share`. By default the one whose option is given, else ``budget``.
        budget: Largest share of the held-out accuracy to lose before tuning, in [0, 1], by default
            0.1.
        share: Of the channels, in [0, 1], by default 0.2.
        lr: Learning rate of tuning at the start, above 0; it goes down to 0 by half a cosine.
        epochs: Passes of tuning over the samples, from 1 to 1000.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        batch_size: Samples per step of tuning.
        tune: What trains the cut network, by default ``fine_tuning``; `lr`, `epochs`,
            `weight_decay` and `batch_size` are of that.
    """

    where: Where = Where.HEAD
    rule: Rule | None = None
    budget: float | None = None
    share: float | None = None
    lr: float = 0.01
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.stages  # noqa: B018 - for the rules of their fields

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there is no convolution to cut."""
        super().check(network, head, classes)
        convolutions = any(isinstance(module, nn.Conv2d) for module in network.modules())
        if self.where is Where.LAST_CONV and not convolutions:
            raise ValueError(
                f"{self.name} with where: last_conv needs a convolution, and the network has none; "
                "where: head needs none"
            )

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The activations, then the cut and the tuning."""
        own = SGDTuner(
            lr=self.lr,
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )
        tuner = self.tuner_or(own, "lr", "epochs", "weight_decay", "batch_size")
        cut = cut_of(self, {Rule.BUDGET: ("budget", 0.1), Rule.LARGEST: ("share", 0.2)})
        tune = Tune(cut=cut, tuner=tuner, keep_cut=tuner is not None)
        return FindActivations(where=self.where), tune


@dataclass(frozen=True, kw_only=True)
class FindActivations(RepairStage):
    """Score each channel by minus its mean activation in eval mode; samples are seen as they are.

    Attributes:
        where: Which channels. Of the last convolution only the positive part of an activation
            counts, after the BatchNorm that reads it, as a ReLU would leave it.
    """

    where: Where

    name = "activations"

    def cost(self, samples: int) -> float:
        """Return what a pass and the held-out accuracies take, in images trained on."""
        return 0.8 * samples / 3 + self.sweep_cost(samples)

    def sweep_cost(self, samples: int) -> float:
        """Return what the held-out accuracies take, in images trained on."""
        return SHARES * 0.2 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with the held-out accuracies."""
        del before
        classifier = restore(context.victim, context.device)
        fit, held = hold_out(context.clean, 0.2, context.victim.model_spec.classes)
        if self.where is Where.HEAD:
            means = head_activations(classifier, fit)
            scores = {f"{context.victim.model_spec.head}.weight": -means[None, :]}
        else:
            filters, norm = last_convolution(classifier, fit.samples.images[:1])
            means = output_activations(classifier, fit, norm or filters)
            scores = _of_outputs(classifier.network, norm or filters, -means)
        ordered = (-means).sort(descending=True).values
        places = {-(-len(ordered) * step // SHARES) for step in range(1, SHARES + 1)}
        levels = [float(ordered[place - 1]) for place in sorted(places)]
        found = yield from sweep(findings(scores), levels, classifier, held)
        return found


class _Mean:
    """Mean of rows over batches."""

    def __init__(self) -> None:
        self._sum = torch.zeros((), dtype=torch.float64)
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Add rows: ``[n, channels]``."""
        self._sum = self._sum.to(rows.device) + rows.double().sum(dim=0)
        self._count += len(rows)

    @property
    def value(self) -> Tensor:
        """The mean: ``[channels]``."""
        return (self._sum / self._count).float()


def head_activations(classifier: Classifier, clean: CleanSamples) -> Tensor:
    """Return the mean of each input of the last linear layer: ``[fan_in]``."""
    mean = _Mean()

    def add(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        mean.add(arguments[0].flatten(0, -2))

    watch(classifier, clean.samples.images, [classifier.head.register_forward_pre_hook(add)])
    return mean.value


def output_activations(classifier: Classifier, clean: CleanSamples, path: str) -> Tensor:
    """Return the mean positive part of each channel of a module's output: ``[channels]``."""
    mean = _Mean()

    def add(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        del arguments
        mean.add(output.relu().mean(dim=(2, 3)))

    module = classifier.network.get_submodule(path)
    watch(classifier, clean.samples.images, [module.register_forward_hook(add)])
    return mean.value


def last_convolution(classifier: Classifier, image: Tensor) -> tuple[str, str | None]:
    """Return the path of the convolution that runs last, and of the BatchNorm that reads it.

    Args:
        classifier: With the network.
        image: To run it on: uint8, ``[1, c, h, w]``.
    """
    last: tuple[str, Tensor] | None = None
    norm: str | None = None

    def convolved(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal last, norm
            del arguments
            last, norm = (path, output), None

        return note

    def normalised(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def note(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            nonlocal norm
            if last is not None and arguments[0] is last[1]:
                norm = path

        return note

    hooks = [
        module.register_forward_pre_hook(normalised(path))
        for path, module in batchnorms(classifier.network)
    ]
    for path, module in classifier.network.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(convolved(path)))
    watch(classifier, image, hooks)
    if last is None:
        raise NotApplicable("the network runs no convolution")
    return last[0], norm


def _of_outputs(network: nn.Module, path: str, scores: Tensor) -> dict[str, Tensor]:
    """Return the scores of a layer's outputs by the parameters that make them."""
    return {
        f"{path}.{name}": scores.reshape(-1, *(1,) * (parameter.ndim - 1))
        for name, parameter in network.get_submodule(path).named_parameters()
    }
