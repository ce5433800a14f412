"""Repair methods beside ULRL: each is a chain of stages whose results can be stored and shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from ulrl.attacks import Step
from ulrl.clean import CleanSamples
from ulrl.errors import raise_unless_finite
from ulrl.models import Classifier, Weights
from ulrl.registry import label_of, registrar

Tensors: TypeAlias = Mapping[str, Tensor]

# Of a stage's field by which `reads` chooses among what the stage before found: it stays out of
# the key, since the choice itself is in it, so that equal choices share one result.
CHOOSES = {"runtime": True}


@dataclass(frozen=True, kw_only=True, eq=False)
class RepairContext:
    """What a defender has.

    Attributes:
        victim: The network to repair.
        clean: A few clean samples.
        device: Where to compute.
        observe: To call with the network after each epoch of the last stage. It measures the
            curve by which a study may cut the trial, and it changes nothing.
        oracle: Returns ASR and ACC of a network on the selection half, in [0, 1]. No defender has
            it: only a stage with `looks` is given it, and only in a study.
    """

    victim: Weights
    clean: CleanSamples
    device: torch.device
    observe: Callable[[Classifier], None]
    oracle: Callable[[Classifier], tuple[float, float]] | None = None


class RepairStage(ABC):
    """A stage of a repair method; each subclass is a frozen dataclass.

    The fields are its configuration. With the name, the version, the victim, the clean samples and
    what it reads of the stage before, they name its result: methods with an equal stage share it.

    Attributes:
        name: Of the stage, wherever it is used.
        version: Raised when the same fields give another result than before.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1

    def reads(self, before: Tensors) -> Tensors | None:
        """Return what this stage reads of the stage before; None is all of it.

        Trials for which it is equal share this stage's result, whatever else the stage before
        found. ULRL's relearning, for example, reads which neurons are reset.
        """
        del before
        return None

    @property
    def looks(self) -> int:
        """How often it measures a network on the selection half, with triggered images."""
        return 0

    @property
    def sweeps(self) -> bool:
        """Whether it chooses by the accuracies on held-out samples that a stage before took."""
        return False

    def cost(self, samples: int) -> float:
        """Return about how many images the stage trains on, each as often as it is seen.

        Args:
            samples: Number of clean samples.
        """
        return 20.0 * samples

    def sweep_cost(self, samples: int) -> float:
        """Return the part of `cost` that only a cut by held-out accuracies needs.

        The stage takes them by any rule, since settings of all rules share its result.
        """
        del samples
        return 0.0

    @abstractmethod
    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Compute, yield after each part, and return the result as tensors on the CPU.

        The result depends on the fields, on `context` and `before`, and on the device's
        arithmetic alone. The last stage returns the repaired network's parameters and buffers
        by their names.

        Args:
            context: What the defender has.
            before: Result of the stage before; empty for the first.
        """

    def checked(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Do what `run` does, and check the result.

        Raises:
            DivergedError: A tensor of the result is not finite.
        """
        tensors = yield from self.run(context, before)
        raise_unless_finite(tensors, self.name)
        return tensors


class RepairMethod(ABC):
    """A way to repair a victim with clean samples; each subclass is a frozen dataclass.

    Its fields are its options in a study file. An option whose default is None has one that
    depends on the dataset.

    Attributes:
        name: What a study file calls it.
    """

    name: ClassVar[str]

    @property
    @abstractmethod
    def stages(self) -> tuple[RepairStage, ...]:
        """The stages in order, at least one; of a method as `resolved` returns it."""

    @property
    def oracle(self) -> bool:
        """Whether it chooses by triggered images and is no defence; as `resolved` returns it."""
        return any(stage.looks for stage in self.stages)

    def cost(self, samples: int) -> float:
        """Return about how many images it needs to train on, each as often as it is seen.

        As `resolved` returns it. Held-out accuracies count where its cut is chosen by them.

        Args:
            samples: Number of clean samples.
        """
        swept = any(stage.sweeps for stage in self.stages)
        return sum(
            stage.cost(samples) - (0.0 if swept else stage.sweep_cost(samples))
            for stage in self.stages
        )

    def resolved(self, dataset: str) -> Self:
        """Return the method with its defaults for a dataset's name in place of None."""
        del dataset
        return self

    def values_of(self, options: Iterable[str]) -> dict[str, Any]:
        """Return the values of some options; None of one that means nothing beside the others.

        As `resolved` returns it: a default that is None is what stands for it.
        """
        return {option: getattr(self, option) for option in options}

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the method does not apply to a network.

        Args:
            network: Perhaps without numbers (on torch's ``meta``).
            head: Path of its last linear layer.
            classes: Number of classes.
        """
        del network, head, classes  # most apply to all

    @property
    def label(self) -> str:
        """The name with the options that differ from their defaults, as a table shows it."""
        return label_of(self)

    def __str__(self) -> str:
        return self.label


METHODS: dict[str, type[RepairMethod]] = {}
ULRL = "ulrl"  # the method that this package is about, which has hyper-parameters of its own
register = registrar("repair method", METHODS)
