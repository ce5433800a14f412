"""ANP: channels that need not be sensitive to noise are cut (Wu and Wang, NeurIPS 2021)."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.augmentation import apply_views, draw_views
from ulrl.clean import CleanSamples
from ulrl.fitting import Epoch, Sources, fault_of, set_train_mode
from ulrl.methods._base import RepairContext, RepairStage, Tensors, register
from ulrl.methods._loop import hold_out, reproducible
from ulrl.methods._masks import (
    LEVELS,
    PUBLISHED_LEVELS,
    CutByMasks,
    MaskDescent,
    Masked,
    Noise,
    check_training,
    learned,
    masked_classifier,
)
from ulrl.methods._oracle import looks_of
from ulrl.methods._tuning import Tune
from ulrl.models import Classifier
from ulrl.randomness import generator, seeded_layer_rng

PART = 50  # steps between two looks at the loss


@register("anp")
@dataclass(frozen=True, kw_only=True)
class ANP(CutByMasks):
    """Learn masks under the noise that hurts most, and cut where a mask has fallen.

    Noise on scales and shifts of BatchNorm is drawn and turned against the clean samples; masks
    on the scales learn to do without the channels through which it works. In the victim, the scale
    of each channel of a low mask is set to 0; its shift stays.

    Attributes:
        rule: ``budget`` cuts as much as keeps the accuracy on a held-out part of the samples, at
            one of 100 thresholds; ``threshold`` at `mask_threshold`; ``largest`` a `share`. By
            default the one whose option is given, else ``budget``. The official code and
            BackdoorBench's choose by the backdoor in test images: ``oracle``, no defence.
        budget: Largest share of the held-out accuracy to lose, in [0, 1], by default 0.05.
        mask_threshold: Largest mask that is cut, in [0, 1], by default 0.2.
        share: Of all channels, in [0, 1], by default 0.02.
        eps: Size of the noise, relative to scales and shifts, in [0, 10].
        alpha: Weight of the loss without noise, in [0, 1]; that under noise has the rest.
        mask_lr: Learning rate of the masks, above 0; BackdoorBench's is 0.01, with which most
            masks stay near 1.
        steps: Of the masks, from 1 to 100,000.
        noise_steps: Of the noise before each step of the masks, from 1 to 100.
        batch_size: Samples per step, drawn with replacement.
        tune: What trains the cut network; by default nothing does.
    """

    usual_threshold = 0.2

    eps: float = 0.4
    alpha: float = 0.2
    mask_lr: float = 0.2
    steps: int = 2000
    noise_steps: int = 1
    batch_size: int = 128

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The masks, then the cut."""
        masks = SearchMasks(
            eps=self.eps,
            alpha=self.alpha,
            mask_lr=self.mask_lr,
            steps=self.steps,
            noise_steps=self.noise_steps,
            batch_size=self.batch_size,
        )
        looks = looks_of(self.cut, PUBLISHED_LEVELS)
        return masks, *looks, Tune(cut=self.cut, tuner=self.tuner_or(None))


@dataclass(frozen=True, kw_only=True)
class SearchMasks(RepairStage):
    """Learn masks on the victim under adversarial noise, in train mode; its weights stay.

    Attributes:
        eps: Size of the noise, in [0, 10].
        alpha: Weight of the loss without noise, in [0, 1].
        mask_lr: Learning rate, above 0.
        steps: Of the masks, from 1 to 100,000.
        noise_steps: Of the noise before each of them, from 1 to 100.
        batch_size: Samples per step.
    """

    eps: float
    alpha: float
    mask_lr: float
    steps: int
    noise_steps: int
    batch_size: int

    name = "mask_search"

    def __post_init__(self) -> None:
        check_training(self)
        rules = (
            ("eps", self.eps, 0 <= self.eps <= 10, "in [0, 10]"),
            ("alpha", self.alpha, 0 <= self.alpha <= 1, "in [0, 1]"),
            ("steps", self.steps, 1 <= self.steps <= 100_000, "from 1 to 100000"),
            ("noise_steps", self.noise_steps, 1 <= self.noise_steps <= 100, "from 1 to 100"),
        )
        for name, value, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} is {rule}; got {value}")

    def cost(self, samples: int) -> float:
        """Return the passes of all steps, and the held-out accuracies."""
        passes = self.noise_steps + 2
        return float(self.steps * self.batch_size * passes) + self.sweep_cost(samples)

    def sweep_cost(self, samples: int) -> float:
        """Return what the held-out accuracies take, in images trained on."""
        return len(LEVELS) * 0.2 * samples / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the scores with the held-out accuracies.

        Raises:
            DivergedError: Masks left the finite numbers.
        """
        del before
        classifier, masked = masked_classifier(context.victim, context.device)
        fit, _ = hold_out(context.clean, 0.2, context.victim.model_spec.classes)
        parts = self._search(classifier, masked, fit)
        total = -(-self.steps // PART)
        found = yield from learned(parts, total, masked, context, self.name)
        return found

    def _search(
        self, classifier: Classifier, masked: Masked, clean: CleanSamples
    ) -> Iterator[Epoch]:
        """Take the steps, and yield after each part of them."""
        device, preprocessing = classifier.device, classifier.model_spec.preprocessing
        sources = Sources.of(clean.seed, self.name)
        noise_source = generator(clean.seed, self.name, "noise")
        samples, count = clean.samples.to(device), len(clean.samples.labels)
        descent = MaskDescent(masked)
        for start in range(0, self.steps, PART):
            steps = min(PART, self.steps - start)
            set_train_mode(classifier.network, 1)
            loss_sum = torch.zeros((), device=device)
            hits = torch.zeros((), device=device)
            with seeded_layer_rng(sources.layers, device), reproducible():
                for _ in range(steps):
                    index = torch.randint(count, (self.batch_size,), generator=sources.order)
                    index = index.to(device)
                    views = draw_views(self.batch_size, preprocessing, sources.views, device)
                    images = apply_views(samples.images[index], views, preprocessing)
                    labels = samples.labels[index]
                    draws = torch.rand((2, len(masked.masks)), generator=noise_source)
                    first = self.eps * (2 * draws - 1).to(device)
                    noise = self._worst(first, classifier, masked, images, labels)
                    masked.noise = Noise(scale=noise[0], shift=noise[1])
                    loss = (1 - self.alpha) * cross_entropy(classifier.logits(images), labels)
                    masked.noise = None
                    logits = classifier.logits(images)
                    loss = loss + self.alpha * cross_entropy(logits, labels)
                    descent.step(loss, self.mask_lr)
                    loss_sum += loss.detach()
                    hits += (logits.detach().argmax(dim=1) == labels).float().mean()
            mean = float(loss_sum) / steps
            yield Epoch(
                number=start // PART + 1,
                loss=mean,
                accuracy=float(hits) / steps,
                fault=fault_of(mean, masked),
            )

    def _worst(
        self, noise: Tensor, classifier: Classifier, masked: Masked, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Return noise, ``[2, channels]``, after steps up the loss by its signs.

        As in the official code it is not brought back to `eps`: after one step it may be twice
        that.
        """
        for _ in range(self.noise_steps):
            noise.requires_grad_()
            masked.noise = Noise(scale=noise[0], shift=noise[1])
            loss = cross_entropy(classifier.logits(images), labels)
            (slope,) = torch.autograd.grad(loss, noise)
            noise = (noise + self.eps / self.noise_steps * slope.sign()).detach()
        return noise
