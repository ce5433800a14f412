"""The one training loop: victims, ascent and relearning differ in what they pass it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import inf, isfinite
from typing import TypeAlias

import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.utils import clip_grad_norm_, get_total_norm

from ulrl.augmentation import Views, apply_views, draw_views
from ulrl.errors import DivergedError
from ulrl.models import TOO_SMALL, Classifier
from ulrl.precision import Precision
from ulrl.randomness import generator, preserved_default_rng, seeded_layer_rng
from ulrl.replay import Replay
from ulrl.sgd import SGD, Optimiser
from ulrl.training_hooks import NO_HOOKS, TrainingHooks

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]  # (logits, labels) -> scalar
Rate: TypeAlias = Callable[[float], float]  # epochs elapsed, with a fraction -> lr
BATCHNORM = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - torch has no public common base


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Images to train on."""

    images: UInt8[Tensor, "n c h w"]
    labels: Int64[Tensor, " n"]

    def to(self, device: torch.device) -> "Samples":
        """Return the same samples on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What the loop saw of its own batches, before each step and in train mode.

    Attributes:
        number: From 1.
        loss: Mean over the samples.
        accuracy: Share of the samples, in [0, 1].
        fault: Why the network is of no use at the end of this epoch: its loss or its weights
            are not finite, or loss scaling left out every step. "" if it is sound.
    """

    number: int
    loss: float
    accuracy: float
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class SGDConfig:
    """A training by SGD: its length, batches, learning rate, update and arithmetic.

    Attributes:
        epochs: Passes over the samples.
        batch_size: Samples per step.
        rate: Learning rate at each moment.
        momentum: In [0, 1).
        nesterov: Whether in Nesterov's form.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        clip_norm: Largest global L2 norm of the gradient.
        batchnorm_updates: Train-mode passes per step; with 0 BatchNorm is frozen: it
            normalises by its running statistics and leaves them as they are.
        precision: Of the forward pass in which gradients are taken.
        augment: Whether samples are seen in random views, or as they are.
        drop_last: Whether a last short batch is left out (never the only one).
    """

    epochs: int
    batch_size: int
    rate: Rate
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    clip_norm: float | None = None
    batchnorm_updates: int = 1
    precision: Precision = Precision.FP32
    augment: bool = True
    drop_last: bool = False

    def batches(self, order: Int64[Tensor, " n"]) -> tuple[Int64[Tensor, " b"], ...]:
        """Return the indices of each step of an epoch."""
        batches = torch.split(order, self.batch_size)
        short = len(batches) > 1 and len(batches[-1]) < self.batch_size
        return batches[:-1] if self.drop_last and short else batches

    def leaves_one(self, count: int) -> bool:
        """Whether the last batch of `count` samples is a single one, beside others."""
        return not self.drop_last and count > self.batch_size and count % self.batch_size == 1

    def check(self, phase: str, lr: float) -> None:
        """Raise ``ValueError`` where a number is out of range.

        Args:
            phase: Begins the name of each number in the message, if it is not "".
            lr: The learning rate that `rate` begins with.
        """
        clip_norm = self.clip_norm
        rules = (
            ("lr", lr, 0 < lr <= 100, "above 0 and at most 100"),
            ("momentum", self.momentum, 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < 1, "in [0, 1)"),
            ("epochs", self.epochs, 1 <= self.epochs <= 1000, "from 1 to 1000"),
            ("batch_size", self.batch_size, self.batch_size >= 1, "at least 1"),
            ("clip_norm", clip_norm, clip_norm is None or clip_norm > 0, "above 0, or null"),
        )
        for name, value, holds, rule in rules:
            if not holds:
                raise ValueError(f"{f'{phase}_{name}' if phase else name} is {rule}; got {value}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """Generators of a training's order, of its views, and for layers such as dropout."""

    order: Generator
    views: Generator
    layers: Generator

    @classmethod
    def of(cls, seed: int, stage: str) -> "Sources":
        """Return the generators of a stage."""
        return cls(
            order=generator(seed, stage, "order"),
            views=generator(seed, stage, "views"),
            layers=generator(seed, stage, "layers"),
        )


def train(
    classifier: Classifier,
    samples: Samples,
    objective: Objective,
    config: SGDConfig,
    sources: Sources,
    hooks: TrainingHooks = NO_HOOKS,
) -> Iterator[Epoch]:
    """Train `classifier` in place and yield after each epoch, in eval-safe state.

    Each epoch shuffles all samples and draws a view of each. The caller may measure, or
    stop by leaving the iterator; neither changes what follows. On a GPU nothing waits for
    the device within an epoch.

    An epoch in which loss scaling left out every step changed no weight. It is repeated, with
    the lowered scale and the same batches, until a step is taken. An epoch may have a `fault`;
    `raise_if_diverged` makes an error of it.

    Args:
        classifier: Trained in place, in train mode.
        samples: What to train on.
        objective: Maps logits (in float32) and labels to what is minimised.
        config: Length, batches, learning rate, update and arithmetic.
        sources: Where its randomness comes from.
        hooks: What an attacker does to each batch, before or after augmentation.
    """
    device, network = classifier.device, classifier.network
    samples = samples.to(device)
    steps = _Steps(classifier, samples, objective, config, hooks)
    count = len(samples.labels)
    alone = config.batch_size == 1 or config.leaves_one(count)
    join = alone and not _takes_one(classifier, samples)
    if join and config.batch_size == 1:
        raise ValueError(TOO_SMALL)
    try:
        for epoch in range(config.epochs):
            set_train_mode(network, config.batchnorm_updates)
            hooks.start_epoch(epoch + 1)
            batches = config.batches(torch.randperm(count, generator=sources.order))
            if join:
                batches = (*batches[:-2], torch.cat(batches[-2:]))
            steps.draw_views(sources.views)
            with seeded_layer_rng(sources.layers, device), steps.running():
                there = torch.split(
                    torch.cat(batches).to(device), [len(batch) for batch in batches]
                )
                again = True
                while again:
                    steps.start_pass()
                    for step, (chosen, index) in enumerate(zip(batches, there, strict=True)):
                        steps.take(chosen, index, config.rate(epoch + step / len(batches)))
                    moved, again = steps.moved(len(batches))
            loss, hits = steps.seen()
            seen_count = sum(map(len, batches))
            loss /= seen_count
            yield Epoch(
                number=epoch + 1,
                loss=loss,
                accuracy=hits / seen_count,
                fault=fault_of(loss, network, moved=moved),
            )
    finally:
        steps.close()


def raise_if_diverged(
    epochs: Iterator[Epoch],
    what: str,
    remedy: str,
    observe: Callable[[Epoch], None] | None = None,
) -> Iterator[Epoch]:
    """Yield epochs as long as they are sound.

    Args:
        epochs: Of a training.
        what: Name of the training, to begin the message with.
        remedy: What may help, to end the message with.
        observe: Called after each epoch; it may measure the network.

    Raises:
        DivergedError: An epoch has a fault, or the network's outputs were seen not to be finite.
    """
    for epoch in epochs:
        fault = epoch.fault
        if not fault and observe is not None:
            try:
                observe(epoch)
            except DivergedError as error:  # finite weights, the outputs of which are not
                fault = str(error)
        if fault:
            raise DivergedError(
                f"{what} diverged in epoch {epoch.number} ({fault}); {remedy} may help"
            )
        yield epoch


def fault_of(loss: float, network: nn.Module, *, moved: bool = True) -> str:
    """Return why a network is of no use after an epoch, or "".

    Args:
        loss: Of the epoch.
        network: At its end.
        moved: Whether loss scaling let through any step.
    """
    if not isfinite(loss):
        return f"the loss is {loss}"
    values = (*network.parameters(), *network.buffers())
    floats = [v.detach() for v in values if v.is_floating_point() and v.numel()]
    if not bool(get_total_norm(floats, inf).isfinite()):  # the largest magnitude; NaN if any is
        return "weights are not finite"
    return "" if moved else "gradients exceed the range of fp16 at every loss scale"


class _Steps:
    """The steps of a training, one after the other."""

    def __init__(
        self,
        classifier: Classifier,
        samples: Samples,
        objective: Objective,
        config: SGDConfig,
        hooks: TrainingHooks,
    ) -> None:
        self._classifier, self._samples = classifier, samples
        self._device = device = classifier.device
        self._objective, self._config, self._hooks = objective, config, hooks
        self._preprocessing = classifier.model_spec.preprocessing
        if not config.augment:
            self._preprocessing = replace(self._preprocessing, padding=0, flip=False)
        self._scaler = config.precision.scaler(device)
        self._sgd = SGD(
            classifier.network,
            lr=0.0,  # set before each step
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        )
        self._optimisers: tuple[Optimiser, ...] = (self._sgd, *hooks.optimisers)
        places = torch.zeros((2, len(samples.labels)), dtype=torch.int64, device=device)
        self._views = Views(top=places[0], left=places[1], mirrored=places[0] > 0)
        self._loss_sum = torch.zeros((), device=device)
        self._hits = torch.zeros((), device=device)
        self._scale = 1.0  # of the loss, at the start of a pass
        self._replay: Replay | None = None
        if _replays(classifier, hooks):
            self._replay = Replay(lambda index: self._take(index, index), device)
            self._rate = torch.zeros((), device=device)
            self._sgd.param_groups[0]["lr"] = self._rate

    def draw_views(self, source: Generator) -> None:
        """Draw a view of each sample."""
        count = len(self._samples.labels)
        self._views.become(draw_views(count, self._preprocessing, source, self._device))

    def start_pass(self) -> None:
        """Forget what the last pass saw."""
        self._loss_sum.zero_()
        self._hits.zero_()
        self._scale = self._scaler.get_scale()  # 1 where nothing is scaled

    def moved(self, steps: int) -> tuple[bool, bool]:
        """Return whether a pass of so many steps took any, and whether another pass might.

        Each step that is left out lowers the scale by the same factor, and no other step does.
        """
        if not self._scaler.is_enabled():
            return True, False
        scale = self._scaler.get_scale()
        moved = scale > self._scale * self._scaler.get_backoff_factor() ** steps
        return moved, not moved and scale >= 1

    @contextmanager
    def running(self) -> Iterator[None]:
        """Take steps inside; the same steps give the same bits each time.

        In float32, cuDNN would choose gradients of convolutions that differ from run to run.
        """
        before = torch.backends.cudnn.deterministic
        torch.backends.cudnn.deterministic = True
        try:
            with nullcontext() if self._replay is None else self._replay.running():
                yield
        finally:
            torch.backends.cudnn.deterministic = before

    def take(self, chosen: Int64[Tensor, " b"], index: Int64[Tensor, " b"], rate: float) -> None:
        """Take a step on the samples of an index, which is given on the CPU and on the device."""
        if self._replay is not None:
            self._rate.fill_(rate)
            self._replay(index)
            return
        self._sgd.param_groups[0]["lr"] = rate
        self._take(index, chosen)

    def close(self) -> None:
        """Give back what was kept for steps."""
        if self._replay is not None:
            self._replay.close()
            # It knows this object, so that both would wait for the garbage collector.
            self._replay = None
            self._sgd.zero_grad()  # gradients lie in the memory of the recordings

    def seen(self) -> tuple[float, float]:
        """Return the sum of the losses and the number of hits in this epoch."""
        return float(self._loss_sum), float(self._hits)

    def _take(self, index: Tensor, chosen: Tensor) -> None:
        hooks, classifier, samples = self._hooks, self._classifier, self._samples
        look = partial(apply_views, views=self._views.of(index), preprocessing=self._preprocessing)
        batch = samples.images[index] if not hooks.late else look(samples.images[index])
        batch, labels = hooks.alter(batch, samples.labels[index], chosen, classifier)
        batch = batch if hooks.late else look(batch)
        with self._config.precision.casting(self._device):
            logits = classifier.logits(batch)
        logits = logits.float()
        loss = hooks.loss(logits, labels, self._objective)
        _step(loss, self._optimisers, self._scaler, self._config.clip_norm)
        self._loss_sum += loss.detach() * len(index)
        self._hits += (logits.detach().argmax(dim=1) == labels).sum()
        for _ in range(self._config.batchnorm_updates - 1):
            with torch.no_grad():
                classifier.logits(batch)


def _replays(classifier: Classifier, hooks: TrainingHooks) -> bool:
    """Whether steps are recorded once; what hooks do is chosen on the CPU, batch by batch."""
    replayable = classifier.model_spec.architecture.replayable
    return classifier.device.type == "cuda" and replayable and hooks is NO_HOOKS


def _step(
    loss: Tensor,
    optimisers: tuple[Optimiser, ...],
    scaler: GradScaler,
    clip_norm: float | None,
) -> None:
    """Take one step with each optimiser; the gradient of the first is clipped."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    if clip_norm is not None:
        scaler.unscale_(optimisers[0])  # type: ignore[arg-type]  # SGD will do
        own = [part for group in optimisers[0].param_groups for part in group["params"]]
        clip_grad_norm_(own, clip_norm)
    for optimiser in optimisers:
        scaler.step(optimiser)  # type: ignore[arg-type]  # SGD will do
    scaler.update()


def _takes_one(classifier: Classifier, samples: Samples) -> bool:
    """Whether the network can train on a single image.

    BatchNorm over features of 1×1 cannot, since one value has no variance. There a last
    batch of one joins the one before it; the official code ends with an error.
    """
    probe = Classifier(classifier.model_spec, deepcopy(classifier.network), classifier.device)
    probe.network.train()
    try:
        with torch.no_grad(), preserved_default_rng():
            probe.logits(samples.images[:1])
    except ValueError:
        return False
    return True


def set_train_mode(network: nn.Module, batchnorm_updates: int) -> None:
    """Put `network` in train mode, but for BatchNorm where it is frozen."""
    network.train()
    if batchnorm_updates == 0:
        for module in network.modules():
            if isinstance(module, BATCHNORM):
                module.eval()
