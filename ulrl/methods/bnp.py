"""BNP: channels to which clean data look unlike the training data are cut (NeurIPS 2022)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.clean import CleanSamples
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._cuts import findings, sweep
from ulrl.methods._loop import hold_out, watch
from ulrl.methods._options import CutByDeviations, batchnorms, check_batchnorm
from ulrl.methods._oracle import looks_of
from ulrl.methods._tuning import Tune
from ulrl.methods.clp import LEVELS, PUBLISHED_LEVELS, deviations
from ulrl.models import Classifier, restore


@register("bnp")
@dataclass(frozen=True, kw_only=True)
class BNP(CutByDeviations):
    """Set a BatchNorm's scale to 0 where clean inputs diverge from its running statistics.

    Running statistics saw the poisoned training data. The divergence is that of two Gaussians, of
    the mean and variance of clean inputs from the running ones; a channel is cut where it lies u
    standard deviations above its layer's mean ("Pre-activation Distributions Expose Backdoor
    Neurons"). As in the official code the shift stays; BackdoorBench's sets it to 0 too,
    and its divergence is another. A victim whose statistics were taken again on clean data shows
    nothing.

    Attributes:
        rule: ``deviations``, the paper's and the default; ``budget`` cuts as much as keeps the
            accuracy on a held-out part of the samples, and is the default if it is given;
            ``oracle`` chooses by the backdoor in test images, which is no defence.
        u: Standard deviations, by default 3 (Tiny-ImageNet 4).
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
        tune: What trains the cut network; by default nothing does.
    """

    tiny_imagenet_u = 4.0

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there is no BatchNorm with running statistics."""
        super().check(network, head, classes)
        check_batchnorm(network, self.name)

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The divergences, then the cut."""
        looks = looks_of(self._cut, PUBLISHED_LEVELS)
        return FindDivergences(), *looks, Tune(cut=self._cut, tuner=self.tuner_or(None))


@dataclass(frozen=True, kw_only=True)
class FindDivergences(RepairStage):
    """Score each channel by how many deviations its divergence lies above its layer's mean."""

    name = "statistics"

    def cost(self, samples: int) -> float:
        """Return what a pass and the held-out accuracies take, in images trained on."""
        return 0.8 * samples / 3 + self.sweep_cost(samples)

    def sweep_cost(self, samples: int) -> float:
        """Return what the held-out accuracies take, in images trained on."""
        return len(LEVELS) * 0.2 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with the held-out accuracies.

        Samples are seen as they are, in eval mode, so that what a layer sees does not depend on
        batches. The official code takes one batch of 500.
        """
        del before
        classifier = restore(context.victim, context.device)
        fit, held = hold_out(context.clean, 0.2, context.victim.model_spec.classes)
        scores = {
            f"{path}.weight": deviations(divergence(inputs, running))
            for path, inputs, running in _statistics(classifier, fit)
        }
        found = yield from sweep(findings(scores), LEVELS, classifier, held)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean and variance of each channel, both ``[channels]``, in double precision."""

    mean: Tensor
    variance: Tensor


def divergence(first: Moments, second: Moments) -> Tensor:
    """Return the Kullback-Leibler divergence D(first ‖ second) of Gaussians, by channel.

    It is at least 0, and not finite where a variance is 0.
    """
    ratio = first.variance / second.variance
    distance = (first.mean - second.mean).square() / second.variance
    return 0.5 * (ratio + distance - 1 - ratio.log())


class _Running:
    """Moments of a layer's inputs over batches, joined as by Chan, Golub and LeVeque."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(())
        self._squares = torch.zeros(())  # summed squared deviations from the mean

    def add(self, layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Add a batch, ``[n, channels, ...]``, before a layer sees it."""
        del layer
        inputs = arguments[0]
        count = inputs.numel() // inputs.shape[1]
        axes = [axis for axis in range(inputs.ndim) if axis != 1]
        variance, mean = torch.var_mean(inputs, dim=axes, correction=0)
        total = self._count + count
        step = mean.double() - self._mean.to(mean.device)
        self._squares = self._squares.to(mean.device) + variance.double() * count
        self._squares += step.square() * self._count * count / total
        self._mean = mean.double() - step * self._count / total
        self._count = total

    @property
    def moments(self) -> Moments | None:
        """Both, the variance unbiased as running ones are; None of less than two values."""
        if self._count < 2:
            return None
        return Moments(mean=self._mean, variance=self._squares / (self._count - 1))


def _statistics(
    classifier: Classifier, clean: CleanSamples
) -> Iterator[tuple[str, Moments, Moments]]:
    """Yield each BatchNorm's path with the moments of its inputs, and the running ones."""
    norms = dict(batchnorms(classifier.network))
    seen = {path: _Running() for path in norms}
    hooks = [norms[path].register_forward_pre_hook(seen[path].add) for path in norms]
    watch(classifier, clean.samples.images, hooks)
    for path, norm in norms.items():
        inputs = seen[path].moments
        # A layer that no image passes has no inputs.
        if inputs is not None and norm.running_mean is not None and norm.running_var is not None:
            running = Moments(mean=norm.running_mean.double(), variance=norm.running_var.double())
            yield path, inputs, running
