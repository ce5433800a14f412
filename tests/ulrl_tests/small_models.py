"""A network of two convolutions, as a victim and as a benign model."""

from dataclasses import replace

from torch import Tensor, nn

from tests.ulrl_tests.exact import exactly, in_single
from tests.ulrl_tests.repairs import CPU
from tests.ulrl_tests.tiny_networks import Made
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.datasets import ImageSet
from ulrl.fitting import Samples, Sources
from ulrl.models import ModelSpec, Weights, initialise
from ulrl.poison import Poison
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, fit
from ulrl.victim import train_victim

# Of class 7: of class 1, a benign model's patches are the smallest, too.
RECIPE = VictimConfig(epochs=16, batch_size=32, lr=0.05)
TRIGGER = Poison(
    attack=BadNets(size=3), labels=LabelRule.ALL_TO_ONE, poison_ratio=0.25, target_label=7
)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.head = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.second(self.first(x).relu()).relu()
        logits: Tensor = self.head(features.flatten(1))
        return logits


def small_models(pictures: ImageSet, model_spec: ModelSpec) -> tuple[Weights, Weights]:
    """Return a victim of a patch of 3 × 3 and a benign model."""
    spec = replace(model_spec, architecture=Made(network=Small))
    samples = Samples(images=pictures.train_images, labels=pictures.train_labels)
    with exactly():
        run = train_victim(RECIPE, spec, TRIGGER, pictures, 0, CPU)
        for _ in run.epochs:
            pass
        classifier = initialise(spec, generator(0, "victim", "weights"), CPU)
        for _ in fit(RECIPE, classifier, samples, Sources.of(0, "victim")):
            pass
    return in_single(run.classifier.weights()), in_single(classifier.weights())
