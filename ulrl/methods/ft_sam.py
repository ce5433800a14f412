"""FT-SAM: fine-tuning by sharpness-aware minimisation (Zhu et al., ICCV 2023)."""

from dataclasses import dataclass

from ulrl.methods._base import register
from ulrl.methods._sam import SAMTuner, Schedule
from ulrl.methods._tuning import TuningMethod, register_tuner


@register("ft_sam")
@register_tuner("ft_sam")
@dataclass(frozen=True, kw_only=True)
class FTSAM(TuningMethod):
    """Fine-tune all parameters by adaptive SAM with smoothed labels.

    Defaults are those of the authors' code in BackdoorBench, whose options override its files'
    values for single datasets. Three things differ. The rate falls once instead of every 100
    steps: ``schedule: per_batch`` does as published, where 500 samples end at the full rate. The
    clean samples are the study's: the authors draw equally many of each class
    (``clean_draw: per_class``). BatchNorm does not count the second pass' batches.

    Attributes:
        rho: Distance at which the gradient is taken, in [0, 1000].
        adaptive: Whether relative to each weight, or plain SAM.
        label_smoothing: Share of the target that the other classes have, in [0, 0.5].
        lr: Learning rate at the start, above 0; it goes down to 0 by half a cosine.
        schedule: ``per_epoch``, or ``per_batch`` as published.
        epochs: Passes over the samples, from 1 to 1000.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        batch_size: Samples per step.
    """

    rho: float = 2.0
    adaptive: bool = True
    label_smoothing: float = 0.1
    lr: float = 0.01
    schedule: Schedule = Schedule.PER_EPOCH
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.tuner  # noqa: B018 - for its rules

    @property
    def tuner(self) -> SAMTuner:
        """The training, with these options."""
        return SAMTuner(
            rho=self.rho,
            adaptive=self.adaptive,
            label_smoothing=self.label_smoothing,
            lr=self.lr,
            schedule=self.schedule,
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )
