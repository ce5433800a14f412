"""Audits of a model: is it backdoored, and towards which class?"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ulrl.clean import CleanSamples
from ulrl.fitting import Samples
from ulrl.methods import RepairContext, RepairStage, Tensors
from ulrl.models import Classifier, Weights
from ulrl.registry import label_of, registrar


@dataclass(frozen=True, kw_only=True, eq=False)
class AuditResult:
    """What an audit says of a model.

    Attributes:
        scores: One per class; the higher, the more suspect. They compare the classes of one
            model, not models.
        statistic: One number of the model; the higher, the more suspicious. It compares models.
        rule: What makes a class a suspect, and whose rule it is.
        threshold: What the statistic is compared with; None where nobody has published one that
            holds for other models than those it was set on.
        suspects: Classes that the rule flags, in increasing order; None where there is no
            threshold, and so no verdict.
        passes: About how many images went through the network, a forward and a backward pass of
            one counted as 1, a forward pass alone as 1/3.
        queries: How many images the network was asked about by an audit that sees nothing but
            its answers; 0 for other audits.
        details: What else the audit found, by name.
    """

    scores: Float[Tensor, " classes"]
    statistic: float
    rule: str
    threshold: float | None
    suspects: tuple[int, ...] | None
    passes: float
    queries: int = 0
    details: Mapping[str, Tensor] = field(default_factory=dict)

    def rank(self, label: int) -> float:
        """Return the place of a class by its score, 1 being the most suspect.

        Equal scores share the mean of their places, so that an audit that tells no class from
        another ranks the true target in the middle.
        """
        above = int((self.scores > self.scores[label]).sum())
        equal = int((self.scores == self.scores[label]).sum())
        return 1 + above + (equal - 1) / 2


class Audit(ABC):
    """A way to look for a backdoor in a model; each subclass is a frozen dataclass.

    Its fields are its options in a study file. What it does is a chain of stages as repair methods
    have them, and the two share the results of equal stages. Thresholds of a rule are in no
    stage.

    Attributes:
        name: What a study file calls it.
        needs_samples: Whether it looks at clean samples. The stages of an audit that does not
            depend on the model and their fields alone.
    """

    name: ClassVar[str]
    needs_samples: ClassVar[bool] = True

    @property
    @abstractmethod
    def stages(self) -> tuple[RepairStage, ...]:
        """The stages in order, at least one."""

    @abstractmethod
    def result(self, found: Tensors, samples: int) -> AuditResult:
        """Return what the last stage's tensors mean. This takes no time.

        Args:
            found: Of the last stage.
            samples: How many clean samples there were.
        """

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the audit does not apply to a network.

        Args:
            network: Perhaps without numbers (on torch's ``meta``).
            head: Path of its last linear layer.
            classes: Number of classes.
        """
        del network, head, classes  # most apply to all

    def check_images(self, network: nn.Module, channels: int, side: int) -> None:
        """Raise ``ValueError`` where the audit does not apply to a network on images of a size.

        A study asks this before anything runs; `ulrl.audit` leaves it to the stages.

        Args:
            network: Without numbers (on torch's ``meta``); it may be run there, in eval mode.
            channels: Of the images.
            side: Of the images, in pixels.
        """
        del network, channels, side  # most apply to all

    @property
    def label(self) -> str:
        """The name with the options that differ from their defaults, as a table shows it."""
        return label_of(self)

    def __str__(self) -> str:
        return self.label


AUDITS: dict[str, type[Audit]] = {}
register = registrar("audit", AUDITS)


def audit_context(
    model: Weights, clean: CleanSamples | None, device: torch.device
) -> RepairContext:
    """Return what the stages of an audit are given; without samples, they have none of them.

    Args:
        model: A victim, a benign model or a repaired one.
        clean: A few clean samples, never poisoned ones; None for an audit that needs none.
        device: Where to compute.
    """
    if clean is None:
        spec = model.model_spec
        none = torch.zeros(0, dtype=torch.int64)
        images = torch.zeros(0, spec.channels, spec.side, spec.side, dtype=torch.uint8)
        clean = CleanSamples(samples=Samples(images=images, labels=none), index=none, seed=0)
    return RepairContext(victim=model, clean=clean, device=device, observe=_look_away)


def _look_away(classifier: Classifier) -> None:
    del classifier


def check_rules(audit: Audit, rules: Mapping[str, tuple[bool, str]]) -> None:
    """Raise ``ValueError`` for the first option that is out of its range.

    Args:
        audit: With the options.
        rules: For each option, whether it is in its range, and the range in words.
    """
    for name, (holds, rule) in rules.items():
        if not holds:
            raise ValueError(f"{name} is {rule}; got {getattr(audit, name)}")


def above(scores: Tensor, threshold: float) -> tuple[int, ...]:
    """Return the classes whose score is above a threshold, in increasing order."""
    return tuple((scores > threshold).nonzero().flatten().tolist())
