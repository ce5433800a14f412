"""Phase 1 of ULRL as an audit: whether the ascent moves one row of the head out of proportion."""

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import nn

from ulrl.attacks import Step
from ulrl.audits._base import Audit, AuditResult, register
from ulrl.errors import DivergedError
from ulrl.methods import RepairContext, RepairStage, Tensors
from ulrl.scoring import ScoreConfig, modified_z, pick_suspects, score_neurons
from ulrl.unlearning import Ascent, UnlearnConfig, unlearn


@register("ulrl_scores")
@dataclass(frozen=True, kw_only=True)
class UlrlScores(Audit):
    """Unlearn the clean samples, and score how far each row of the head moved.

    What ULRL does before it repairs (arXiv:2405.14781), with its defaults. The score of a class is
    the modified z of its row's shift, and the statistic is the largest. ULRL flags at most two
    classes, and flags some in benign models too.

    Attributes:
        z_threshold: A suspect's z is above this, above 0.
        unlearn_threshold: Running accuracy at which the ascent stops, in [0, 1].
        unlearn_lr: Learning rate of the ascent, above 0.
        unlearn_epochs: Of the ascent at most.
        unlearn_batch_size: Samples per step.
    """

    z_threshold: float = 3.5
    unlearn_threshold: float = 0.2
    unlearn_lr: float = 0.01
    unlearn_epochs: int = 20
    unlearn_batch_size: int = 128

    def __post_init__(self) -> None:
        self._score  # noqa: B018 - for its rules
        self.stages  # noqa: B018 - too

    @property
    def _score(self) -> ScoreConfig:
        return ScoreConfig(unlearn_threshold=self.unlearn_threshold, z_threshold=self.z_threshold)

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there are too few classes for one to stand out."""
        del network, head
        if classes < 3:
            raise ValueError(
                f"{self.name} compares each class with the median of all, and needs at least 3 "
                f"classes; there are {classes}"
            )

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The ascent."""
        config = UnlearnConfig(
            unlearn_lr=self.unlearn_lr,
            unlearn_epochs=self.unlearn_epochs,
            unlearn_batch_size=self.unlearn_batch_size,
        )
        return (MoveHead(config=config, threshold=self.unlearn_threshold),)

    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return the z of each row as the scores.

        The details are ``shift`` per class, ``predicted``: how many samples each class was
        predicted for at the stop, ``collapse_class``: the class with the most of them (where the
        ascent ends, whether it is the attacker's target or not), ``stop_accuracy``, and
        ``threshold_reached``.
        """
        config = self._score
        z = modified_z(found["shift"], config.zero_mad, config.mad_epsilon)
        return AuditResult(
            scores=z,
            statistic=float(z.max()),
            rule=f"its z is above {self.z_threshold:g}, at most two classes (ULRL's code: 3.5)",
            threshold=self.z_threshold,
            suspects=pick_suspects(config, found["shift"], z),
            passes=float(found["epochs"] * samples),
            details={
                "shift": found["shift"],
                "predicted": found["predicted"],
                "collapse_class": found["predicted"].argmax(),
                "stop_accuracy": found["accuracy"],
                "threshold_reached": found["reached"],
            },
        )


@dataclass(frozen=True, kw_only=True)
class MoveHead(RepairStage):
    """Climb the loss on the clean samples, and see how far the head's rows moved.

    Attributes:
        config: Of the ascent, as of ULRL's phase 1.
        threshold: Accuracy at or below which it stops, in [0, 1]; else it ends with its epochs.
    """

    config: UnlearnConfig
    threshold: float

    name = "moved_head"

    def cost(self, samples: int) -> float:
        """Return all epochs, which an ascent rarely needs."""
        return float(self.config.unlearn_epochs * samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return what the ascent did.

        Returns:
            ``shift`` ``[classes]``, the sum of absolute changes of each row; ``predicted``
            ``[classes]``, how many samples each class is predicted for at the stop; the
            ``accuracy`` that was compared there; the ``epochs`` it took; and ``reached``, whether
            the accuracy fell to the threshold.

        Raises:
            DivergedError: The ascent left the finite numbers before.
        """
        del before
        ascent: Ascent | None = None
        config = self.config
        steps = unlearn(config, context.victim, context.clean, self.threshold, context.device)
        for ascent in steps:
            yield Step(len(ascent.loss), config.unlearn_epochs)
        if ascent is None:
            raise RuntimeError("an ascent has at least one epoch")
        scores = score_neurons(ScoreConfig(unlearn_threshold=self.threshold), ascent)
        if scores.diverged:
            raise DivergedError(
                f"the ascent diverged in epoch {len(ascent.loss)} before its accuracy was at most "
                f"{self.threshold}; a higher unlearn_threshold or a smaller unlearn_lr may help"
            )
        return {
            "shift": scores.shift,
            "predicted": scores.predicted,
            "accuracy": torch.tensor(scores.stop_accuracy),
            "epochs": torch.tensor(scores.stop_epoch),
            "reached": torch.tensor(scores.threshold_reached),
        }
