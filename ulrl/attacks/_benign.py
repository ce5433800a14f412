"""A clean model of the victim's kind, that several attacks look into."""

from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor

from ulrl.fitting import Samples, Sources
from ulrl.helper import AttackContext, Helper, Learned, Step
from ulrl.models import Classifier, Weights, initialise, restore
from ulrl.randomness import generator
from ulrl.supervised import fit

_PREFIX = "model/"


@dataclass(frozen=True, kw_only=True)
class BenignModel(Helper):
    """A network of the victim's architecture and recipe, trained on the clean training set."""

    plain = True

    def train(self, context: AttackContext) -> Generator[Step, None, dict[str, Tensor]]:
        """Train it.

        Returns:
            Its state under ``model/``, and its ``accuracy`` on all test images: what reports
            hold victims against. No attack looks at that.
        """
        source = generator(context.seed, "benign", "weights")
        classifier = initialise(context.model_spec, source, context.device)
        images = context.images
        samples = Samples(images=images.train_images, labels=images.train_labels)
        for epoch in fit(context.recipe, classifier, samples, Sources.of(context.seed, "benign")):
            yield Step(epoch.number, context.recipe.epochs)
        right = classifier.predict(images.test_images) == images.test_labels
        state = classifier.weights().state
        tensors = {f"{_PREFIX}{name}": value for name, value in state.items()}
        return {**tensors, "accuracy": right.float().mean()}


def benign_state(learned: Learned) -> dict[str, Tensor]:
    """Return the trained model's parameters and buffers from a helper's result."""
    return {
        name.removeprefix(_PREFIX): value
        for name, value in learned.items()
        if name.startswith(_PREFIX)
    }


def benign_classifier(context: AttackContext) -> Classifier:
    """Return the trained model from what a helper was given, in eval mode, without gradients."""
    state = benign_state(context.learned)
    classifier = restore(Weights(model_spec=context.model_spec, state=state), context.device)
    classifier.network.eval().requires_grad_(False)  # noqa: FBT003 - torch takes no keyword
    return classifier
