"""Stage 1 of 5: train the backdoored model on poisoned data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ulrl.datasets import ImageSet
from ulrl.fitting import Epoch, Samples, Sources
from ulrl.helper import NOTHING_LEARNED, AttackContext, Learned
from ulrl.models import Classifier, ModelSpec, initialise
from ulrl.poison import Poison, StampingHooks
from ulrl.poisoning import poison_training_set, prepared_images
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, fit
from ulrl.training_hooks import NO_HOOKS

VERSION = 3  # bump when the numbers change: old entries stay valid under their own key


@dataclass(frozen=True, kw_only=True)
class VictimRun:
    """A victim in training: drain `epochs`, then take the classifier, and `learned`.

    Attributes:
        hooks: What stamps as training goes on, or None where images were stamped before.
    """

    classifier: Classifier
    epochs: Iterator[Epoch]
    hooks: StampingHooks | None

    def learned(self) -> Learned:
        """Return what the trigger learned along with the victim, on the CPU."""
        return NOTHING_LEARNED if self.hooks is None else self.hooks.learned()


def train_victim(
    config: VictimConfig,
    model_spec: ModelSpec,
    poison: Poison,
    images: ImageSet,
    seed: int,
    device: torch.device,
    learned: Learned = NOTHING_LEARNED,
) -> VictimRun:
    """Start to train a victim; the work is done as `epochs` of the result is drawn.

    The same arguments give the same victim whatever ran before, up to the arithmetic of
    the device and its number of threads.

    Args:
        config: Length and pace of training.
        model_spec: What to train.
        poison: What the attacker does.
        images: Clean; the training images are poisoned as `poison` says.
        seed: The scenario's.
        device: Where to compute.
        learned: Result of the helper that `poison.attack` needs, if it does. Without an attack it
            is the benign model, and nothing is left to train.
    """
    classifier = initialise(model_spec, generator(seed, "victim", "weights"), device)
    state = poison.attack.start(learned)
    if state is not None:
        classifier.network.load_state_dict(dict(state))
    if poison.benign:
        return VictimRun(classifier=classifier, epochs=iter(()), hooks=None)
    context = AttackContext(
        model_spec=model_spec,
        recipe=config,
        images=images,
        seed=seed,
        device=device,
        learned=learned,
    )
    hooks = _hooks(poison, context)
    if hooks is None:
        poisoned = poison_training_set(poison, images, seed, learned)
        samples = Samples(images=poisoned.images, labels=poisoned.labels)
    elif poison.attack.redrawn:
        samples = Samples(images=images.train_images, labels=images.train_labels)
    else:
        shown = prepared_images(poison, images, hooks.roles, learned)
        samples = Samples(images=shown, labels=images.train_labels)
    sources = Sources.of(seed, "victim")
    epochs = fit(config, classifier, samples, sources, hooks or NO_HOOKS)
    return VictimRun(classifier=classifier, epochs=epochs, hooks=hooks)


def _hooks(poison: Poison, context: AttackContext) -> StampingHooks | None:
    """Return what stamps on the fly, where images are not all stamped beforehand."""
    attack = poison.attack
    hooks = attack.training_hooks(poison, context)
    if hooks is not None:
        return hooks
    if not poison.stamps_in_training:
        return None
    return StampingHooks(
        poison,
        attack.trigger(context.seed, context.learned),
        context.images.train_labels,
        classes=context.images.classes,
        seed=context.seed,
    )
