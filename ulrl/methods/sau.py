"""SAU: unlearn adversarial images that mislead victim and network alike (Wei et al., 2023)."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from math import log

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from ulrl.attacks import Step
from ulrl.fitting import Epoch, Sources, raise_if_diverged
from ulrl.methods._base import RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.methods._loop import Passes, train_by
from ulrl.models import Classifier, restore

DIVERGENCE, ATTACK = 1.0, 0.01  # weights of the two parts of what a perturbation minimises


@register("sau")
@dataclass(frozen=True, kw_only=True)
class SAU(RepairMethod):
    """Shared adversarial unlearning (Wei et al., NeurIPS 2023); defaults are the authors' code's.

    For each image, a perturbation is sought that moves the victim and the network under repair to
    the same wrong class. The network then learns to leave that class. Both are in eval mode
    throughout, images are seen as they are, and perturbed ones are not clipped to valid pixels.

    Attributes:
        bound: Largest change of a pixel, in [0, 1] pixel units; also the size of a step.
        rounds: Passes over the samples, from 0 to 1000; by default 100 (Tiny-ImageNet 20).
        inner_steps: Sign steps of a perturbation, from 1 to 100.
        lr: Learning rate of Adam (AMSGrad), above 0.
        batch_size: Samples per step.
        shared_weight: Weight of the shared adversarial risk, at least 0.
        adversarial_weight: Weight of the cross-entropy of perturbed images, at least 0.
    """

    bound: float = 0.2
    rounds: int | None = None
    inner_steps: int = 5
    lr: float = 1e-4
    batch_size: int = 256
    shared_weight: float = 1.0
    adversarial_weight: float = 0.0

    def __post_init__(self) -> None:
        rules = (
            ("bound", 0 < self.bound <= 1, "in [0, 1] pixel units, above 0"),
            ("rounds", self.rounds is None or 0 <= self.rounds <= 1000, "from 0 to 1000"),
            ("inner_steps", 1 <= self.inner_steps <= 100, "from 1 to 100"),
            ("lr", 0 < self.lr <= 100, "above 0 and at most 100"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("shared_weight", 0 <= self.shared_weight <= 1000, "in [0, 1000]"),
            ("adversarial_weight", 0 <= self.adversarial_weight <= 1000, "in [0, 1000]"),
        )
        for name, holds, rule in rules:
            if not holds:
                raise ValueError(f"{name} is {rule}; got {getattr(self, name)}")

    def resolved(self, dataset: str) -> "SAU":
        """Return it with the number of rounds for a dataset."""
        if self.rounds is not None:
            return self
        return replace(self, rounds=20 if dataset == "tiny_imagenet" else 100)

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The unlearning alone."""
        if self.rounds is None:
            raise ValueError(
                "rounds depends on the dataset: ask the method as `resolved` returns it"
            )
        return (SharedUnlearning(config=self, rounds=self.rounds),)


@dataclass(frozen=True, kw_only=True)
class SharedUnlearning(RepairStage):
    """Perturb each batch, and unlearn what the perturbations found.

    Attributes:
        config: Bound, rates and weights.
        rounds: Passes over the samples.
    """

    config: SAU
    rounds: int

    name = "shared_adversarial"

    def cost(self, samples: int) -> float:
        """Return two passes for a sign step, two for the weights, and two forward alone."""
        return self.rounds * samples * (2.0 * self.config.inner_steps + 2.0 + 2 / 3)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network.

        Raises:
            DivergedError: Training left the finite numbers.
        """
        del before
        classifier = restore(context.victim, context.device)
        if self.rounds == 0:
            context.observe(classifier)
            yield Step(1, 1)
            return classifier.weights().state

        def look(epoch: Epoch) -> None:
            context.observe(classifier)
            if epoch.number == self.rounds:
                classifier.predict(context.clean.samples.images)

        epochs = self._train(classifier, context)
        for epoch in raise_if_diverged(epochs, "sau", "a smaller lr", look):
            yield Step(epoch.number, self.rounds)
        return classifier.weights().state

    def _train(self, classifier: Classifier, context: RepairContext) -> Iterator[Epoch]:
        config = self.config
        victim = restore(context.victim, context.device)
        victim.network.eval().requires_grad_(requires_grad=False)
        optimiser = Adam(classifier.network.parameters(), lr=config.lr, amsgrad=True)

        def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
            del rate  # it does not change
            delta = shared_perturbations(
                (classifier.logits, victim.logits),
                images,
                labels,
                bound=config.bound,
                steps=config.inner_steps,
            )
            moved = images + 255 * delta
            with torch.no_grad():
                clean, misled = victim.logits(images).argmax(1), victim.logits(moved).argmax(1)
            logits = classifier.logits(torch.cat([images.float(), moved]))
            seen, perturbed = logits[: len(images)], logits[len(images) :]
            loss = cross_entropy(seen, labels)
            if config.adversarial_weight:
                loss = loss + config.adversarial_weight * cross_entropy(perturbed, labels)
            wrong = (misled != labels) & (misled != clean)
            loss = loss + config.shared_weight * shared_risk(perturbed, misled, wrong)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            return loss, seen

        passes = Passes(
            epochs=self.rounds,
            batch_size=config.batch_size,
            rate=lambda _: config.lr,
            augment=False,
            train_mode=False,
        )
        sources = Sources.of(context.clean.seed, "sau")
        return train_by(classifier, context.clean.samples, take, passes, sources)


Logits = Callable[[Tensor], Tensor]


def shared_perturbations(
    networks: tuple[Logits, Logits],
    images: UInt8[Tensor, "n c h w"],
    labels: Int64[Tensor, " n"],
    *,
    bound: float,
    steps: int,
) -> Float[Tensor, "n c h w"]:
    """Return a change of each image that misleads two networks, if it can, to one class.

    From +bound everywhere, by sign steps as large as the bound. An image whose attack is shared,
    that is, which both networks take for the same wrong class, is left as it is.

    Args:
        networks: Maps from images in grey levels to class scores.
        images: In grey levels.
        labels: True classes.
        bound: Largest change of a pixel, in [0, 1] pixel units.
        steps: How many.
    """
    delta = torch.full(images.shape, bound, device=images.device)
    left = torch.arange(len(images), device=images.device)  # those whose attack is not shared
    for _ in range(steps):
        part = delta[left].requires_grad_()
        scores = [logits(images[left] + 255 * part) for logits in networks]
        fooled = [score.argmax(dim=1) != labels[left] for score in scores]
        same = scores[0].argmax(dim=1) == scores[1].argmax(dim=1)
        open_ = ~(fooled[0] & fooled[1] & same)
        if not bool(open_.any()):
            break
        risk = torch.zeros((), device=images.device)
        for score, done in zip(scores, fooled, strict=True):
            risk = risk - 0.5 * cross_entropy(score[~done], labels[left][~done], reduction="sum")
        apart = divergences(scores[0], scores[1])[open_].sum()
        objective = ATTACK * risk / len(images) + DIVERGENCE * apart
        (gradient,) = torch.autograd.grad(objective, part)
        moved = (part.detach() - bound * gradient.sign()).clamp(-bound, bound)
        delta[left[open_]] = moved[open_]
        left = left[open_]
    return delta


def divergences(
    first: Float[Tensor, "n classes"], second: Float[Tensor, "n classes"]
) -> Float[Tensor, " n"]:
    """Return the Jensen-Shannon divergence, in nats, of the classes that two scores give."""
    p, q = first.log_softmax(dim=1), second.log_softmax(dim=1)
    middle = torch.logaddexp(p, q) - log(2)
    return 0.5 * (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=1)


def shared_risk(
    scores: Float[Tensor, "n classes"], misled: Int64[Tensor, " n"], wrong: Tensor
) -> Tensor:
    """Return how sure the network is of the classes to which the victim was misled.

    The authors' code takes half of it twice, in two forms of one formula.

    Args:
        scores: Of the network under repair, for perturbed images.
        misled: The victim's predictions for them.
        wrong: Which of them count: those that are neither true nor the victim's for the clean
            image.
    """
    chosen = scores[wrong].softmax(dim=1).gather(1, misled[wrong, None])
    return -torch.log(1e-6 + (1 - chosen).clamp(max=0.999)).sum() / len(scores)
