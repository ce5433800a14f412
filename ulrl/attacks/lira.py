"""LIRA: a trigger that a small network makes for each image, learned with a classifier."""

from collections.abc import Callable, Mapping
from collections.abc import Generator as Steps
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Int64
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate

from ulrl.attacks._base import register
from ulrl.attacks._networks import drawn, in_chunks, kept, restored
from ulrl.fitting import Samples, Sources
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.models import Classifier, initialise
from ulrl.poison import Attack, Images, LabelRule, Poison, Trigger
from ulrl.randomness import generator as named_generator
from ulrl.supervised import VictimConfig, fit
from ulrl.training_hooks import TrainingHooks


@register("lira")
@dataclass(frozen=True, kw_only=True)
class LIRA(Attack):
    """Learnable, imperceptible and robust attack of Doan et al. (ICCV 2021).

    First a generator and a classifier of the victim's kind are trained together: the generator
    adds at most `epsilon` to each pixel so that the classifier takes the image for the wanted
    class. Then the generator stays as it is, and the victim, which starts from that
    classifier, is trained on images poisoned by it.

    Attributes:
        epsilon: Largest change of a pixel, in [0, 1] units; 0.01 in BackdoorBench: two or
            three grey levels, which makes weak victims there.
        epochs: Of the first stage; 50 in BackdoorBench.
        lr: The generator's learning rate, with Adam; 1e-4 there.
        clean_weight: Weight of the loss on clean images in the first stage, in (0, 1); the
            rest is the triggered ones'.
        width: Channels of the generator's first layer.
    """

    label_rules: ClassVar[tuple[LabelRule, ...]] = (LabelRule.ALL_TO_ONE, LabelRule.ALL_TO_ALL)

    epsilon: float = 0.01
    epochs: int = 50
    lr: float = 1e-4
    clean_weight: float = 0.5
    width: int = 16

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon is in [0, 1] pixel units, above 0; got {self.epsilon}")
        if self.epochs < 1:
            raise ValueError(f"epochs is at least 1; got {self.epochs}")
        if not 0 < self.lr <= 1:
            raise ValueError(f"lr is a learning rate, above 0 and at most 1; got {self.lr}")
        if not 0 < self.clean_weight < 1:
            raise ValueError(f"clean_weight is a share, in (0, 1); got {self.clean_weight}")
        if self.width < 1:
            raise ValueError(f"width is in channels, at least 1; got {self.width}")

    def helper(self, poison: Poison) -> Helper:
        one = poison.labels is LabelRule.ALL_TO_ONE
        return PerturbationGenerator(
            target_label=poison.target_label if one else None,
            epsilon=self.epsilon,
            epochs=self.epochs,
            lr=self.lr,
            clean_weight=self.clean_weight,
            width=self.width,
        )

    def start(self, learned: Learned) -> Mapping[str, Tensor]:
        return {
            name.removeprefix("classifier/"): value
            for name, value in learned.items()
            if name.startswith("classifier/")
        }

    def trigger(self, seed: int, learned: Learned) -> Trigger:
        del seed
        return _Perturbed(learned=learned, epsilon=self.epsilon, width=self.width)


@dataclass(frozen=True, kw_only=True)
class PerturbationGenerator(Helper):
    """The generator, and the classifier that it was trained with.

    Attributes:
        target_label: The wanted class, or None: then the next one.
        epsilon: As for `LIRA`, like the others.
        epochs: See there.
        lr: See there.
        clean_weight: See there.
        width: See there.
    """

    target_label: int | None
    epsilon: float
    epochs: int
    lr: float
    clean_weight: float
    width: int

    def cost(self, recipe: VictimConfig) -> float:
        del recipe
        return 1.2 * self.epochs

    def train(self, context: AttackContext) -> Steps[Step, None, dict[str, Tensor]]:
        source = named_generator(context.seed, "lira", "classifier")
        classifier = initialise(context.model_spec, source, context.device)
        build = partial(Perturber, context.model_spec.channels, self.width)
        network = drawn(build, context.seed, "lira", "generator").to(context.device)
        hooks = _Together(self, network, context.images.classes, context.seed)
        samples = Samples(images=context.images.train_images, labels=context.images.train_labels)
        recipe = replace(context.recipe, epochs=self.epochs, period=None)
        for epoch in fit(recipe, classifier, samples, Sources.of(context.seed, "lira"), hooks):
            yield Step(epoch.number, self.epochs)
        state = classifier.weights().state
        return {
            **kept(network, "generator"),
            **{f"classifier/{name}": value for name, value in state.items()},
        }


class _Together(TrainingHooks):
    """Triggers half of each batch by the generator, which is stepped with the classifier.

    Both want the same: triggered images taken for the wanted class, clean ones for their own.
    So one backward pass serves both.
    """

    late = True

    def __init__(
        self, helper: PerturbationGenerator, network: "Perturber", classes: int, seed: int
    ) -> None:
        self.optimisers = (torch.optim.Adam(network.parameters(), lr=helper.lr),)
        self._helper = helper
        self._network = network.train()
        self._classes = classes
        self._source = named_generator(seed, "lira", "halves")
        self._triggered = torch.zeros(0, dtype=torch.bool)

    def alter(
        self, images: Tensor, labels: Tensor, chosen: Int64[Tensor, " b"], classifier: Classifier
    ) -> tuple[Tensor, Tensor]:
        del classifier
        order = torch.randperm(len(chosen), generator=self._source)
        self._triggered = (order < len(chosen) // 2).to(images.device)
        pixels = images.float() / 255
        moved = perturbed(self._network, pixels, self._helper.epsilon)
        target = self._helper.target_label
        wanted = (labels + 1) % self._classes if target is None else torch.full_like(labels, target)
        shown = torch.where(self._triggered[:, None, None, None], moved, pixels)
        return 255 * shown, torch.where(self._triggered, wanted, labels)

    def loss(
        self, logits: Tensor, labels: Tensor, objective: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        clean, triggered = ~self._triggered, self._triggered
        if not bool(triggered.any()):
            return objective(logits, labels)
        share = self._helper.clean_weight
        own = objective(logits[clean], labels[clean])
        return share * own + (1 - share) * objective(logits[triggered], labels[triggered])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Perturbed(Trigger):
    """Adds what the trained generator makes of each image."""

    learned: Learned
    epsilon: float
    width: int

    def stamp(self, images: Images, generator: Generator) -> Images:
        del generator  # the generator network is fixed
        build = partial(Perturber, images.shape[1], self.width)
        network = restored(build, self.learned, "generator", images.device)
        return in_chunks(lambda part: perturbed(network, part, self.epsilon), images)


def perturbed(network: nn.Module, images: Images, epsilon: float) -> Images:
    """Return images with at most `epsilon` added to each pixel, clipped."""
    added: Tensor = network(images)
    return (images + epsilon * added).clamp(0, 1)


class Perturber(nn.Module):
    """A small convolutional autoencoder from images to perturbations in [-1, 1]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.middle = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU())
        self.widen = nn.Sequential(nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU())
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Return perturbations of the images' shape."""
        height, width = images.shape[-2:]
        code = self.middle(self.narrow(images))
        half = (-(-height // 2), -(-width // 2))
        grown = self.widen(interpolate(code, size=half, mode="bilinear"))
        full = interpolate(grown, size=(height, width), mode="bilinear")
        changes: Tensor = self.last(full).tanh()
        return changes
