"""Triggers found by asking a network for probabilities alone."""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Adam

from ulrl.attacks import Step
from ulrl.methods import RepairContext, RepairStage, Tensors
from ulrl.methods.nc import DOWN, PATIENCE, PERIOD, UP
from ulrl.models import Classifier, restore
from ulrl.randomness import generator

CLASSES = 10  # taken for costs, which are asked for without the number of classes
IMAGES = 1000  # asked about in one pass
START = -1.14  # of the mask, a tenth of which is set
LEAST = 1e-12  # probability, so that its logarithm is finite


class Oracle:
    """A network that answers with probabilities, and counts what it is asked.

    Attributes:
        queries: Images so far.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.queries = 0
        self._classifier = classifier
        classifier.network.eval()

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return the probabilities of images in grey levels from 0 to 255."""
        self.queries += len(images)
        parts = [
            self._classifier.logits(part).float().softmax(dim=1)
            for part in torch.split(images, IMAGES)
        ]
        return torch.cat(parts)


@dataclass(frozen=True, kw_only=True)
class Estimator:
    """Gradients by natural evolution strategies, from losses of random draws.

    Attributes:
        draws: For one gradient, at least 2.
        sigma: Standard deviation of normal draws, above 0.
    """

    draws: int
    sigma: float

    def of_mask(
        self,
        losses: Float[Tensor, "classes draws"],
        masks: Float[Tensor, "classes draws 1 h w"],
        chance: Float[Tensor, "classes 1 h w"],
    ) -> Float[Tensor, "classes 1 h w"]:
        """Return the gradient of the mean loss in z, where ``(tanh z + 1) / 2`` is the chance.

        Args:
            losses: Of each draw.
            masks: Bernoulli draws of 0 and 1.
            chance: Of a 1.
        """
        return self._mean(losses, 2 * (masks - chance[:, None]))

    def of_normal(
        self, losses: Float[Tensor, "classes draws"], noise: Float[Tensor, "... draws c h w"]
    ) -> Float[Tensor, "classes c h w"]:
        """Return the gradient of the mean loss in the mean of normal draws.

        Args:
            losses: Of each draw.
            noise: Standard normal draws, before they were multiplied by `sigma`.
        """
        return self._mean(losses, noise) / self.sigma

    def _mean(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Return the mean of losses times weights; of each loss, that of the others is taken off.

        Taking it off leaves the expectation as it is and the variance much smaller.
        """
        freed = (losses - losses.mean(dim=1, keepdim=True)) / (self.draws - 1)
        return (freed[:, :, None, None, None] * weights).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class SynthesiseImages(RepairStage):
    """Drive images of noise to each class, by queries.

    Attributes:
        per_class: Images of each class.
        steps: Of Adam, all of which are taken.
        estimator: Of the gradients.
        lr: Learning rate of Adam.
        seed: Of the noise and of the draws.
    """

    per_class: int
    steps: int
    estimator: Estimator
    lr: float
    seed: int

    name = "synthetic_images"

    def cost(self, samples: int) -> float:
        """Return the queries for ten classes, as passes."""
        del samples
        return CLASSES * self.per_class * self.steps * self.estimator.draws / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the images.

        Returns:
            ``images`` ``[classes × per_class, c, h, w]``, uint8; ``labels``; and ``queries``.
        """
        del before
        spec = context.victim.model_spec
        oracle = Oracle(restore(context.victim, context.device))
        labels = torch.arange(spec.classes).repeat_interleave(self.per_class)
        labels = labels.to(context.device)
        shape = (len(labels), spec.channels, spec.side, spec.side)
        start = torch.rand(shape, generator=generator(self.seed, self.name, "start"))
        free = torch.atanh((2 * start - 1).clamp(-0.999, 0.999)).to(context.device)
        source = generator(self.seed, self.name, "draws")
        optimiser = Adam([free], lr=self.lr)
        for step in range(1, self.steps + 1):
            noise = torch.randn((self.estimator.draws, *shape[1:]), generator=source)
            noise = noise.to(context.device)
            losses = []
            for image, label in zip(free, labels, strict=True):
                tried = 255 * _unit(image + self.estimator.sigma * noise)
                losses.append(-oracle(tried)[:, label].clamp(min=LEAST).log())
            free.grad = self.estimator.of_normal(torch.stack(losses), noise)
            optimiser.step()
            yield Step(step, self.steps)
        images = (255 * _unit(free)).round().to(torch.uint8)
        queries = torch.tensor(oracle.queries)
        return {"images": images.cpu(), "labels": labels.cpu(), "queries": queries}


@dataclass(frozen=True, kw_only=True)
class QueryTriggers(RepairStage):
    """Seek the smallest trigger of each class by queries.

    Mask and pattern are what Neural Cleanse seeks, and the mask's weight changes by its rule: every
    ten steps the success of the triggers tried in them is judged; five times in a row enough double
    the weight, five times too little divide it by 2^1.5; the smallest mask after any ten steps with
    enough success is the class's. All classes see the same images and the same draws.

    Attributes:
        steps: Of Adam, all of which are taken.
        batch_size: Images per draw.
        estimator: Of the gradients.
        lr: Learning rate of Adam.
        mask_weight: Of the mask's L1 norm at the start.
        success: Share of images that a trigger has to send to its class, in [0, 1].
        seed: Of the draws, where the images are those that the stage before made; None where they
            are clean samples, which bring their own.
    """

    steps: int
    batch_size: int
    estimator: Estimator
    lr: float
    mask_weight: float
    success: float
    seed: int | None

    name = "queried_triggers"

    def cost(self, samples: int) -> float:
        """Return the queries for ten classes, as passes."""
        batch = self.batch_size if self.seed is not None else min(samples, self.batch_size)
        return CLASSES * self.steps * 2 * self.estimator.draws * batch / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the triggers.

        Returns:
            ``masks`` ``[classes, 1, h, w]`` and ``patterns`` ``[classes, c, h, w]`` in [0, 1],
            ``norms`` in pixels and ``reached`` per class, as Neural Cleanse's search does; where
            none was reached, mask and pattern are the last and the norm is the whole image's.
            ``queries`` of this stage and the one before.
        """
        oracle = Oracle(restore(context.victim, context.device))
        images, seed = context.clean.samples.images, context.clean.seed
        asked = 0
        if self.seed is not None:
            images, seed, asked = before["images"], self.seed, int(before["queries"])
        spec = context.victim.model_spec
        search = _Search(self, oracle, spec.classes, images[0].shape, context.device)
        batches = _batches(images.to(context.device), self.batch_size, seed, self.name)
        source = generator(seed, self.name, "draws")
        for step in range(1, self.steps + 1):
            search.take(next(batches), source)
            if step % PERIOD == 0 or step == self.steps:
                search.look()
                yield Step(step, self.steps)
        return {**search.found(), "queries": torch.tensor(asked + oracle.queries)}


def _batches(images: Tensor, size: int, seed: int, name: str) -> Iterator[Tensor]:
    """Yield batches of one size without end, in a new order after each pass."""
    source = generator(seed, name, "order")
    size = min(size, len(images))
    while True:
        order = torch.randperm(len(images), generator=source)
        for number in range(len(images) // size):
            yield images[order[number * size : (number + 1) * size].to(images.device)].float()


class _Search:
    """Triggers of all classes, as they are learned."""

    def __init__(
        self,
        config: QueryTriggers,
        oracle: Oracle,
        classes: int,
        shape: torch.Size,
        device: torch.device,
    ) -> None:
        self._config, self._oracle = config, oracle
        self._mask = torch.full((classes, 1, *shape[1:]), START, device=device)
        self._pattern = torch.zeros((classes, *shape), device=device)
        self._optimiser = Adam([self._mask, self._pattern], lr=config.lr)
        self._weight = torch.full((classes,), config.mask_weight, device=device)
        none = torch.zeros(classes, dtype=torch.int64, device=device)
        self._successes, self._failures = none, none
        self._hits, self._tried = torch.zeros(classes, device=device), 0
        self._best = torch.full((classes,), torch.inf, device=device)
        self._best_mask, self._best_pattern = _unit(self._mask), _unit(self._pattern)

    def take(self, images: Float[Tensor, "n c h w"], source: torch.Generator) -> None:
        """Take a step on all triggers."""
        estimator = self._config.estimator
        chance, pattern = _unit(self._mask), _unit(self._pattern)
        shape = self._pattern.shape[1:]
        uniform = torch.rand((estimator.draws, 1, *shape[1:]), generator=source)
        noise = torch.randn((estimator.draws, *shape), generator=source).to(images.device)
        masks = (uniform.to(images.device) < chance[:, None]).float()
        losses, _ = self._losses(
            images, masks, pattern[:, None].expand(-1, estimator.draws, *shape)
        )
        self._mask.grad = estimator.of_mask(losses, masks, chance)
        patterns = _unit(self._pattern[:, None] + estimator.sigma * noise)
        losses, hits = self._losses(images, chance[:, None].expand_as(masks), patterns)
        self._pattern.grad = estimator.of_normal(losses, noise)
        self._hits += hits
        self._tried += estimator.draws * len(images)
        self._optimiser.step()

    def _losses(
        self,
        images: Float[Tensor, "n c h w"],
        masks: Float[Tensor, "classes draws 1 h w"],
        patterns: Float[Tensor, "classes draws c h w"],
    ) -> tuple[Float[Tensor, "classes draws"], Float[Tensor, " classes"]]:
        """Return the loss of each draw, and how many images all of a class's turn to it."""
        losses, hits = [], []
        for label in range(len(masks)):  # one class at a time, as many images as fit in memory
            mask, pattern = masks[label][:, None], patterns[label][:, None]
            stamped = (1 - mask) * images + mask * (255 * pattern)
            answers = self._oracle(stamped.flatten(0, 1))
            entropy = -answers[:, label].clamp(min=LEAST).log()
            norms = mask.flatten(1).sum(dim=1)
            losses.append(entropy.reshape(len(mask), -1).mean(dim=1) + self._weight[label] * norms)
            hits.append((answers.argmax(dim=1) == label).sum())
        return torch.stack(losses), torch.stack(hits)

    def look(self) -> None:
        """Judge the triggers since the last look."""
        masks = _unit(self._mask)
        norms = masks.flatten(1).sum(dim=1)
        enough = self._hits >= self._config.success * self._tried - 1e-3
        better = enough & (norms < self._best)
        where = better[:, None, None, None]
        self._best = torch.where(better, norms, self._best)
        never = self._best.isinf()[:, None, None, None]  # what is shown then is the last
        self._best_mask = torch.where(where | never, masks, self._best_mask)
        patterns = _unit(self._pattern)
        self._best_pattern = torch.where(where | never, patterns, self._best_pattern)
        self._successes = torch.where(enough, self._successes + 1, 0)
        self._failures = torch.where(enough, 0, self._failures + 1)
        up, down = self._successes == PATIENCE, self._failures == PATIENCE
        self._weight = torch.where(up, self._weight * UP, self._weight)
        self._weight = torch.where(down, self._weight / DOWN, self._weight)
        self._successes = torch.where(up, 0, self._successes)
        self._failures = torch.where(down, 0, self._failures)
        self._hits, self._tried = torch.zeros_like(self._hits), 0

    def found(self) -> dict[str, Tensor]:
        """Return the best triggers so far, on the CPU."""
        reached = self._best.isfinite()
        whole = float(self._mask[0].numel())
        return {
            "masks": self._best_mask.cpu(),
            "patterns": self._best_pattern.cpu(),
            "norms": torch.where(reached, self._best, whole).cpu(),
            "reached": reached.cpu(),
        }


def _unit(free: Tensor) -> Tensor:
    """Return numbers in [0, 1] for numbers without bounds."""
    return free.tanh() / 2 + 0.5
