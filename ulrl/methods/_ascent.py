"""The ascent of phase 1 as a stage of other methods: the whole network at its stop."""

from collections.abc import Generator
from dataclasses import dataclass

from ulrl.attacks import Step
from ulrl.errors import DivergedError
from ulrl.methods._base import RepairContext, RepairStage, Tensors
from ulrl.models import Classifier, Weights
from ulrl.unlearning import UnlearnConfig, unlearn

USUAL_EPOCHS = 40


@dataclass(frozen=True, kw_only=True)
class Unlearn(RepairStage):
    """Climb the loss on the clean samples until their accuracy is low enough.

    Attributes:
        config: As of ULRL's phase 1; `layers` means nothing here.
        threshold: Accuracy at or below which it stops, in [0, 1]; else it ends with its epochs.
    """

    config: UnlearnConfig
    threshold: float

    name = "unlearned"

    def cost(self, samples: int) -> float:
        """Return a pass per epoch of a usual ascent: few take more than 40 to their threshold."""
        return float(min(self.config.unlearn_epochs, USUAL_EPOCHS) * samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return parameters and buffers of the network at the stop.

        Raises:
            DivergedError: The ascent left the finite numbers, so that there is no such network.
        """
        del before
        latest: Weights | None = None

        def observe(classifier: Classifier) -> None:
            nonlocal latest
            latest = classifier.weights()

        ascent = unlearn(
            self.config,
            context.victim,
            context.clean,
            self.threshold,
            context.device,
            observe=observe,
        )
        for epoch in ascent:
            if epoch.diverged or latest is None:
                raise DivergedError(
                    f"{self.name} diverged in epoch {len(epoch.loss)} before its accuracy was at "
                    f"most {self.threshold}; a higher threshold or a smaller unlearn_lr may help"
                )
            yield Step(len(epoch.loss), self.config.unlearn_epochs)
        if latest is None:
            raise RuntimeError("an ascent has at least one epoch")
        return latest.state
