"""TSBD: weights that unlearning changes most are set to zero (Lin et al., NeurIPS 2024)."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.layers import CONVOLUTION
from ulrl.methods._ascent import Ascents, unlearned
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._cuts import Cut, Edit, Rule, findings, scores_of
from ulrl.methods._sam import TINY, TwoPassTuner
from ulrl.methods._tuning import CuttingMethod, Tune, TuningMethod, register_tuner
from ulrl.models import restore

SHORTCUTS = ("shortcut", "downsample")  # in the paths of projections beside a block


@register("tsbd")
@dataclass(frozen=True, kw_only=True)
class TSBD(CuttingMethod):
    """Unlearn the clean samples, zero the weights that this changed most, and fine-tune.

    A filter's change is the sum of its weights' absolute changes. Among the filters of the
    largest changes, of all convolutions but projection shortcuts, the weights of the largest
    changes become zero: a common cut for all of them, so that a filter may lose any share.
    Fine-tuning mixes the gradient with that at weights moved up along it.

    Defaults are those of the authors' code, with their paper's `filters` and `weights`; the code
    tries eleven values of `filters` and leaves the choice to the reader. Ours: the ascent
    shuffles and stops by accuracy on images as they are; changes are not rounded; BatchNorm's
    statistics follow the first pass of each fine-tuning step, where the code's follow a third.

    Attributes:
        filters: Share of filters from which weights are cut, n in the paper, in [0, 1].
        weights: Share of those filters' weights, m in the paper, in [0, 1].
        ascent: Whose ascent it is.
        unlearn_threshold: Accuracy at which the ascent stops, in [0, 1]. It may end by predicting
            one class for all samples: below that class's share of them it never stops, but
            diverges.
        unlearn_lr: Learning rate of the ascent, above 0.
        unlearn_epochs: Epochs of the ascent at most, from 1 to 1000.
        radius: L2 distance by which each tensor is moved for the second gradient, r in the
            paper, in [0, 1000].
        alpha: Weight of the second gradient, in [0, 1].
        lr: Learning rate of fine-tuning, constant; above 0.
        epochs: Passes over the samples of fine-tuning, from 1 to 1000.
        batch_size: Samples per step of both.
        tune: What trains the cut network, by default ``gradient_norm``; `radius`, `alpha`, `lr`
            and `epochs` are of that.
    """

    filters: float = 0.15
    weights: float = 0.7
    ascent: Ascents = Ascents.TSBD
    unlearn_threshold: float = 0.1
    unlearn_lr: float = 1e-4
    unlearn_epochs: int = 1000
    radius: float = 0.05
    alpha: float = 0.7
    lr: float = 0.01
    epochs: int = 21
    batch_size: int = 256

    def __post_init__(self) -> None:
        for name in ("filters", "weights"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share, in [0, 1]; got {value}")
        self.stages  # noqa: B018 - for its rules

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there is no filter to cut."""
        super().check(network, head, classes)
        if not _filters(network):
            raise ValueError(f"{self.name} cuts weights of convolutions, and the network has none")

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The ascent, the changes, then the cut and fine-tuning."""
        cut = PooledCut(rule=Rule.LARGEST, strength=self.filters, weights=self.weights)
        own = GradientNorm(
            radius=self.radius,
            alpha=self.alpha,
            lr=self.lr,
            epochs=self.epochs,
            batch_size=self.batch_size,
        )
        tuner = self.tuner_or(own.tuner, "radius", "alpha", "lr", "epochs")
        return unlearned(self), FindChanges(), Tune(cut=cut, tuner=tuner)


@register_tuner("gradient_norm")
@dataclass(frozen=True, kw_only=True)
class GradientNorm(TuningMethod):
    """The fine-tuning of TSBD, which penalises the gradient's norm.

    Attributes:
        radius: L2 distance by which each tensor is moved for the second gradient, in [0, 1000].
        alpha: Weight of the second gradient, in [0, 1].
        lr: Learning rate, constant; above 0.
        epochs: Passes over the samples, from 1 to 1000.
        batch_size: Samples per step.
    """

    radius: float = 0.05
    alpha: float = 0.7
    lr: float = 0.01
    epochs: int = 21
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.tuner  # noqa: B018 - for its rules

    @property
    def tuner(self) -> "GradientNormTuner":
        """The training, with these options."""
        return GradientNormTuner(
            radius=self.radius,
            alpha=self.alpha,
            lr=self.lr,
            epochs=self.epochs,
            weight_decay=0.0,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class FindChanges(RepairStage):
    """Score each weight of a filter by how far the stage before changed it."""

    name = "weight_changes"

    def cost(self, samples: int) -> float:
        """Return 0: it only subtracts."""
        del samples
        return 0.0

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores, of the weights' shapes."""
        victim = context.victim.state
        names = _filters(restore(context.victim, context.device).network)
        yield Step(1, 1)
        return findings({name: (before[name] - victim[name]).abs() for name in names})


@dataclass(frozen=True, kw_only=True)
class PooledCut(Cut):
    """Cut the highest weights, pooled, of the highest filters.

    Attributes:
        weights: Share of the weights of the filters that `strength` is the share of, in [0, 1].
    """

    weights: float

    def choose(self, found: Tensors) -> Edit:
        """Return which weights are cut, by scores of weights ``[filters, ...]``.

        Of equal scores the first one is higher, in the order of names and filters: the order of
        `found` is not that of the network once it has been stored.
        """
        scores = {name: score.flatten(1) for name, score in sorted(scores_of(found).items())}
        sums = torch.cat([score.sum(dim=1) for score in scores.values()])
        lengths = [len(score) for score in scores.values()]
        chosen = torch.split(_highest(sums, self.strength), lengths)
        inside = [
            mask[:, None].expand_as(score)
            for mask, score in zip(chosen, scores.values(), strict=True)
        ]
        pool = torch.cat([s[mask] for s, mask in zip(scores.values(), inside, strict=True)])
        cut = _highest(pool, self.weights)
        edit, start = {}, 0
        for name, mask in zip(scores, inside, strict=True):
            end = start + int(mask.sum())
            entries = torch.zeros(mask.shape, dtype=torch.bool)
            entries[mask] = cut[start:end]
            start = end
            if bool(entries.any()):
                edit[name] = entries.reshape(found[f"score/{name}"].shape)
        return edit


@dataclass(frozen=True, kw_only=True)
class GradientNormTuner(TwoPassTuner):
    """SGD that penalises the gradient's norm, at a constant rate (Zhao et al., ICML 2022).

    Attributes:
        radius: L2 distance by which each tensor of weights is moved along its gradient for the
            second pass, in [0, 1000]; with 0 it is plain training.
        alpha: Weight of the second gradient, in [0, 1]; the first one has the rest.
    """

    radius: float = 0.05
    alpha: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.radius <= 1000:
            raise ValueError(f"radius is a distance, in [0, 1000]; got {self.radius}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha is a weight, in [0, 1]; got {self.alpha}")

    def moves(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return each gradient at the length of `radius`."""
        del weights
        return [self.radius * g / g.norm().clamp(min=TINY) for g in gradients]

    def mixed(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the weighted mean of both gradients."""
        return (1 - self.alpha) * first + self.alpha * second

    def rate(self, elapsed: float, step: int) -> float:
        """Return the learning rate, always the same."""
        del elapsed, step
        return self.lr


def _highest(values: Tensor, share: float) -> Tensor:
    """Return which values are the highest ones, as many as `share` of them; of equals the first."""
    count = round(share * len(values))
    if not count:
        return torch.zeros(len(values), dtype=torch.bool)
    level = values.kthvalue(len(values) - count + 1).values
    above, equal = values > level, values == level
    return above | (equal & (equal.cumsum(dim=0) <= count - above.sum()))


def _filters(network: nn.Module) -> list[str]:
    """Return the names of the weights of convolutions, but for projection shortcuts."""
    return [
        f"{path}.weight"
        for path, module in network.named_modules()
        if isinstance(module, CONVOLUTION) and not any(word in path for word in SHORTCUTS)
    ]
