"""A repair method of two stages, in a file outside the package.

It zeroes the row of the head that is largest, and trains the head on the clean samples.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.methods import RepairContext, RepairMethod, RepairStage, register
from ulrl.models import restore


@register("largest_row")
@dataclass(frozen=True, kw_only=True)
class LargestRow(RepairMethod):
    """Find the largest row of the head, then zero it and tune."""

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        return FindRow(), TuneHead()


@dataclass(frozen=True, kw_only=True)
class FindRow(RepairStage):
    """Return each row's norm, and the largest row."""

    name = "find"

    def run(
        self, context: RepairContext, before: Mapping[str, Tensor]
    ) -> Generator[Step, None, Mapping[str, Tensor]]:
        del before
        norms = context.victim.head.norm(dim=1)
        yield Step(1, 1)
        return {"norms": norms, "row": norms.argmax().reshape(1)}


@dataclass(frozen=True, kw_only=True)
class TuneHead(RepairStage):
    """Zero the row, and train the head by plain gradient descent."""

    name = "tune"
    epochs: int = 3
    lr: float = 0.05

    def reads(self, before: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"row": before["row"]}

    def run(
        self, context: RepairContext, before: Mapping[str, Tensor]
    ) -> Generator[Step, None, Mapping[str, Tensor]]:
        classifier = restore(context.victim, context.device)
        samples = context.clean.samples.to(context.device)
        with torch.no_grad():
            classifier.head.weight[before["row"]] = 0.0
        classifier.network.eval()
        for epoch in range(1, self.epochs + 1):
            loss = cross_entropy(classifier.logits(samples.images), samples.labels)
            gradient = torch.autograd.grad(loss, [classifier.head.weight, classifier.head.bias])
            with torch.no_grad():
                classifier.head.weight.sub_(self.lr * gradient[0])
                classifier.head.bias.sub_(self.lr * gradient[1])
            context.observe(classifier)
            yield Step(epoch, self.epochs)
        return classifier.weights().state
