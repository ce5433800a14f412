"""The ascent of phase 1 as a stage of other methods: the whole network at its stop."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ulrl.attacks import Step
from ulrl.errors import DivergedError
from ulrl.methods._base import RepairContext, RepairStage, Tensors
from ulrl.models import Classifier, Weights
from ulrl.precision import Precision
from ulrl.unlearning import StopAccuracy, UnlearnConfig, unlearn

USUAL_EPOCHS = 40


class Ascents(StrEnum):
    """Whose ascent it is, as far as no option says."""

    ULRL = "ulrl"  # clipped at 20; the rate falls to a tenth after 10 and 20 epochs
    RNP = "rnp"  # likewise without clipping, in float32
    TSBD = "tsbd"  # constant rate, no clipping nor weight decay; accuracy of images as they are


_FIXED: Mapping[Ascents, Mapping[str, Any]] = {
    Ascents.ULRL: {},
    Ascents.RNP: {
        "unlearn_clip_norm": None,  # the official code calls it where it has no effect
        "unlearn_precision": Precision.FP32,
    },
    Ascents.TSBD: {
        "unlearn_weight_decay": 0.0,
        "unlearn_clip_norm": None,
        "unlearn_milestones": (),
        "stop_accuracy": StopAccuracy.EVAL,
    },
}


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


def unlearned(method: Any) -> Unlearn:
    """Return the ascent of a method.

    Args:
        method: With the options ``ascent``, ``unlearn_threshold``, ``unlearn_lr``,
            ``unlearn_epochs`` and ``batch_size``.

    Raises:
        ValueError: One of them is out of range.
    """
    if not 0 <= method.unlearn_threshold <= 1:
        raise ValueError(
            f"unlearn_threshold is an accuracy, in [0, 1]; got {method.unlearn_threshold}"
        )
    config = UnlearnConfig(
        unlearn_lr=method.unlearn_lr,
        unlearn_epochs=method.unlearn_epochs,
        unlearn_batch_size=method.batch_size,
        **_FIXED[method.ascent],
    )
    return Unlearn(config=config, threshold=method.unlearn_threshold)
