"""CLP: channels of a high Lipschitz bound are cut, without data (Zheng et al., ECCV 2022)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._cuts import findings, sweep
from ulrl.methods._loop import hold_out
from ulrl.methods._options import CutByDeviations, check_batchnorm
from ulrl.methods._oracle import looks_of
from ulrl.methods._tuning import Tune
from ulrl.models import restore

LEVELS = tuple(0.25 * step for step in range(41))  # deviations at which held-out accuracy is taken
PUBLISHED_LEVELS = LEVELS[::2]


@register("clp")
@dataclass(frozen=True, kw_only=True)
class CLP(CutByDeviations):
    """Set scale and shift of a BatchNorm's channel to 0 where its bound stands out in its layer.

    The bound is the largest singular value of the filter before it, unfolded to a matrix, times
    |scale| / sqrt(variance). A channel is cut where it lies u standard deviations above its layer's
    mean. As in the official code, a BatchNorm goes with the convolution defined before it, which in
    pre-activation networks is not always the one that feeds it.

    Attributes:
        rule: ``deviations``, the paper's and the default, needs no samples; ``budget`` cuts as much
            as keeps the accuracy on a held-out part of them, and is the default if it is given;
            ``oracle`` chooses by the backdoor in test images, which is no defence.
        u: Standard deviations, by default 3 (Tiny-ImageNet 5).
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
        tune: What trains the cut network; by default nothing does.
    """

    tiny_imagenet_u = 5.0

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where no BatchNorm follows a convolution."""
        super().check(network, head, classes)
        check_batchnorm(network, self.name)
        if not any(True for _ in _pairs(network)):
            raise ValueError(f"{self.name} needs a convolution before a BatchNorm; there is none")

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The bounds, then the cut."""
        looks = looks_of(self._cut, PUBLISHED_LEVELS)
        return FindBounds(), *looks, Tune(cut=self._cut, tuner=self.tuner_or(None))


@dataclass(frozen=True, kw_only=True)
class FindBounds(RepairStage):
    """Score each channel by how many deviations its bound lies above its layer's mean."""

    name = "lipschitz"

    def cost(self, samples: int) -> float:
        """Return what the held-out accuracies take: the bounds need no samples."""
        return self.sweep_cost(samples)

    def sweep_cost(self, samples: int) -> float:
        """Return what the held-out accuracies take, in images trained on."""
        return len(LEVELS) * 0.2 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with the held-out accuracies."""
        del before
        classifier = restore(context.victim, context.device)
        scores: dict[str, Tensor] = {}
        for path, convolution, norm in _pairs(classifier.network):
            z = deviations(bounds(convolution, norm))
            scores |= {f"{path}.weight": z, f"{path}.bias": z}
        _, held = hold_out(context.clean, 0.2, context.victim.model_spec.classes)
        found = yield from sweep(findings(scores), LEVELS, classifier, held)
        return found


@torch.no_grad()
def bounds(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return the Lipschitz bound of each channel: ``[channels]``; infinite at a variance of 0."""
    filters = convolution.weight.reshape(len(convolution.weight), convolution.in_channels, -1)
    largest: Tensor = torch.linalg.matrix_norm(filters, ord=2)
    scale = torch.ones_like(largest) if norm.weight is None else norm.weight
    variance = torch.ones_like(largest) if norm.running_var is None else norm.running_var
    return largest * (scale / variance.sqrt()).abs()


def deviations(values: Tensor) -> Tensor:
    """Return how many standard deviations each value lies above the mean of the finite ones.

    Values that are not finite, of which one alone would hide all others, have no score: NaN.
    """
    finite = values.isfinite()
    known = values[finite]
    if len(known) < 2 or float(known.std()) == 0:
        return torch.full_like(values, -torch.inf)
    z = (values - known.mean()) / known.std()
    return torch.where(finite, z, torch.nan)


def _pairs(network: nn.Module) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
    """Yield each BatchNorm by its path, with the convolution that is defined before it."""
    filters: nn.Conv2d | None = None
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            filters = module
        # Of another number of channels, it follows a layer of another kind.
        fits = isinstance(module, nn.BatchNorm2d) and module.affine
        if fits and filters and filters.out_channels == module.num_features:
            yield path, filters, module
