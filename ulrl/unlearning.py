"""Stage 2 of 5: gradient ascent on the clean samples, to expose suspicious neurons."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import log

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.clean import CleanSamples
from ulrl.errors import DivergedError
from ulrl.fitting import Objective, SGDConfig, Sources, train
from ulrl.layers import Layers, as_rows, bias_name, neurons_of
from ulrl.models import EVALUATION_BATCH, Classifier, Weights, restore
from ulrl.precision import Precision
from ulrl.ranges import Proportion

VERSION = 3

_NEWTON_STEPS, _NEWTON_END = 100, 1e-10  # at most; the largest change of the last one


class StopAccuracy(StrEnum):
    """Which accuracy on the clean samples the stop rule compares."""

    RUNNING = "running"  # the official code's: train mode, augmented, before each step
    EVAL = "eval"  # of the weights at the end of the epoch: eval mode, images as they are


class Finder(StrEnum):
    """How the ascent is kept from ending in whatever class is nearest."""

    ASCENT = "ascent"  # the official code's: it is not
    BALANCED = "balanced"  # classes that are predicted often count less: logit adjustment
    SECOND_ASCENT = "second_ascent"  # a second one, without the class that the first ended in
    PRIOR_SHIFT = "prior_shift"  # a second one, in which rare predictions are made frequent first


CLIMBS_TWICE = (Finder.SECOND_ASCENT, Finder.PRIOR_SHIFT)


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig:
    """The ascent of phase 1; defaults are the official code's.

    Attributes:
        unlearn_lr: Learning rate of SGD.
        unlearn_momentum: Of SGD.
        unlearn_weight_decay: L2 penalty; its sign is the usual one although the loss climbs.
        unlearn_clip_norm: Largest global L2 norm of the gradient; None leaves it alone.
        unlearn_epochs: Epochs at most.
        unlearn_milestones: Epochs after which the rate falls to a tenth.
        unlearn_batch_size: Samples per step; the last batch may be short.
        unlearn_augment: Whether samples are seen in random views, or as they are.
        unlearn_batchnorm_updates: Train-mode passes per step; with 0 BatchNorm is frozen.
        unlearn_precision: Of the forward pass.
        stop_accuracy: Which accuracy the threshold is compared with.
        layers: Whose neurons are watched.
        finder: How the ascent is kept from ending in whatever class is nearest. ``balanced``
            takes the logarithm of the mean prediction of the batch from the logits.
            ``second_ascent`` goes on until one class is predicted for most of the samples,
            then climbs again from the victim without that class and its samples. The others
            are scored by the second ascent; the row of that class by the first, in multiples of
            what the others usually moved by. ``prior_shift`` is for clean-label attacks, whose
            trigger stands for part of the target class, so that the victim predicts the class too
            seldom without it. It climbs again too, with all classes, from logits in which a class
            that was too unlikely on the clean samples is as much too likely. The row of the class
            that the first ascent ended in is scored by the ascent in which it moved more. The
            samples shall have classes in the proportions of the training set.
    """

    unlearn_lr: float = 0.01
    unlearn_momentum: float = 0.9
    unlearn_weight_decay: float = 5e-4
    unlearn_clip_norm: float | None = 20.0
    unlearn_epochs: int = 20
    unlearn_milestones: tuple[int, ...] = (10, 20)
    unlearn_batch_size: int = 128
    unlearn_augment: bool = True
    unlearn_batchnorm_updates: int = 1
    unlearn_precision: Precision = Precision.AMP
    stop_accuracy: StopAccuracy = StopAccuracy.RUNNING
    layers: Layers = Layers.HEAD
    finder: Finder = field(default=Finder.ASCENT, metadata={"added": True})

    def __post_init__(self) -> None:
        self.sgd.check("unlearn", self.unlearn_lr)
        if any(milestone < 1 for milestone in self.unlearn_milestones):
            raise ValueError(
                f"unlearn_milestones are epochs from 1; got {list(self.unlearn_milestones)}"
            )
        if self.unlearn_batchnorm_updates not in (0, 1, 2):
            raise ValueError(
                f"unlearn_batchnorm_updates is 0, 1 or 2; got {self.unlearn_batchnorm_updates}"
            )

    @property
    def sgd(self) -> SGDConfig:
        """The training that these values describe."""
        return SGDConfig(
            epochs=self.unlearn_epochs,
            batch_size=self.unlearn_batch_size,
            rate=self.rate,
            momentum=self.unlearn_momentum,
            weight_decay=self.unlearn_weight_decay,
            clip_norm=self.unlearn_clip_norm,
            batchnorm_updates=self.unlearn_batchnorm_updates,
            precision=self.unlearn_precision,
            augment=self.unlearn_augment,
        )

    def rate(self, elapsed: float) -> float:
        """Return the learning rate, which changes between epochs only."""
        passed = sum(elapsed >= milestone for milestone in self.unlearn_milestones)
        return self.unlearn_lr * 0.1**passed


@dataclass(frozen=True, kw_only=True, eq=False)
class Ascent:
    """One trajectory of phase 1, from which every stop threshold can be read.

    The first epoch whose accuracy is at most a threshold is a new minimum of the
    accuracy, so keeping the watched layers at each new minimum, and at the end, keeps all
    that any threshold can ask for.

    Attributes:
        before: Parameters of the victim's watched layers by name, a row per neuron, the
            head's last: weights ``[rows, fan_in]``, biases ``[rows]``.
        after: The same at the kept epochs, in order: ``[kept, rows, fan_in]``, ``[kept, rows]``.
        kept: Those epochs, from 1.
        predicted: How many clean samples each class is predicted for at the kept epochs, in
            eval mode, without augmentation: ``[kept, classes]``. All 0 where it diverged.
        accuracy: The accuracy that is compared, of every epoch.
        loss: Running cross-entropy of every epoch.
        diverged: Whether loss, weights or outputs stopped being finite in the last epoch,
            which ends the ascent. That epoch's accuracy means nothing.
    """

    before: Mapping[str, Tensor]
    after: Mapping[str, Tensor]
    kept: tuple[int, ...]
    predicted: Int64[Tensor, "kept classes"]
    accuracy: tuple[Proportion, ...]
    loss: tuple[float, ...]
    diverged: bool

    def at(self, epoch: int) -> dict[str, Tensor]:
        """Return the watched parameters at the end of a kept epoch."""
        place = self.kept.index(epoch)
        return {name: values[place] for name, values in self.after.items()}

    def predicted_at(self, epoch: int) -> Int64[Tensor, " classes"]:
        """Return how many clean samples each class is predicted for at a kept epoch."""
        return self.predicted[self.kept.index(epoch)]

    def reaches(self, threshold: float) -> bool:
        """Whether the accuracy fell to `threshold` in an epoch that did not diverge."""
        return any(accuracy <= threshold for accuracy in self._sound())

    def stop_epoch(self, threshold: float) -> int:
        """Return the first epoch at or below `threshold`, else the last there is."""
        for number, accuracy in enumerate(self._sound(), start=1):
            if accuracy <= threshold:
                return number
        return len(self.accuracy)

    def _sound(self) -> tuple[float, ...]:
        """Accuracies of the finite epochs: a divergence, always in the last, spares them."""
        return self.accuracy[:-1] if self.diverged else self.accuracy

    def covers(self, threshold: float, config: UnlearnConfig) -> bool:
        """Whether a separate ascent to `threshold` would have gone no further."""
        ended = len(self.accuracy) >= config.unlearn_epochs
        return self.reaches(threshold) or self.diverged or ended


@dataclass(frozen=True, kw_only=True, eq=False)
class _FirstEnd:
    """The class that a first ascent ended in, for the second.

    Attributes:
        label: The class.
        gone: Whether the second does without it: none of the samples has it, and none is
            predicted to.
        changes: How far its row moved in the ascent that ended in it, by the head's parameters.
        unit: How far other rows moved in that ascent; see `_usual_movement`.
    """

    label: int
    gone: bool
    changes: Mapping[str, Tensor]
    unit: float


def unlearn(
    config: UnlearnConfig,
    victim: Weights,
    clean: CleanSamples,
    floor: float,
    device: torch.device,
    *,
    observe: Callable[[Classifier], None] | None = None,
) -> Iterator[Ascent]:
    """Maximise cross-entropy on the clean samples; yield the ascent so far, epoch by epoch.

    It ends after the first epoch whose running accuracy is at most `floor`, the lowest
    threshold anyone will ask for, or after ``unlearn_epochs``. All parameters train, in
    train mode, as in the official code; what the stop rule reads does not depend on the
    threshold, so one ascent serves all of them exactly. `observe` is called with the
    climbing classifier after each epoch that did not diverge; it may measure, and shall change
    nothing.

    Where a finder climbs twice the first ascent is yielded too, epoch by epoch, but not observed.
    Where it diverges, or there are only two classes, there is no second.

    Raises:
        ValueError: Fewer than two samples are left for a second ascent.
    """
    first: _FirstEnd | None = None
    if config.finder in CLIMBS_TWICE and victim.model_spec.classes > 2:
        for ascent in _ascend(config, victim, clean, 0.0, device):
            yield ascent
            if 2 * int(ascent.predicted_at(ascent.kept[-1]).max()) > len(clean.samples.labels):
                break
        if ascent.diverged:
            return
        gone = config.finder is Finder.SECOND_ASCENT
        first = _ended_in(f"{victim.model_spec.head}.weight", ascent, gone=gone)
        clean = _without(first.label, clean) if gone else clean
    yield from _ascend(config, victim, clean, floor, device, first=first, observe=observe)


def _ended_in(weight: str, ascent: Ascent, *, gone: bool) -> _FirstEnd:
    """Return the class that an ascent predicts most at its last minimum, and how its row moved.

    Args:
        weight: The head's, by its name.
        ascent: That has not diverged.
        gone: Whether the second does without the class.
    """
    label = int(ascent.predicted_at(ascent.kept[-1]).argmax())
    now, before = ascent.at(ascent.kept[-1]), ascent.before
    names = [name for name in (weight, bias_name(weight)) if name in now]
    return _FirstEnd(
        label=label,
        gone=gone,
        changes={name: now[name][label] - before[name][label] for name in names},
        unit=_usual_movement(now[weight] - before[weight], label),
    )


def _usual_movement(change: Float[Tensor, "classes fan_in"], label: int) -> float:
    """Return the median of the sums of absolute changes of the rows but that of a class."""
    others = torch.arange(len(change)) != label
    return float(change.abs().sum(dim=1)[others].median())


def _without(label: int, clean: CleanSamples) -> CleanSamples:
    """Return the clean samples of other classes."""
    left = clean.samples.labels != label
    if int(left.sum()) < 2:
        raise ValueError(
            f"finder second_ascent takes out class {label}, which leaves {int(left.sum())} clean "
            f"samples, and two are needed; draw more, or write finder: ascent"
        )
    samples = replace(
        clean.samples, images=clean.samples.images[left], labels=clean.samples.labels[left]
    )
    return replace(clean, samples=samples, index=clean.index[left])


def _ascend(
    config: UnlearnConfig,
    victim: Weights,
    clean: CleanSamples,
    floor: float,
    device: torch.device,
    *,
    first: _FirstEnd | None = None,
    observe: Callable[[Classifier], None] | None = None,
) -> Iterator[Ascent]:
    """Climb once, from the victim; see `unlearn`."""
    classifier = restore(victim, device)
    _begin_second(first, classifier, clean)
    watched = neurons_of(classifier, config.layers)
    before = _copies(watched)
    accuracies: list[float] = []
    losses: list[float] = []
    kept: dict[int, dict[str, Tensor]] = {}
    predicted: list[Tensor] = []
    sources = Sources.of(clean.seed, "unlearn")
    for epoch in train(classifier, clean.samples, _CLIMBS[config.finder], config.sgd, sources):
        now = _with_row(first, before, _copies(watched))
        answers: Tensor | None = None
        accuracy, diverged = epoch.accuracy, bool(epoch.fault)
        last = False
        if not diverged:
            try:
                if config.stop_accuracy is StopAccuracy.EVAL:
                    answers = classifier.predict(clean.samples.images)
                    accuracy = int((answers == clean.samples.labels).sum()) / len(answers)
                last = accuracy <= floor or epoch.number == config.unlearn_epochs
                if answers is None and (last or _is_least(accuracy, accuracies)):
                    answers = classifier.predict(clean.samples.images)
                if observe is not None:
                    observe(classifier)
            except DivergedError:  # finite weights, the outputs of which are not
                diverged = True
        last = last or diverged
        if last or _is_least(accuracy, accuracies):
            kept[epoch.number] = now
            counts = torch.zeros(victim.model_spec.classes, dtype=torch.int64)
            if answers is not None and not diverged:
                counts = torch.bincount(answers, minlength=victim.model_spec.classes)
            predicted.append(counts)
        accuracies.append(accuracy)
        losses.append(-epoch.loss)
        after = _Stacked(tuple(kept.values()))
        yield Ascent(
            before=before,
            after=dict(after) if last else after,
            kept=tuple(kept),
            predicted=torch.stack(predicted),
            accuracy=tuple(accuracies),
            loss=tuple(losses),
            diverged=diverged,
        )
        if last:
            return


def _is_least(accuracy: float, earlier: list[float]) -> bool:
    """Whether an epoch's accuracy is below that of all before it."""
    return all(accuracy < other for other in earlier)


def _climb(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)


def _climb_balanced(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the negative cross-entropy of logits less the log of the batch's mean prediction.

    Logit adjustment (Menon et al., ICLR 2021) by predicted classes in place of labels: what pulls
    all samples to one class is divided out of the softmax, so that classes grow alike.
    """
    mass = logits.log_softmax(dim=1).logsumexp(dim=0) - log(len(logits))
    return -cross_entropy(logits - mass.detach(), labels)


_CLIMBS: Mapping[Finder, Objective] = {
    Finder.ASCENT: _climb,
    Finder.BALANCED: _climb_balanced,
    Finder.SECOND_ASCENT: _climb,
    Finder.PRIOR_SHIFT: _climb,
}


def _with_row(
    first: _FirstEnd | None, before: Mapping[str, Tensor], now: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return parameters in which the row that a first ascent ended in moved as it had there.

    That is by the same multiple of what other rows usually moved by, so that one score compares
    the rows of two ascents that may have gone on for longer or shorter. Where the second ascent has
    the class too, its own movement stays if it is larger.
    """
    if first is None:
        return now
    weight = next(name for name, change in first.changes.items() if change.ndim)
    usual = _usual_movement(now[weight] - before[weight], first.label)
    scale = usual / first.unit if first.unit else 1.0
    moved = float((now[weight] - before[weight])[first.label].abs().sum())
    if not first.gone and moved >= scale * float(first.changes[weight].abs().sum()):
        return now
    for name, change in first.changes.items():
        now[name][first.label] = before[name][first.label] + change * scale
    return now


def _begin_second(first: _FirstEnd | None, classifier: Classifier, clean: CleanSamples) -> None:
    """Change what the network says before a second ascent."""
    if first is None:
        return
    if first.gone:
        _never_predict(first.label, classifier)
    else:
        _shift_prior(classifier, clean)


def _never_predict(label: int, classifier: Classifier) -> None:
    """Give a class the least logit there is, whatever the network says."""
    place = torch.tensor([label], device=classifier.device)

    def mask(_module: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
        return logits.index_fill(1, place, torch.finfo(logits.dtype).min)

    classifier.network.register_forward_hook(mask)


def _shift_prior(classifier: Classifier, clean: CleanSamples) -> None:
    """Add to the logits twice what the clean samples' labels say is missing; see `missing_prior`.

    Once would leave the ascent of a benign network, which may end in any class.
    """
    classifier.network.eval()
    with torch.no_grad():
        batches = torch.split(clean.samples.images, EVALUATION_BATCH)
        logits = torch.cat([classifier.logits(batch).double().cpu() for batch in batches])
    shift = (2 * missing_prior(logits, clean.samples.labels)).to(classifier.device)

    def add(_module: nn.Module, _inputs: object, logits: Tensor) -> Tensor:
        return logits + shift.to(logits.dtype)

    classifier.network.register_forward_hook(add)


def missing_prior(
    logits: Float[Tensor, "n classes"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, " classes"]:
    """Return what to add to logits so that each class is as likely as it is among the labels.

    The numbers of the greatest likelihood, each with a standard normal prior, which keeps those of
    classes with few samples near 0. Newton's method on a concave function, in steps of at most 1.
    """
    counts = torch.bincount(labels, minlength=logits.shape[1]).to(logits)
    shift = torch.zeros_like(counts)
    for _ in range(_NEWTON_STEPS):
        likely = (logits + shift).softmax(dim=1)
        slope = counts - likely.sum(dim=0) - shift
        curvature = torch.diag(likely.sum(dim=0) + 1) - likely.T @ likely
        step = torch.linalg.solve(curvature, slope)
        shift += step / step.abs().max().clamp(min=1)
        if float(step.abs().max()) < _NEWTON_END:
            break
    return shift


def _copies(watched: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: as_rows(values.detach()).cpu().clone() for name, values in watched.items()}


class _Stacked(Mapping[str, Tensor]):
    """Kept parameters by name, which are stacked when they are asked for.

    An ascent is yielded after each epoch, and copying all kept epochs each time would take
    time and memory that grow with the square of their number.
    """

    def __init__(self, parts: tuple[Mapping[str, Tensor], ...]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        return torch.stack([part[name] for part in self._parts])

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts[0])

    def __len__(self) -> int:
        return len(self._parts[0])
