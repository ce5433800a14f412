"""B3D: the smallest trigger of each class, found by queries alone."""

from dataclasses import dataclass

from ulrl.audits._base import register
from ulrl.audits._query_audit import RATIO, QueryAudit
from ulrl.methods import RepairStage


@register("b3d")
@dataclass(frozen=True, kw_only=True)
class B3D(QueryAudit):
    """Find the smallest trigger of each class from the network's probabilities alone.

    Dong et al., ICCV 2021. There is no official code; constants are those that two others' agree
    on, and where they differ those of Neural Cleanse, so that the two audits differ in access
    alone. Of each class's draws the mean loss of the others is taken off, which the formula
    leaves out. It takes ``classes × steps × 2 × draws × batch_size`` queries, ten million by
    default for ten classes: on a CPU it is for small networks.

    Attributes:
        ratio: A class is flagged whose mask's norm is below the median over this, at least 1.
        steps: Of Adam, from 1 to 100000.
        batch_size: Images per draw, at least 1; all clean samples if there are fewer.
        draws: For each gradient, of the mask's and of the pattern's, from 2 to 10000.
        sigma: Standard deviation of the pattern's draws, above 0.
        lr: Learning rate of Adam, above 0.
        mask_weight: Of the mask's L1 norm at the start, above 0.
        success: Share of images that a trigger has to send to its class, in [0, 1].
    """

    ratio: float = RATIO
    steps: int = 300
    batch_size: int = 32
    draws: int = 50
    sigma: float = 0.1
    lr: float = 0.05
    mask_weight: float = 1e-3
    success: float = 0.98

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The search."""
        return (self.search(None),)
