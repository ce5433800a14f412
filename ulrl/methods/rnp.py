"""RNP: channels that clean samples do not bring back are cut (Li et al., ICML 2023)."""

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.fitting import Sources
from ulrl.methods._ascent import Ascents, unlearned
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._loop import Passes, hold_out, train_by
from ulrl.methods._masks import (
    LEVELS,
    PUBLISHED_LEVELS,
    CutByMasks,
    MaskDescent,
    check_training,
    learned,
    masked_classifier,
)
from ulrl.methods._oracle import looks_of
from ulrl.methods._tuning import Tune
from ulrl.models import Weights


@register("rnp")
@dataclass(frozen=True, kw_only=True)
class RNP(CutByMasks):
    """Unlearn the clean samples, recover by masks alone, cut where a mask has fallen.

    The ascent is ULRL's phase 1 without clipping. On the unlearned network, masks on BatchNorm's
    scales then learn the samples again. In the victim, the scale of each channel of a low mask is
    set to 0; its shift stays. The ascent sees all clean samples, the masks those that are not held
    out. An ascent that does not reach its threshold goes on with its last network, as in
    BackdoorBench.

    Attributes:
        rule: ``budget`` cuts as much as keeps the accuracy on a held-out part of the samples, at
            one of 100 thresholds; ``threshold`` at `mask_threshold`; ``largest`` a `share`. By
            default the one whose option is given, else ``budget``. ``oracle`` chooses by the
            backdoor in test images, which is no defence.
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
        mask_threshold: Largest mask that is cut, in [0, 1], by default BackdoorBench's 0.7. The
            official code has none.
        share: Of all channels, in [0, 1], by default 0.02.
        ascent: Whose ascent it is; of ``tsbd``'s the accuracy is of images as they are.
        unlearn_threshold: Running accuracy at which the ascent stops, in [0, 1].
        unlearn_lr: Learning rate of the ascent, above 0.
        unlearn_epochs: Of the ascent at most.
        alpha: Weight of the loss of the masks, above 0; it scales the steps as `mask_lr` does.
        mask_lr: Learning rate of the masks, above 0.
        mask_epochs: Passes of the masks over the samples, from 1 to 1000.
        batch_size: Samples per step of both, the official code's 128.
        tune: What trains the cut network; by default nothing does.
    """

    usual_threshold = 0.7

    ascent: Ascents = Ascents.RNP
    unlearn_threshold: float = 0.2
    unlearn_lr: float = 0.01
    unlearn_epochs: int = 20
    alpha: float = 0.2
    mask_lr: float = 0.2
    mask_epochs: int = 20
    batch_size: int = 128

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The ascent, the masks, then the cut."""
        masks = RecoverMasks(
            alpha=self.alpha,
            mask_lr=self.mask_lr,
            mask_epochs=self.mask_epochs,
            batch_size=self.batch_size,
        )
        looks = looks_of(self.cut, PUBLISHED_LEVELS)
        return unlearned(self), masks, *looks, Tune(cut=self.cut, tuner=self.tuner_or(None))


@dataclass(frozen=True, kw_only=True)
class RecoverMasks(RepairStage):
    """Learn masks on an unlearned network, in train mode; its weights stay.

    Attributes:
        alpha: Weight of the loss, above 0.
        mask_lr: Learning rate, above 0.
        mask_epochs: Passes over the samples, from 1 to 1000.
        batch_size: Samples per step.
    """

    alpha: float
    mask_lr: float
    mask_epochs: int
    batch_size: int

    name = "mask_recovery"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 100:
            raise ValueError(f"alpha is above 0 and at most 100; got {self.alpha}")
        check_training(self)
        if not 1 <= self.mask_epochs <= 1000:
            raise ValueError(f"mask_epochs is from 1 to 1000; got {self.mask_epochs}")

    def cost(self, samples: int) -> float:
        """Return a pass per epoch over those that are not held out, and the accuracies."""
        return 0.8 * self.mask_epochs * samples + self.sweep_cost(samples)

    def sweep_cost(self, samples: int) -> float:
        """Return what the held-out accuracies take, in images trained on."""
        return len(LEVELS) * 0.2 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with the held-out accuracies.

        Raises:
            DivergedError: Masks left the finite numbers.
        """
        spec = context.victim.model_spec
        unlearned = Weights(model_spec=spec, state=dict(before))
        classifier, masked = masked_classifier(unlearned, context.device)
        descent = MaskDescent(masked)

        def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
            logits = classifier.logits(images)
            loss = cross_entropy(logits, labels)
            descent.step(self.alpha * loss, rate)
            return loss, logits

        passes = Passes(
            epochs=self.mask_epochs, batch_size=self.batch_size, rate=lambda _: self.mask_lr
        )
        fit, _ = hold_out(context.clean, 0.2, spec.classes)
        sources = Sources.of(context.clean.seed, self.name)
        epochs = train_by(classifier, fit.samples, take, passes, sources)
        found = yield from learned(epochs, self.mask_epochs, masked, context, self.name)
        return found
