"""ULRL itself under the grammar of repair methods, with the default hyper-parameters."""

from collections.abc import Generator
from dataclasses import dataclass, field

from ulrl.attacks import Step
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.methods._base import ULRL, RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.relearning import relearn
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import select_weights


@register(ULRL)
@dataclass(frozen=True, kw_only=True)
class Ulrl(RepairMethod):
    """Unlearn, find the suspects, reinitialise and relearn (arXiv:2405.14781).

    It has no options here: a study varies its hyper-parameters by axes of the grid, and splits it
    into stages that share more than this one does.
    """

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The whole of it, with the values of the preset ``default`` for CIFAR-10."""
        return (UnlearnAndRelearn(),)


@dataclass(frozen=True, kw_only=True)
class UnlearnAndRelearn(RepairStage):
    """Both phases of ULRL.

    Attributes:
        hyperparameters: Of both; those of how clean samples are drawn mean nothing.
    """

    hyperparameters: Hyperparameters = field(
        default_factory=lambda: assemble(preset_values(Preset.DEFAULT, "cifar10"))
    )

    name = "unlearn_and_relearn"

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network.

        Raises:
            DivergedError: Unlearning diverged before its accuracy fell to the threshold, or
                relearning did.
        """
        del before
        parts, clean = self.hyperparameters, context.clean
        total = parts.unlearn.unlearn_epochs + parts.relearn.relearn_epochs
        stop = parts.score.stop_at(context.victim.model_spec.classes)
        for ascent in unlearn(parts.unlearn, context.victim, clean, stop, context.device):
            yield Step(len(ascent.loss), total)
        suspects = select_weights(parts.reset, score_neurons(parts.score, ascent))
        run = relearn(
            parts.relearn,
            context.victim,
            suspects,
            clean,
            context.device,
            observe=context.observe,
        )
        for epoch in run.epochs:
            yield Step(parts.unlearn.unlearn_epochs + epoch.number, total)
        return run.classifier.weights().state
