"""Super-fine-tuning: a learning rate that swings up and down (Sha et al., arXiv:2212.09067)."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.nn.functional import cross_entropy

from ulrl.fitting import Epoch, SGDConfig, Sources, train
from ulrl.methods._base import RepairContext, register
from ulrl.methods._tuning import Tuner, TuningMethod, register_tuner
from ulrl.models import Classifier
from ulrl.precision import Precision


@register("super_fine_tuning")
@register_tuner("super_fine_tuning")
@dataclass(frozen=True, kw_only=True)
class SuperFineTuning(TuningMethod):
    """Fine-tune at rates that forget the trigger, then at rates that keep the accuracy.

    From the paper, as third parties report it (its text could not be read): two phases of equal
    length; in both the rate goes in straight lines from 3e-4 up to a peak and back, over and
    over, step by step; the peak is 0.1 in the first and 0.001 in the second. There it takes 6
    epochs over far more samples.

    Ours: 100 epochs and cycles of 10, since 6 epochs of 500 samples are 12 steps; that makes
    twenty steps a cycle, as a published re-implementation has. Momentum, weight decay and
    batches are those of plain fine-tuning here.

    Attributes:
        lr: Learning rate between peaks, above 0.
        peak: Largest learning rate of the first phase, at least `lr`.
        late_peak: Largest learning rate of the second phase, at least `lr`.
        epochs: Passes over the samples, from 1 to 1000.
        first_phase: Share of the epochs in the first phase, in [0, 1].
        cycle: Epochs from one peak to the next, from 1 to 1000.
        weight_decay: L2 penalty on all parameters, in [0, 1).
        batch_size: Samples per step.
    """

    lr: float = 3e-4
    peak: float = 0.1
    late_peak: float = 0.001
    epochs: int = 100
    first_phase: float = 0.5
    cycle: int = 10
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        self.tuner  # noqa: B018 - for its rules

    @property
    def tuner(self) -> "CyclicTuner":
        """The training, with these options."""
        return CyclicTuner(
            lr=self.lr,
            peak=self.peak,
            late_peak=self.late_peak,
            epochs=self.epochs,
            first_phase=self.first_phase,
            cycle=self.cycle,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True, kw_only=True)
class CyclicTuner(Tuner):
    """SGD on cross-entropy at a rate that swings; for its numbers see `SuperFineTuning`."""

    lr: float
    peak: float
    late_peak: float
    epochs: int
    first_phase: float
    cycle: int
    weight_decay: float
    batch_size: int

    def __post_init__(self) -> None:
        self._sgd.check("", self.lr)
        for name in ("peak", "late_peak"):
            value = getattr(self, name)
            if not self.lr <= value <= 100:
                raise ValueError(f"{name} is at least lr ({self.lr}) and at most 100; got {value}")
        if not 0 <= self.first_phase <= 1:
            raise ValueError(
                f"first_phase is a share of the epochs, in [0, 1]; got {self.first_phase}"
            )
        if not 1 <= self.cycle <= 1000:
            raise ValueError(f"cycle is in epochs, from 1 to 1000; got {self.cycle}")

    def rate(self, elapsed: float) -> float:
        """Return the learning rate after so many epochs, with a fraction."""
        turn = self.first_phase * self.epochs
        start, peak = (0.0, self.peak) if elapsed < turn else (turn, self.late_peak)
        place = (elapsed - start) / self.cycle % 1  # in the cycle; the peak is at its middle
        return self.lr + (peak - self.lr) * (1 - abs(2 * place - 1))

    @property
    def _sgd(self) -> SGDConfig:
        return SGDConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=self.rate,
            weight_decay=self.weight_decay,
            precision=Precision.AMP,
        )

    @property
    def epochs_in_all(self) -> int:
        """Its epochs."""
        return self.epochs

    def cost(self, samples: int) -> float:
        """Return a pass per epoch."""
        return float(self.epochs * samples)

    def train(self, classifier: Classifier, context: RepairContext) -> Iterator[Epoch]:
        """Train with the draws of plain fine-tuning."""
        sources = Sources.of(context.clean.seed, "relearn")
        return train(classifier, context.clean.samples, cross_entropy, self._sgd, sources)
