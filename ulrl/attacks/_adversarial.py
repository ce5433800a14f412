"""Adversarial training, and adversarial images of one class."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from ulrl.attacks._benign import benign_classifier
from ulrl.fitting import Samples, Sources
from ulrl.helper import AttackContext, Helper, Step
from ulrl.models import Classifier, initialise
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, fit
from ulrl.training_hooks import TrainingHooks

CHUNK = 250  # images at once


def pgd(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float,
    step_size: float,
    steps: int,
) -> Tensor:
    """Return images pushed away from their labels by projected gradient steps, no random start.

    Madry et al. (arXiv:1706.06083), in the L∞ ball. The classifier is asked in eval mode, so
    its statistics stay; its mode is put back.

    Args:
        classifier: Asked for its loss; its parameters' gradients are left alone.
        images: In [0, 1].
        labels: Their classes.
        epsilon: Radius of the ball, in [0, 1] pixel units.
        step_size: Of a step, likewise.
        steps: How many.
    """
    training = classifier.network.training
    classifier.network.eval()
    moved = images.clone()
    for _ in range(steps):
        seen = moved.clone().requires_grad_()
        loss = cross_entropy(classifier.logits(255 * seen).float(), labels)
        (gradient,) = torch.autograd.grad(loss, seen)
        moved = moved + step_size * gradient.sign()
        moved = torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon)
        moved = moved.clamp(0, 1)
    classifier.network.train(training)
    return moved


@dataclass(frozen=True, kw_only=True)
class AdversarialModel(Helper):
    """A network of the victim's kind, trained on adversarial views of the clean training set.

    Attributes:
        epsilon: Radius of the L∞ ball, in [0, 1] pixel units.
        steps: Of PGD, each of 2.5 × epsilon / steps.
    """

    epsilon: float
    steps: int

    def cost(self, recipe: VictimConfig) -> float:
        return recipe.epochs * (1.0 + self.steps)

    def train(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        source = generator(context.seed, "adversarial", "weights")
        classifier = initialise(context.model_spec, source, context.device)
        samples = Samples(images=context.images.train_images, labels=context.images.train_labels)
        sources = Sources.of(context.seed, "adversarial")
        hooks = _AdversarialViews(self.epsilon, self.steps)
        for epoch in fit(context.recipe, classifier, samples, sources, hooks):
            yield Step(epoch.number, context.recipe.epochs)
        state = classifier.weights().state
        return {f"model/{name}": value for name, value in state.items()}


class _AdversarialViews(TrainingHooks):
    """Replaces each batch by adversarial images of the classifier as it is then."""

    late = True

    def __init__(self, epsilon: float, steps: int) -> None:
        self._epsilon, self._steps = epsilon, steps

    def alter(
        self, images: Tensor, labels: Tensor, chosen: Int64[Tensor, " b"], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        del chosen
        moved = pgd(
            classifier,
            images.float() / 255,
            labels,
            epsilon=self._epsilon,
            step_size=2.5 * self._epsilon / self._steps,
            steps=self._steps,
        )
        return 255 * moved, labels


@dataclass(frozen=True, kw_only=True)
class AdversarialImages(Helper):
    """The training images of one class, pushed away from it.

    Attributes:
        target_label: The class.
        epsilon: Radius of the L∞ ball, in [0, 1] pixel units.
        step_size: Of a step of PGD, likewise.
        steps: How many.
        model: What they are adversarial to.
    """

    target_label: int
    epsilon: float
    step_size: float
    steps: int
    model: AdversarialModel

    @property
    def needs(self) -> Helper:
        return self.model

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return self.steps / 10  # passes over one class of some ten

    def train(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        """Craft them.

        Returns:
            ``images``, uint8, and ``index``, their places in the training set, ascending.
        """
        classifier = benign_classifier(context)
        index = (context.images.train_labels == self.target_label).nonzero().flatten()
        crafted = []
        for part in torch.split(index, CHUNK):
            images = context.images.train_images[part].to(context.device).float() / 255
            labels = torch.full((len(part),), self.target_label, device=context.device)
            moved = pgd(
                classifier,
                images,
                labels,
                epsilon=self.epsilon,
                step_size=self.step_size,
                steps=self.steps,
            )
            crafted.append((255 * moved).round().to(torch.uint8).cpu())
            yield Step(sum(map(len, crafted)), len(index))
        return {"images": torch.cat(crafted), "index": index}
