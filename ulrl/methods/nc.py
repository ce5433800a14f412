"""NC: Neural Cleanse reverses a trigger per class, and unlearns those that stand out."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from ulrl.attacks import Step
from ulrl.clean import CleanSamples
from ulrl.fitting import Samples, Sources
from ulrl.methods._base import (
    CHOOSES,
    RepairContext,
    RepairMethod,
    RepairStage,
    Tensors,
    register,
)
from ulrl.methods._loop import hold_out, reproducible, seen
from ulrl.methods._tuning import SGDTuner, Tune
from ulrl.models import Classifier, restore

PERIOD = 10  # steps between two looks at a trigger's success: an epoch of 2,500 samples
PATIENCE = 5  # looks of one kind in a row after which the mask's weight changes
UP, DOWN = 2.0, 2.0**1.5  # by which it then is multiplied or divided
IDLE, FALL = 25, 0.99  # a class ends after so many looks without a norm this much smaller
BETAS = (0.5, 0.9)  # of Adam
IMAGES = 512  # in one pass through the network, of several classes if there is room
CLASSES = 10  # taken for costs, which are asked for without the number of classes


@register("nc")
@dataclass(frozen=True, kw_only=True)
class NeuralCleanse(RepairMethod):
    """Detect and patch (Wang et al., IEEE S&P 2019); defaults are BackdoorBench's.

    For each class, the smallest mask is sought whose pattern sends images to the class. A class
    with an outstandingly small mask is flagged. The network is then fine-tuned on most of the
    clean samples, and on the others under the triggers of the flagged classes with their true
    labels. Where no class is flagged, nothing happens and the result is the victim.

    The search is as long as its number of steps says: published are 80 epochs, which are 800 steps
    for 5 % of CIFAR-10, and would be 160 for 1 %.

    Attributes:
        threshold: Deviations (of the median's kind) from which on a class is flagged, in [0, 100].
        steps: Of the search, at most, from 1 to 100000.
        search_batch_size: Samples per step of the search, at least 1.
        search_lr: Learning rate of Adam there, above 0.
        mask_weight: Of the mask's L1 norm at the start, above 0; it then goes up where a trigger
            succeeds, and else down.
        success: Share of images that a trigger has to send to its class, in [0, 1].
        stamped_share: Share of the samples that are stamped, in (0, 1).
        lr: Learning rate of fine-tuning at the start, above 0; it goes down by half a cosine.
        epochs: Passes of fine-tuning, from 1 to 1000.
        weight_decay: L2 penalty on all parameters there, in [0, 1).
        batch_size: Samples per step there.
    """

    threshold: float = 2.0
    steps: int = 800
    search_batch_size: int = 256
    search_lr: float = 0.1
    mask_weight: float = 1e-3
    success: float = 0.98
    stamped_share: float = 0.2
    lr: float = 0.01
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        rules = (
            ("threshold", 0 <= self.threshold <= 100, "in [0, 100]"),
            ("steps", 1 <= self.steps <= 100_000, "from 1 to 100000"),
            ("search_batch_size", self.search_batch_size >= 1, "at least 1"),
            ("search_lr", 0 < self.search_lr <= 100, "above 0 and at most 100"),
            ("mask_weight", 0 < self.mask_weight <= 100, "above 0 and at most 100"),
            ("success", 0 <= self.success <= 1, "in [0, 1]"),
            ("stamped_share", 0 < self.stamped_share < 1, "in (0, 1)"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} is {rule}; got {getattr(self, name)}")
        self._tuner  # noqa: B018 - for its rules

    @property
    def _tuner(self) -> SGDTuner:
        return SGDTuner(
            lr=self.lr,
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there are too few classes for one to stand out."""
        del network, head
        if classes < 3:
            raise ValueError(
                f"{self.name} compares each class with the median of all, and needs at least 3 "
                f"classes; there are {classes}"
            )

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The search, then fine-tuning against what it flagged."""
        search = ReverseTriggers(
            steps=self.steps,
            batch_size=self.search_batch_size,
            lr=self.search_lr,
            mask_weight=self.mask_weight,
            success=self.success,
        )
        patch = PatchTriggers(
            threshold=self.threshold, stamped_share=self.stamped_share, tuner=self._tuner
        )
        return search, patch


@dataclass(frozen=True, kw_only=True)
class ReverseTriggers(RepairStage):
    """Seek the smallest trigger of each class.

    All classes see the same views in the same order, in eval mode, so that a class does not depend
    on which others are sought. A trigger's success is judged every ten steps, over these ten; the
    smallest mask after any ten with enough success is the class's. Five such looks in a row with
    enough success double the weight of the mask's norm, five without divide it by 2^1.5. A class
    ends early when its weight has gone both ways and no look of the last 25 found a norm that is
    1 % smaller.

    Attributes:
        steps: At most.
        batch_size: Samples per step.
        lr: Learning rate of Adam.
        mask_weight: Of the mask's L1 norm at the start.
        success: Share of images that a trigger has to send to its class, in [0, 1].
        augment: Whether samples are seen in random views, or as they are.
    """

    steps: int
    batch_size: int
    lr: float
    mask_weight: float
    success: float
    augment: bool = True

    name = "reversed_triggers"

    def cost(self, samples: int) -> float:
        """Return a batch per step and class, for ten classes."""
        return float(self.steps * min(samples, self.batch_size) * CLASSES)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the triggers, and how far each class stands out.

        Returns:
            ``masks`` ``[classes, 1, h, w]`` and ``patterns`` ``[classes, c, h, w]`` in [0, 1];
            ``norms`` ``[classes]``, the masks' L1 norms in pixels; ``reached`` ``[classes]``,
            whether a trigger with enough success was found: if not, mask and pattern are those of
            the start; ``anomaly`` ``[classes]``, see `anomalies`.
        """
        del before
        classifier = restore(context.victim, context.device)
        classes = range(context.victim.model_spec.classes)
        found = yield from self.search(classifier, context.clean, classes)
        return {**found, "anomaly": anomalies(found["norms"])}

    def search(
        self, classifier: Classifier, clean: CleanSamples, classes: Sequence[int]
    ) -> Generator[Step, None, dict[str, Tensor]]:
        """Return what `run` does for some classes, but how far they stand out.

        Args:
            classifier: Whose parameters are frozen from here on.
            clean: Samples of all classes.
            classes: Those whose triggers are sought.
        """
        classifier.network.eval().requires_grad_(requires_grad=False)
        triggers = _Triggers(self, classifier, classes)
        batches = self._batches(classifier, clean)
        for step in range(1, self.steps + 1):
            triggers.take(next(batches))
            if step % PERIOD == 0 or step == self.steps:
                going = triggers.look()
                yield Step(step if going else self.steps, self.steps)
                if not going:
                    break
        return triggers.found()

    def _batches(self, classifier: Classifier, clean: CleanSamples) -> Iterator[Tensor]:
        """Yield batches of images without end, pass after pass."""
        sources = Sources.of(clean.seed, self.name)
        samples = clean.samples.to(classifier.device)
        while True:
            order = torch.randperm(len(samples.labels), generator=sources.order)
            images = seen(classifier, samples, sources, augment=self.augment)
            for index in torch.split(order, self.batch_size):
                yield images[index.to(classifier.device)]


class _Triggers:
    """Triggers of some classes, as they are learned."""

    def __init__(
        self, config: ReverseTriggers, classifier: Classifier, classes: Sequence[int]
    ) -> None:
        self._config, self._classifier = config, classifier
        device, spec = classifier.device, classifier.model_spec
        count, side = len(classes), spec.side
        self._classes = torch.tensor(list(classes), device=device)
        self._mask = torch.ones(count, 1, side, side, device=device, requires_grad=True)
        shape = (count, spec.channels, side, side)
        self._pattern = torch.ones(shape, device=device, requires_grad=True)
        self._optimiser = Adam([self._mask, self._pattern], lr=config.lr, betas=BETAS)
        self._optimiser.zero_grad()
        none = torch.zeros(count, dtype=torch.int64, device=device)
        self._weight = torch.full((count,), config.mask_weight, device=device)
        self._hits, self._seen = torch.zeros(count, device=device), 0
        self._successes, self._failures, self._idle = none, none, none
        self._rose, self._fell, self._ended = none > 0, none > 0, none > 0
        self._best_mask, self._best_pattern = self._now()
        self._best = torch.full((count,), torch.inf, device=device)

    def take(self, images: UInt8[Tensor, "b c h w"]) -> None:
        """Take a step on the triggers of the classes that have not ended."""
        left = (~self._ended).nonzero().flatten()
        self._mask.grad = torch.zeros_like(self._mask)
        self._pattern.grad = torch.zeros_like(self._pattern)
        with reproducible():
            for part in torch.split(left, max(1, IMAGES // len(images))):
                self._add_gradients(images.float(), part)
        self._optimiser.step()
        self._seen += len(images)

    def _add_gradients(self, images: Float[Tensor, "b c h w"], part: Tensor) -> None:
        mask, pattern = _unit(self._mask[part]), _unit(self._pattern[part])
        stamped = _stamped(images, mask[:, None], pattern[:, None]).flatten(0, 1)
        logits = self._classifier.logits(stamped).float()
        targets = self._classes[part].repeat_interleave(len(images))
        losses = cross_entropy(logits, targets, reduction="none")
        # A sum over classes, so that none depends on how many there are.
        loss = losses.sum() / len(images) + (self._weight[part] * _norms(mask)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        hits = (logits.argmax(dim=1) == targets).reshape(len(part), -1)
        self._hits[part] += hits.sum(dim=1)

    def look(self) -> bool:
        """Judge the triggers since the last look; return whether any class has not ended."""
        masks, patterns = self._now()
        norms, before = _norms(masks), self._best
        enough = self._hits >= self._config.success * self._seen - 1e-3
        better = ~self._ended & enough & (norms < before)
        self._best = torch.where(better, norms, before)
        where = better[:, None, None, None]
        self._best_mask = torch.where(where, masks, self._best_mask)
        self._best_pattern = torch.where(where, patterns, self._best_pattern)
        self._successes = torch.where(enough, self._successes + 1, 0)
        self._failures = torch.where(enough, 0, self._failures + 1)
        up, down = self._successes == PATIENCE, self._failures == PATIENCE
        self._weight = torch.where(up, self._weight * UP, self._weight)
        self._weight = torch.where(down, self._weight / DOWN, self._weight)
        self._successes = torch.where(up, 0, self._successes)
        self._failures = torch.where(down, 0, self._failures)
        self._rose, self._fell = self._rose | up, self._fell | down
        still = self._best.isfinite() & (self._best > FALL * before)
        self._idle = torch.where(still, self._idle + 1, 0)
        self._ended = self._ended | (self._rose & self._fell & (self._idle >= IDLE))
        self._hits, self._seen = torch.zeros_like(self._hits), 0
        return not bool(self._ended.all())

    def found(self) -> dict[str, Tensor]:
        """Return the best triggers so far, on the CPU."""
        masks = self._best_mask
        return {
            "masks": masks.cpu(),
            "patterns": self._best_pattern.cpu(),
            "norms": _norms(masks).cpu(),
            "reached": self._best.isfinite().cpu(),
        }

    @torch.no_grad()
    def _now(self) -> tuple[Tensor, Tensor]:
        return _unit(self._mask), _unit(self._pattern)


@dataclass(frozen=True, kw_only=True)
class PatchTriggers(RepairStage):
    """Fine-tune against the triggers of the classes that stand out.

    Attributes:
        threshold: Anomaly above which a class is flagged.
        stamped_share: Share of the samples that are stamped, once with each flagged trigger; the
            others are seen as they are.
        tuner: How the network is trained.
    """

    threshold: float = field(metadata=CHOOSES)
    stamped_share: float
    tuner: SGDTuner

    name = "patch"

    def reads(self, before: Tensors) -> Tensors:
        """Return the triggers of the flagged classes, in order."""
        chosen = before["anomaly"] > self.threshold
        return {name: before[name][chosen] for name in ("masks", "patterns")}

    def cost(self, samples: int) -> float:
        """Return the tuner's cost, as if one class were flagged."""
        return self.tuner.cost(samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network: the victim where no class is flagged.

        Raises:
            DivergedError: Training left the finite numbers.
        """
        triggers = self.reads(before)
        tuner = self.tuner if len(triggers["masks"]) else None
        classes = context.victim.model_spec.classes
        clean = patched(context.clean, triggers, self.stamped_share, classes)
        state = yield from Tune(tuner=tuner).run(replace(context, clean=clean), {})
        return state


def patched(clean: CleanSamples, triggers: Tensors, share: float, classes: int) -> CleanSamples:
    """Return samples of which a share is stamped with each trigger, under their true labels.

    Args:
        clean: Samples as they are.
        triggers: ``masks`` and ``patterns``, as `ReverseTriggers` finds them.
        share: Of the samples, split as `hold_out` does, in (0, 1).
        classes: Number of classes.
    """
    plain, others = hold_out(clean, share, classes)
    parts = [plain]
    for mask, pattern in zip(triggers["masks"], triggers["patterns"], strict=True):
        images = stamp(others.samples.images, mask, pattern)
        samples = Samples(images=images, labels=others.samples.labels)
        parts.append(replace(others, samples=samples))
    return CleanSamples(
        samples=Samples(
            images=torch.cat([part.samples.images for part in parts]),
            labels=torch.cat([part.samples.labels for part in parts]),
        ),
        index=torch.cat([part.index for part in parts]),
        seed=clean.seed,
    )


def stamp(
    images: UInt8[Tensor, "n c h w"], mask: Float[Tensor, "1 h w"], pattern: Float[Tensor, "c h w"]
) -> UInt8[Tensor, "n c h w"]:
    """Return images under a trigger in [0, 1], as bytes."""
    return _stamped(images.float(), mask, pattern).round().to(torch.uint8)


def anomalies(norms: Float[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Return by how many deviations each norm lies below the median of all.

    A deviation is the median of the absolute ones times 1.4826, the standard deviation of a normal
    distribution; medians of an even number are the lower middle. Published is the absolute value;
    here, norms above the median are negative. Where most norms are equal, nothing is known of the
    others and all are 0.
    """
    below = norms.median() - norms
    deviation = 1.4826 * below.abs().median()
    return below / deviation if float(deviation) > 0 else torch.zeros_like(norms)


def _unit(free: Tensor) -> Tensor:
    """Return numbers in [0, 1] for numbers without bounds."""
    return free.tanh() / 2 + 0.5


def _norms(masks: Float[Tensor, "n 1 h w"]) -> Float[Tensor, " n"]:
    return masks.flatten(1).sum(dim=1)


def _stamped(images: Tensor, mask: Tensor, pattern: Tensor) -> Tensor:
    """Return images in grey levels under a trigger in [0, 1]; shapes are broadcast."""
    return (1 - mask) * images + mask * (255 * pattern)
