"""I-BAU: a minimax game against a universal perturbation (Zeng et al., ICLR 2022)."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from ulrl.attacks import Step
from ulrl.fitting import Epoch, Samples, Sources, raise_if_diverged
from ulrl.methods._base import RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.methods._loop import Passes, reproducible, seen, train_by
from ulrl.models import Classifier, restore
from ulrl.randomness import generator

Loss = Callable[[Tensor], Tensor]  # of a perturbation; a scalar


@register("i_bau")
@dataclass(frozen=True, kw_only=True)
class IBAU(RepairMethod):
    """In each round, find a perturbation that misleads the network, then unlearn it.

    The gradient of the unlearning step takes into account how the perturbation would follow the
    weights: an implicit hypergradient, by a fixed-point iteration. The network is in eval mode
    throughout. Samples are drawn into views and batches once, before the first round. The
    perturbation lives in the space of normalised images, where the published rates belong, and is
    not clipped. Defaults are BackdoorBench's, with one difference: the number of stamped images of
    a batch is rounded and at least 1, since a batch without any is plain fine-tuning.

    A network that is very sure of its predictions has gradients so small that the default
    `perturb_lr` hardly moves the perturbation in the few steps of a pass.

    Attributes:
        rounds: From 1 to 1000.
        lr: Learning rate of Adam (AMSGrad, no weight decay) on the weights, above 0.
        batch_size: Samples per step.
        stamped_share: Share of a batch that is perturbed in the unlearning step, in (0, 1].
        penalty: Weight of the perturbation's squared L2 norm, at least 0.
        perturb_lr: Rate of the gradient steps that find the perturbation, above 0.
        inner_lr: Rate of the gradient step through which it follows the weights, above 0.
        fixed_point_steps: Iterations of the hypergradient, from 0 to 100; with 0 the perturbation
            counts as constant.
        augment: Whether the views are random, or the images as they are.
    """

    rounds: int = 5
    lr: float = 1e-4
    batch_size: int = 256
    stamped_share: float = 0.01
    penalty: float = 1e-3
    perturb_lr: float = 10.0
    inner_lr: float = 0.1
    fixed_point_steps: int = 5
    augment: bool = True

    def __post_init__(self) -> None:
        rules = (
            ("rounds", 1 <= self.rounds <= 1000, "from 1 to 1000"),
            ("lr", 0 < self.lr <= 100, "above 0 and at most 100"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("stamped_share", 0 < self.stamped_share <= 1, "above 0 and at most 1"),
            ("penalty", 0 <= self.penalty <= 100, "in [0, 100]"),
            ("perturb_lr", 0 < self.perturb_lr <= 1e6, "above 0 and at most 1e6"),
            ("inner_lr", 0 < self.inner_lr <= 100, "above 0 and at most 100"),
            ("fixed_point_steps", 0 <= self.fixed_point_steps <= 100, "from 0 to 100"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} is {rule}; got {getattr(self, name)}")

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The game alone."""
        return (Minimax(config=self),)


@dataclass(frozen=True, kw_only=True)
class Minimax(RepairStage):
    """Find a universal perturbation and unlearn it, in turns.

    Attributes:
        config: Rounds, rates and shares.
    """

    config: IBAU

    name = "minimax"

    def cost(self, samples: int) -> float:
        """Return about 2 passes to find it, then 2 and one per fixed-point step of each batch.

        A product with the Hessian is about two passes, over the first batch.
        """
        batches = -(-samples // self.config.batch_size)
        first = min(samples, self.config.batch_size)
        game = 2.0 * samples + batches * first * (2.0 + 2.0 * self.config.fixed_point_steps)
        return self.config.rounds * game

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network.

        Raises:
            DivergedError: The game left the finite numbers.
        """
        del before
        classifier = restore(context.victim, context.device)

        def look(epoch: Epoch) -> None:
            context.observe(classifier)
            if epoch.number == self.config.rounds:
                classifier.predict(context.clean.samples.images)

        epochs = self._play(classifier, context)
        for epoch in raise_if_diverged(epochs, "i_bau", "a smaller lr", look):
            yield Step(epoch.number, self.config.rounds)
        return classifier.weights().state

    def _play(self, classifier: Classifier, context: RepairContext) -> Iterator[Epoch]:
        sources = Sources.of(context.clean.seed, "i_bau")
        samples = self._fixed(classifier, context.clean.samples, sources)
        stamps = generator(context.clean.seed, "i_bau", "stamped")
        game = _Game(self.config, classifier, samples, stamps)
        passes = Passes(
            epochs=1,
            batch_size=self.config.batch_size,
            rate=lambda _: self.config.lr,
            augment=False,
            shuffle=False,
            train_mode=False,
        )
        classifier.network.eval()
        for number in range(1, self.config.rounds + 1):
            game.perturb()
            for epoch in train_by(classifier, samples, game.take, passes, sources):
                yield replace(epoch, number=number)

    def _fixed(self, classifier: Classifier, samples: Samples, sources: Sources) -> Samples:
        """Return the samples in one order and one view for all rounds, on the device."""
        order = torch.randperm(len(samples.labels), generator=sources.order)
        images = seen(classifier, samples, sources, augment=self.config.augment)
        there = order.to(classifier.device)
        return Samples(images=images[there], labels=samples.labels.to(classifier.device)[there])


class _Game:
    """A network, the perturbation of the round, and the steps against it."""

    def __init__(
        self,
        config: IBAU,
        classifier: Classifier,
        samples: Samples,
        stamps: torch.Generator,
    ) -> None:
        self._config, self._classifier = config, classifier
        self._samples, self._stamps = samples, stamps
        self._weights = [p for p in classifier.network.parameters() if p.requires_grad]
        self._optimiser = Adam(self._weights, lr=config.lr, amsgrad=True)
        self._perturbation = torch.empty(0)

    def perturb(self) -> None:
        """Find the perturbation of a round."""
        self._perturbation = universal_perturbation(
            self._classifier,
            self._samples.images,
            lr=self._config.perturb_lr,
            penalty=self._config.penalty,
            batch_size=self._config.batch_size,
        )

    def take(self, images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
        """Take a step on a batch, part of which is perturbed."""
        del rate  # it does not change
        config, classifier, size = self._config, self._classifier, self._config.batch_size
        first, truth = self._samples.images[:size], self._samples.labels[:size]
        chosen = torch.randperm(len(images), generator=self._stamps)
        chosen = chosen[: stamped_count(config.stamped_share, len(images))]
        stamped = torch.zeros(len(images), 1, 1, 1, device=images.device)
        stamped[chosen.to(images.device)] = 1.0
        logits = torch.empty(0)

        def outer(delta: Tensor) -> Tensor:
            nonlocal logits
            logits = classifier.logits(perturbed(classifier, images, stamped * delta))
            return cross_entropy(logits, labels)

        def inner(delta: Tensor) -> Tensor:
            return misled(classifier, first, truth, delta, config.penalty)

        loss, gradients = hypergradient(
            outer,
            inner,
            self._perturbation,
            self._weights,
            lr=config.inner_lr,
            steps=config.fixed_point_steps,
        )
        for weight, gradient in zip(self._weights, gradients, strict=True):
            weight.grad = gradient
        self._optimiser.step()
        return loss, logits


def stamped_count(share: float, batch: int) -> int:
    """Return how many images of a batch are perturbed: at least one."""
    return max(1, round(share * batch))


def perturbed(
    classifier: Classifier, images: UInt8[Tensor, "n c h w"], delta: Float[Tensor, "... c h w"]
) -> Float[Tensor, "n c h w"]:
    """Return images in grey levels, moved by `delta` in units of the normalised images."""
    std = images.new_tensor(classifier.model_spec.preprocessing.std, dtype=torch.float32)
    return images + 255 * std[:, None, None] * delta


def misled(
    classifier: Classifier,
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    delta: Float[Tensor, "c h w"],
    penalty: float,
) -> Tensor:
    """Return what a perturbation minimises: the negative cross-entropy, and its squared norm."""
    logits = classifier.logits(perturbed(classifier, images, delta))
    return -cross_entropy(logits, labels) + penalty * delta.square().sum()


def universal_perturbation(
    classifier: Classifier,
    images: UInt8[Tensor, "n c h w"],
    *,
    lr: float,
    penalty: float,
    batch_size: int,
) -> Float[Tensor, "c h w"]:
    """Return a perturbation that leads images away from what the network predicts for them.

    One pass of plain gradient steps from 0, in the order of the images; in units of the normalised
    images, without a bound. The network is in eval mode.
    """
    delta = torch.zeros(images.shape[1:], device=classifier.device)
    with reproducible():
        for batch in torch.split(images.to(classifier.device), batch_size):
            with torch.no_grad():
                labels = classifier.logits(batch).argmax(dim=1)
            delta.requires_grad_()
            loss = misled(classifier, batch, labels, delta, penalty)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = delta.detach() - lr * gradient
    return delta


def hypergradient(
    outer: Loss,
    inner: Loss,
    perturbation: Tensor,
    weights: Sequence[Tensor],
    *,
    lr: float,
    steps: int,
) -> tuple[Tensor, list[Tensor]]:
    """Return the outer loss, and its gradient where the perturbation depends on the weights.

    The perturbation is taken for a fixed point of a gradient step on the inner loss. With J the
    step's derivative by the perturbation and g the outer loss's, v ← Jᵀv + g from v = 0; then v
    times the step's derivative by the weights is added to the direct gradient (Grazzi et al.,
    ICML 2020).

    Args:
        outer: Of which the gradient is wanted; it depends on the weights too.
        inner: Which the perturbation minimises; likewise.
        perturbation: Where both are taken.
        weights: For which there is a gradient each, of the same shape.
        lr: Of the gradient step.
        steps: Of the iteration; with 0 the gradient is the direct one.
    """
    delta = perturbation.detach().requires_grad_()
    # Fused attention has no second derivative.
    with sdpa_kernel([SDPBackend.MATH]):
        loss = outer(delta)
        direct, *gradients = _gradients(loss, [delta, *weights])
        if steps == 0:
            return loss.detach(), gradients
        (slope,) = torch.autograd.grad(inner(delta), delta, create_graph=True)
        moved = delta - lr * slope
        v = direct  # what the first iteration gives
        for _ in range(steps - 1):
            (product,) = torch.autograd.grad(moved, delta, v, retain_graph=True)
            v = product + direct
        implicit = _gradients(moved, weights, v)
    return loss.detach(), [a + b for a, b in zip(gradients, implicit, strict=True)]


def _gradients(
    of: Tensor, by: Sequence[Tensor], vector: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Return gradients, 0 where there is no dependence."""
    return torch.autograd.grad(of, by, vector, allow_unused=True, materialize_grads=True)
