"""Stage 4 of 5: reinitialise the suspects and fine-tune the victim away from them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from math import cos, pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

from ulrl.clean import CleanSamples
from ulrl.fitting import Epoch, SGDConfig, Sources, raise_if_diverged, train
from ulrl.layers import as_rows, bias_name
from ulrl.models import Classifier, Weights, restore
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.weight_selection import Suspects

VERSION = 2

# Weight of a row's signed cosine from which on a head all of whose rows are suspects ended below
# chance: 0.4 (n = 1) and 0.7 (n = 4), on CIFAR-10; with 0.2 it did not (n = 4).
INVERTING = 0.4


class ReinitDistribution(StrEnum):
    """What re-initialised weights are drawn from; s is `reinit_scale` × sqrt(2 / fan-in)."""

    UNIFORM = "uniform"  # U(-s, s), the official code's; scale sqrt(3) makes it He's
    NORMAL = "normal"  # N(0, s²): He et al. (arXiv:1502.01852)
    ZERO = "zero"  # nothing is left, as TSBD does


class RelearnSchedule(StrEnum):
    """How the learning rate goes, in a step per epoch."""

    COSINE = "cosine"  # half a cosine down to 0: the official code
    LINEAR = "linear"  # a straight line down to 0
    CONSTANT = "constant"


class CosineForm(StrEnum):
    """What of the cosine between a suspect and what it was is penalised."""

    SIGNED = "signed"  # the cosine: the best is -1, the opposite direction (official code)
    ABSOLUTE = "absolute"  # its magnitude: the best is 0, an orthogonal direction
    CLAMPED = "clamped"  # what is above 0: any direction from orthogonal on is as good


class CosineReduction(StrEnum):
    """How the cosines of several suspects become one."""

    SUM = "sum"  # the official code
    MEAN = "mean"


@dataclass(frozen=True, kw_only=True)
class RelearnConfig:
    """Phase 2; defaults are the official code's for CIFAR-10.

    Attributes:
        reinit_distribution: What re-initialised weights are drawn from.
        reinit_scale: Factor of its width.
        relearn_lr: Initial learning rate of SGD.
        relearn_schedule: How it changes.
        relearn_momentum: Of SGD.
        relearn_weight_decay: L2 penalty.
        relearn_clip_norm: Largest global L2 norm of the gradient; None leaves it alone.
        relearn_epochs: Epochs.
        relearn_batch_size: Samples per step; the last batch may be short.
        relearn_augment: Whether samples are seen in random views, or as they are.
        relearn_precision: Of the forward pass in which gradients are taken.
        alpha: Weight of the cosine term. With ``signed`` and ``sum`` each suspect costs ACC, and
            from 0.4 on all rows of a head together turn the classifier inside out (ACC below
            chance), which is refused.
        cosine_form: What of the cosine is penalised.
        cosine_reduction: How the cosines of several suspects become one; with many suspects
            ``sum`` outweighs the classes.
        batchnorm_updates: Train-mode passes per step; the official code's logging makes a
            second one after the step, and with it a second update of BatchNorm's running
            statistics. With 0 BatchNorm is frozen.
    """

    reinit_distribution: ReinitDistribution = ReinitDistribution.UNIFORM
    reinit_scale: float = 1.0
    relearn_lr: float = 0.005
    relearn_schedule: RelearnSchedule = RelearnSchedule.COSINE
    relearn_momentum: float = 0.9
    relearn_weight_decay: float = 0.0
    relearn_clip_norm: float | None = None
    relearn_epochs: int = 20
    relearn_batch_size: int = 128
    relearn_augment: bool = True
    relearn_precision: Precision = Precision.AMP
    alpha: float = 0.7
    cosine_form: CosineForm = CosineForm.SIGNED
    cosine_reduction: CosineReduction = CosineReduction.SUM
    batchnorm_updates: int = 1

    def __post_init__(self) -> None:
        self.sgd.check("relearn", self.relearn_lr)
        if not 0 < self.reinit_scale <= 1000:
            raise ValueError(
                f"reinit_scale is a factor, above 0 and at most 1000; got {self.reinit_scale}"
            )
        if not 0 <= self.alpha <= 1000:
            raise ValueError(f"alpha is a weight, in [0, 1000]; got {self.alpha}")
        if self.batchnorm_updates not in (0, 1, 2):
            raise ValueError(f"batchnorm_updates is 0, 1 or 2; got {self.batchnorm_updates}")

    def check(self, suspects: int, classes: int, *, named: bool = False) -> None:
        """Raise ``ValueError`` where the whole head would be turned inside out.

        Args:
            suspects: Rows of the head that are suspects for certain.
            classes: Rows of the head.
            named: Whether the option ``suspects`` names them.
        """
        weight = self.alpha / suspects if suspects else 0.0
        if self.cosine_reduction is CosineReduction.SUM:
            weight = self.alpha
        signed = self.cosine_form is CosineForm.SIGNED
        if signed and suspects >= classes and weight >= INVERTING:
            raise ValueError(
                f"{'suspects names' if named else 'suspect_share flags'} all {classes} rows of "
                f"the head, and a signed cosine of weight {weight:g} for each turns every row "
                f"into its opposite: in all trials so far ACC fell below chance; write "
                f"cosine_reduction: mean, a smaller alpha, another cosine_form, or flag fewer rows"
            )

    def effective(self, suspects: Suspects) -> "RelearnConfig":
        """Return the same configuration, with defaults for what these suspects leave unused.

        Without suspects there is no cosine to weigh, and without marked weights nothing is
        drawn: configurations that differ in no more than that relearn alike.
        """
        unused: tuple[str, ...] = ()
        if not suspects.layers:
            unused = ("alpha", "cosine_form", "cosine_reduction")
        if not any(bool(layer.reset.any()) for layer in suspects.layers):
            unused += ("reinit_distribution", "reinit_scale")
        return replace(self, **{name: getattr(RelearnConfig, name) for name in unused})

    @property
    def sgd(self) -> SGDConfig:
        """The training that these values describe."""
        return SGDConfig(
            epochs=self.relearn_epochs,
            batch_size=self.relearn_batch_size,
            rate=self.rate,
            momentum=self.relearn_momentum,
            weight_decay=self.relearn_weight_decay,
            clip_norm=self.relearn_clip_norm,
            batchnorm_updates=self.batchnorm_updates,
            precision=self.relearn_precision,
            augment=self.relearn_augment,
        )

    def rate(self, elapsed: float) -> float:
        """Return the learning rate, which changes between epochs only."""
        done = int(elapsed) / self.relearn_epochs
        if self.relearn_schedule is RelearnSchedule.COSINE:
            return self.relearn_lr * (1 + cos(pi * done)) / 2
        if self.relearn_schedule is RelearnSchedule.LINEAR:
            return self.relearn_lr * (1 - done)
        return self.relearn_lr


@dataclass(frozen=True, kw_only=True)
class RelearnRun:
    """A model in repair: drain `epochs`, then take the classifier.

    An epoch that ends with a loss, weights or outputs that are not finite raises
    `DivergedError`.
    """

    classifier: Classifier
    epochs: Iterator[Epoch]


def relearn(
    config: RelearnConfig,
    victim: Weights,
    suspects: Suspects,
    clean: CleanSamples,
    device: torch.device,
    *,
    observe: Callable[[Classifier], None] | None = None,
) -> RelearnRun:
    """Start phase 2 from the victim; the work is done as `epochs` of the result is drawn.

    What the ascent did to the weights is discarded. All parameters train on cross-entropy
    plus ``alpha`` times `cosine_term`. Without suspects this is plain fine-tuning. `observe` is
    called with the classifier after each epoch; it may measure, and shall change nothing.
    """
    classifier = restore(victim, device)
    penalty = _penalty(config, classifier, suspects)  # before weights are re-initialised
    reinitialise(config, classifier, suspects, clean.seed)

    def objective(logits: Tensor, labels: Tensor) -> Tensor:
        loss = cross_entropy(logits, labels)
        return loss + config.alpha * penalty() if suspects.layers else loss

    sources = Sources.of(clean.seed, "relearn")
    epochs = train(classifier, clean.samples, objective, config.sgd, sources)

    def look(epoch: Epoch) -> None:
        if observe is not None:
            observe(classifier)
        if epoch.number == config.relearn_epochs:
            classifier.predict(clean.samples.images)  # which raises where it predicts nothing

    remedy = "a smaller relearn_lr or a relearn_clip_norm"
    return RelearnRun(
        classifier=classifier, epochs=raise_if_diverged(epochs, "relearning", remedy, look)
    )


def _penalty(
    config: RelearnConfig, classifier: Classifier, suspects: Suspects
) -> Callable[[], Tensor]:
    """Return what gives the cosine term of the present weights against those of now."""
    pairs: list[tuple[nn.Parameter, Tensor, Tensor]] = []
    for layer in suspects.layers:
        weight = classifier.network.get_parameter(layer.weight)
        rows = torch.tensor(layer.rows, device=weight.device)
        pairs.append((weight, rows, as_rows(weight.detach()[rows]).clone()))

    def penalty() -> Tensor:
        cosines = [_cosines(as_rows(weight[rows]), original) for weight, rows, original in pairs]
        return cosine_term(config, torch.cat(cosines))

    return penalty


def _cosines(
    rows: Float[Tensor, "suspects fan_in"], original: Float[Tensor, "suspects fan_in"]
) -> Float[Tensor, " suspects"]:
    # A row of zeros has no direction to be turned: its cosine is 0 and so is the gradient,
    # of which torch, dividing by its epsilon, makes a step of a hundred million.
    return cosine_similarity(rows, original, dim=1) * (rows != 0).any(dim=1)


def cosine_term(config: RelearnConfig, cosines: Float[Tensor, " suspects"]) -> Float[Tensor, ""]:
    """Return one number from the cosines between suspects and what they were."""
    if config.cosine_form is CosineForm.ABSOLUTE:
        cosines = cosines.abs()
    elif config.cosine_form is CosineForm.CLAMPED:
        cosines = cosines.clamp(min=0)
    return cosines.sum() if config.cosine_reduction is CosineReduction.SUM else cosines.mean()


@torch.no_grad()
def reinitialise(
    config: RelearnConfig, classifier: Classifier, suspects: Suspects, seed: int
) -> None:
    """Draw the marked weights again, in place, and set biases to 0 where that is asked.

    Every weight of a layer has its own draw, used or not, so that two choices of suspects
    agree where they overlap.
    """
    parameters = dict(classifier.network.named_parameters(remove_duplicate=False))
    for layer in suspects.layers:
        weight = parameters[layer.weight]
        source = generator(seed, "relearn", "reset", layer.weight)
        fresh = _draw(config, weight.shape, source)
        marked = torch.zeros(weight.shape, dtype=torch.bool)
        marked.flatten(1)[list(layer.rows)] = layer.reset
        weight.copy_(torch.where(marked.to(weight.device), fresh.to(weight.device), weight))
        bias = parameters.get(bias_name(layer.weight))
        if suspects.reset_bias and bias is not None:
            bias[list(layer.rows)] = 0


def _draw(config: RelearnConfig, shape: torch.Size, source: torch.Generator) -> Tensor:
    scale = config.reinit_scale * sqrt(2 / shape[1:].numel())
    if config.reinit_distribution is ReinitDistribution.ZERO:
        return torch.zeros(shape)
    if config.reinit_distribution is ReinitDistribution.NORMAL:
        return torch.randn(shape, generator=source) * scale
    return (torch.rand(shape, generator=source) * 2 - 1) * scale
