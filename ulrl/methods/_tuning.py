"""The last stage of most methods: cut what was chosen, then train on the clean samples."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from math import cos, pi
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ulrl.attacks import Step
from ulrl.fitting import Epoch, SGDConfig, Sources, raise_if_diverged, train
from ulrl.methods._base import CHOOSES, RepairContext, RepairMethod, RepairStage, Tensors
from ulrl.methods._cuts import Cut, Edit, Rule, apply, stay_cut
from ulrl.models import Classifier, restore
from ulrl.precision import Precision
from ulrl.registry import registrar

STRENGTHS = {  # options that say how strong a cut is by a rule
    Rule.BUDGET: "budget",
    Rule.THRESHOLD: "mask_threshold",
    Rule.DEVIATIONS: "u",
    Rule.OUTLIER: "z_threshold",
    Rule.LARGEST: "share",
}


class Tuner(ABC):
    """Trains a network on clean samples; each subclass is a frozen dataclass."""

    @property
    @abstractmethod
    def epochs_in_all(self) -> int:
        """How many epochs it yields."""

    @abstractmethod
    def cost(self, samples: int) -> float:
        """Return about how many images it trains on, each as often as it is seen."""

    @abstractmethod
    def train(self, classifier: Classifier, context: RepairContext) -> Iterator[Epoch]:
        """Train in place; an epoch may have a `fault`, of which the caller makes an error."""


@dataclass(frozen=True, kw_only=True)
class Tune(RepairStage):
    """Cut a copy of the victim by a rule, then train it.

    Attributes:
        cut: The rule, for what the stage before found; None where there is none, or no cut.
        tuner: How it is trained; None leaves it as it was cut.
        keep_cut: Whether what is cut stays 0 while it is trained.
    """

    cut: Cut | None = field(default=None, metadata=CHOOSES)
    tuner: Tuner | None = None
    keep_cut: bool = False

    name = "tune"

    def reads(self, before: Tensors) -> Tensors | None:
        """Return what is cut; trials that cut the same share the result."""
        return None if self.cut is None else self.cut.choose(before)

    @property
    def sweeps(self) -> bool:
        """Whether the cut is by a budget."""
        return self.cut is not None and self.cut.rule is Rule.BUDGET

    def cost(self, samples: int) -> float:
        """Return the tuner's cost."""
        return 0.0 if self.tuner is None else self.tuner.cost(samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the repaired network.

        Raises:
            DivergedError: Training left the finite numbers.
        """
        classifier = restore(context.victim, context.device)
        edit: Edit = {} if self.cut is None else self.cut.choose(before)
        apply(edit, classifier)
        if self.keep_cut:
            stay_cut(edit, classifier)
        if self.tuner is None:
            context.observe(classifier)
            classifier.predict(context.clean.samples.images)  # raises where it predicts nothing
            yield Step(1, 1)
            return classifier.weights().state
        total = self.tuner.epochs_in_all

        def look(epoch: Epoch) -> None:
            context.observe(classifier)
            if epoch.number == total:
                classifier.predict(context.clean.samples.images)

        epochs = self.tuner.train(classifier, context)
        for epoch in raise_if_diverged(epochs, "tuning", "a smaller lr", look):
            yield Step(epoch.number, total)
        return classifier.weights().state


class TuningMethod(RepairMethod):
    """A method that only trains. One that cuts may have it train the cut network, by its name."""

    @property
    @abstractmethod
    def tuner(self) -> Tuner | None:
        """What trains; None leaves the network as it is."""

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """Training alone."""
        return (Tune(tuner=self.tuner),)


TUNERS: dict[str, type[TuningMethod]] = {}
register_tuner = registrar("tuner", TUNERS)


@register_tuner("none")
@dataclass(frozen=True, kw_only=True)
class NoTuning(TuningMethod):
    """The network stays as it was cut."""

    @property
    def tuner(self) -> Tuner | None:
        """Nothing."""
        return None


@dataclass(frozen=True, kw_only=True)
class CuttingMethod(RepairMethod):
    """A method that cuts, and has the cut network trained by a part of another's.

    Attributes:
        tune: What trains the cut network; None is the method's own way.
    """

    tune: TuningMethod | None = None

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where the tuner does not apply to a network."""
        if self.tune is not None:
            self.tune.check(network, head, classes)

    def resolved(self, dataset: str) -> Self:
        """Return the method with its tuner's defaults for a dataset."""
        return self if self.tune is None else replace(self, tune=self.tune.resolved(dataset))

    def values_of(self, options: Iterable[str]) -> dict[str, Any]:
        """Return the values of some options, the rule and its strength as they are in the end.

        Of strengths that vary only that of the rule has a value. Where it is none of them, the
        rule is there beside them.
        """
        found = super().values_of(options)
        last = self.stages[-1]
        cut = last.cut if isinstance(last, Tune) else None
        if cut is None or found.keys().isdisjoint({"rule", *STRENGTHS.values()}):
            return found
        own = STRENGTHS.get(cut.rule)
        if "rule" in found or own not in found:
            found["rule"] = cut.rule.value
        if own in found:
            found[own] = abs(cut.strength)  # of a mask the score is minus its value
        return found

    def tuner_or(self, own: Tuner | None, *options: str) -> Tuner | None:
        """Return what trains the cut network.

        Args:
            own: What does where `tune` names nothing.
            *options: Of the method, those that are about `own` alone.

        Raises:
            ValueError: One of them is given, and `tune` names another tuner.
        """
        if self.tune is None:
            return own
        for option in fields(self):
            if option.name in options and getattr(self, option.name) != option.default:
                raise ValueError(
                    f"{option.name} is of {self.name}'s own tuner, and tune names "
                    f"{self.tune.name}; leave it out, or give tune an option of that name"
                )
        return self.tune.tuner


def cosine(lr: float, epochs: int) -> Callable[[float], float]:
    """Return half a cosine from `lr` down to 0, in a step per epoch."""
    return lambda elapsed: lr * (1 + cos(pi * int(elapsed) / epochs)) / 2


@dataclass(frozen=True, kw_only=True)
class SGDTuner(Tuner):
    """Plain fine-tuning: cross-entropy by SGD.

    Attributes:
        lr: Learning rate at the start, above 0.
        epochs: Passes over the samples, from 1 to 1000.
        weight_decay: L2 penalty on all parameters.
        batch_size: Samples per step.
        momentum: In [0, 1).
        constant: Whether the rate stays as it is, or goes down to 0 by half a cosine.
    """

    lr: float = 0.01
    epochs: int = 100
    weight_decay: float = 5e-4
    batch_size: int = 256
    momentum: float = 0.9
    constant: bool = False

    def __post_init__(self) -> None:
        self._sgd.check("", self.lr)

    @property
    def _sgd(self) -> SGDConfig:
        return SGDConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            rate=(lambda _: self.lr) if self.constant else cosine(self.lr, self.epochs),
            momentum=self.momentum,
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
        """Train as phase 2 of ULRL does where nothing is suspicious, with the same draws."""
        sources = Sources.of(context.clean.seed, "relearn")
        return train(classifier, context.clean.samples, _loss, self._sgd, sources)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels)
