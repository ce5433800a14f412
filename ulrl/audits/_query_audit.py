"""What audits by queries share: their options of the search, and the rule."""

from torch import nn

from ulrl.audits._base import Audit, AuditResult, check_rules
from ulrl.audits._queries import Estimator, QueryTriggers
from ulrl.methods import Tensors
from ulrl.methods.nc import anomalies

RATIO = 4.0  # of the paper: a suspect's norm is below the median over this


class QueryAudit(Audit):
    """What audits by queries share: their options of the search, and the rule."""

    ratio: float
    steps: int
    batch_size: int
    draws: int
    sigma: float
    lr: float
    mask_weight: float
    success: float

    def __post_init__(self) -> None:
        rules = {
            "ratio": (self.ratio >= 1, "at least 1"),
            "steps": (1 <= self.steps <= 100_000, "from 1 to 100000"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "draws": (2 <= self.draws <= 10_000, "from 2 to 10000"),
            "sigma": (0 < self.sigma <= 10, "above 0 and at most 10"),
            "lr": (0 < self.lr <= 100, "above 0 and at most 100"),
            "mask_weight": (0 < self.mask_weight <= 100, "above 0 and at most 100"),
            "success": (0 <= self.success <= 1, "in [0, 1]"),
        }
        check_rules(self, rules)

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there are too few classes for one to stand out."""
        del network, head
        if classes < 3:
            raise ValueError(
                f"{self.name} compares each class with the median of all, and needs at least 3 "
                f"classes; there are {classes}"
            )

    @property
    def estimator(self) -> Estimator:
        """How gradients are estimated."""
        return Estimator(draws=self.draws, sigma=self.sigma)

    def search(self, seed: int | None) -> QueryTriggers:
        """Return the stage that seeks triggers, in clean samples or, with a seed, in others."""
        return QueryTriggers(
            steps=self.steps,
            batch_size=self.batch_size,
            estimator=self.estimator,
            lr=self.lr,
            mask_weight=self.mask_weight,
            success=self.success,
            seed=seed,
        )

    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return how far the norms lie below the median, in pixels, as the scores.

        The statistic is the median of the norms over the smallest one; both are of the classes
        that a trigger reached, and it is 0 where there are fewer than 3. The details are
        ``norms``, ``reached``, and ``anomaly``: Neural Cleanse's index of those, by whose rule
        a class is flagged above 2; 0 for a class that was not reached.
        """
        del samples
        norms, reached = found["norms"], found["reached"]
        known = norms[reached]
        enough = len(known) >= 3
        anomaly = norms.new_zeros(norms.shape)
        if enough:
            anomaly[reached] = anomalies(known)
        median = float(known.median()) if enough else 0.0
        flagged = reached & (norms * self.ratio < median)
        queries = int(found["queries"])
        return AuditResult(
            scores=norms.median() - norms,
            statistic=median / max(float(known.min()), 1e-6) if enough else 0.0,
            rule=f"its mask is below the median over {self.ratio:g} (Dong et al. 2021: 4)",
            threshold=self.ratio,
            suspects=tuple(flagged.nonzero().flatten().tolist()),
            passes=queries / 3,
            queries=queries,
            details={"norms": norms, "reached": reached, "anomaly": anomaly},
        )
