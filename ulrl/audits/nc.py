"""NC: Neural Cleanse, whose trigger of the target class is outstandingly small."""

from dataclasses import dataclass

from torch import nn

from ulrl.audits._base import Audit, AuditResult, above, register
from ulrl.methods import RepairStage, Tensors
from ulrl.methods.nc import NeuralCleanse


@register("nc")
@dataclass(frozen=True, kw_only=True)
class NeuralCleanseAudit(Audit):
    """Find the smallest trigger of each class, and see whether one stands out.

    Wang et al., IEEE S&P 2019; the search is that of the repair method ``nc``, whose trials share
    it, and has the same defaults. The statistic is the anomaly index: by how many deviations (the
    median of the absolute ones times 1.4826) the smallest norm of a mask lies below the median of
    all classes. It is 0 where most norms are equal.

    A class that no trigger reached has the norm of the mask that the search starts from, larger
    than any mask that is found; it counts so among the norms, is never flagged, and has the lowest
    score.

    Attributes:
        threshold: Anomaly index above which a class is flagged, in [0, 100].
        steps: Of the search, at most, from 1 to 100000.
        search_batch_size: Samples per step of the search, at least 1.
        search_lr: Learning rate of Adam there, above 0.
        mask_weight: Of the mask's L1 norm at the start, above 0.
        success: Share of images that a trigger has to send to its class, in [0, 1].
    """

    threshold: float = 2.0
    steps: int = 800
    search_batch_size: int = 256
    search_lr: float = 0.1
    mask_weight: float = 1e-3
    success: float = 0.98

    def __post_init__(self) -> None:
        self._method  # noqa: B018 - for its rules

    @property
    def _method(self) -> NeuralCleanse:
        return NeuralCleanse(
            threshold=self.threshold,
            steps=self.steps,
            search_batch_size=self.search_batch_size,
            search_lr=self.search_lr,
            mask_weight=self.mask_weight,
            success=self.success,
        )

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there are too few classes for one to stand out."""
        self._method.check(network, head, classes)

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The search of the repair method."""
        return self._method.stages[:1]

    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return how far the norms lie below the median, in pixels, as the scores.

        `AuditResult.passes` is what the search takes at most: classes may end early. The details
        are ``norms`` in pixels, ``reached`` and ``anomaly`` per class.
        """
        norms, reached, anomaly = (found[name] for name in ("norms", "reached", "anomaly"))
        below = norms.median() - norms
        scores = below.where(reached, below.min())
        index = anomaly.where(reached, anomaly.min())
        return AuditResult(
            scores=scores,
            statistic=max(0.0, float(index.max())),
            rule=f"its anomaly index is above {self.threshold:g} (Wang et al. 2019: 2)",
            threshold=self.threshold,
            suspects=above(index, self.threshold),
            passes=float(self.steps * min(samples, self.search_batch_size) * len(norms)),
            details={"norms": norms, "reached": reached, "anomaly": anomaly},
        )
