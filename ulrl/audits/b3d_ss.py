"""B3D-SS: B3D on images that are made by queries, without data."""

from dataclasses import dataclass

from ulrl.audits._base import check_rules, register
from ulrl.audits._queries import SynthesiseImages
from ulrl.audits._query_audit import RATIO, QueryAudit
from ulrl.methods import RepairStage


@register("b3d_ss")
@dataclass(frozen=True, kw_only=True)
class B3DSS(QueryAudit):
    """Do what ``b3d`` does, with images of noise that queries drove to each class.

    Dong et al., ICCV 2021. How many images, and how many steps each of them takes, is stated
    nowhere that could be read, and is ours. They take ``classes × per_class × image_steps ×
    draws`` queries.

    Attributes:
        per_class: Images of each class, at least 1.
        image_steps: Of Adam on each image, from 1 to 100000.
        seed: Of the noise and of the draws, at least 0.
        ratio: A class is flagged whose mask's norm is below the median over this, at least 1.
        steps: Of Adam on the triggers, from 1 to 100000.
        batch_size: Images per draw, at least 1; all of them if there are fewer.
        draws: For each gradient, from 2 to 10000.
        sigma: Standard deviation of the draws of images and patterns, above 0.
        lr: Learning rate of Adam, above 0.
        mask_weight: Of the mask's L1 norm at the start, above 0.
        success: Share of images that a trigger has to send to its class, in [0, 1].
    """

    per_class: int = 3
    image_steps: int = 100
    seed: int = 0
    ratio: float = RATIO
    steps: int = 300
    batch_size: int = 32
    draws: int = 50
    sigma: float = 0.1
    lr: float = 0.05
    mask_weight: float = 1e-3
    success: float = 0.98

    needs_samples = False

    def __post_init__(self) -> None:
        rules = {
            "per_class": (self.per_class >= 1, "at least 1"),
            "image_steps": (1 <= self.image_steps <= 100_000, "from 1 to 100000"),
            "seed": (self.seed >= 0, "at least 0"),
        }
        check_rules(self, rules)
        super().__post_init__()

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The images, then the search."""
        images = SynthesiseImages(
            per_class=self.per_class,
            steps=self.image_steps,
            estimator=self.estimator,
            lr=self.lr,
            seed=self.seed,
        )
        return images, self.search(self.seed)
