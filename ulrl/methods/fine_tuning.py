"""FT: plain fine-tuning of all parameters, the weakest repair to beat (BackdoorBench's)."""

from dataclasses import dataclass

from ulrl.methods._base import register
from ulrl.methods._tuning import SGDTuner, TuningMethod, register_tuner


@register("fine_tuning")
@register_tuner("fine_tuning")
@dataclass(frozen=True, kw_only=True)
class FineTuning(TuningMethod):
    """SGD on cross-entropy; defaults are those of BackdoorBench (Wu et al., NeurIPS 2022).

    It gives what ULRL's preset ``fine_tuning`` gives, without the ascent before it.

    Attributes:
        lr: Learning rate at the start, above 0; it goes down to 0 by half a cosine.
        epochs: Passes over the samples, from 1 to 1000.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        batch_size: Samples per step.
    """

    lr: float = 0.01
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.tuner  # noqa: B018 - for its rules

    @property
    def tuner(self) -> SGDTuner:
        """The training, with these options."""
        return SGDTuner(
            lr=self.lr,
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )
