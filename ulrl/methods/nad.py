"""NAD: a fine-tuned teacher shows where to attend (Li et al., ICLR 2021)."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ulrl.attacks import Step
from ulrl.fitting import Epoch, SGDConfig, Sources, raise_if_diverged
from ulrl.layers import CONVOLUTION
from ulrl.methods._attention import attention, stages_of, watched
from ulrl.methods._base import RepairContext, RepairMethod, RepairStage, Tensors, register
from ulrl.methods._loop import Passes, train_by
from ulrl.methods._tuning import SGDTuner
from ulrl.models import Classifier, Weights, restore
from ulrl.sgd import SGD

LATE = 20  # epochs after which the student's rate is a hundredth


@register("nad")
@dataclass(frozen=True, kw_only=True)
class NAD(RepairMethod):
    """Fine-tune a teacher, then the victim on cross-entropy and on the teacher's attention.

    A map of attention is the sum over channels of |feature|^power, divided by its L2 norm over
    places; the loss adds beta times the mean squared difference of the maps, for each stage.
    Defaults are BackdoorBench's. It takes layer3, layer4 and the pooled features, whose map of
    one place is always 1 and teaches nothing. Here it is the last three stages of more than one
    place: layer2, layer3 and layer4 of a ResNet. Of a transformer it is the patches' tokens after
    each of the last three blocks; that is ours, for the paper has no transformers.
    BackdoorBench's student passes each batch four times, with as many updates of BatchNorm; here
    it is once.

    Attributes:
        beta: Weight of each stage's attention, at least 0, the last stage's last. A network with
            fewer stages takes the last ones.
        power: Of the features' magnitudes, from 1 to 10.
        teacher_lr: Learning rate of the teacher, constant; above 0.
        teacher_epochs: Passes over the samples for the teacher, from 1 to 1000.
        lr: Learning rate of the student, above 0; after 20 epochs a hundredth of it.
        epochs: Passes over the samples for the student, from 1 to 1000.
        weight_decay: L2 penalty on all parameters of both, in [0, 1).
        batch_size: Samples per step of both.
    """

    beta: tuple[float, ...] = (500.0, 1000.0, 1000.0)
    power: float = 2.0
    teacher_lr: float = 0.01
    teacher_epochs: int = 10
    lr: float = 0.01
    epochs: int = 10
    weight_decay: float = 5e-4
    batch_size: int = 256

    def __post_init__(self) -> None:
        if len(self.beta) != 3 or not all(0 <= weight <= 1e6 for weight in self.beta):
            raise ValueError(f"beta is three weights in [0, 1e6]; got {list(self.beta)}")
        if not 1 <= self.power <= 10:
            raise ValueError(f"power is from 1 to 10; got {self.power}")
        self._sgd(self.teacher_lr, self.teacher_epochs).check("teacher", self.teacher_lr)
        self._sgd(self.lr, self.epochs).check("", self.lr)

    def _sgd(self, lr: float, epochs: int) -> SGDConfig:
        return SGDConfig(
            epochs=epochs,
            batch_size=self.batch_size,
            rate=lambda _: lr,
            weight_decay=self.weight_decay,
        )

    def check(self, network: nn.Module, head: str, classes: int) -> None:
        """Raise ``ValueError`` where there can be no maps, for want of convolutions."""
        del head, classes
        if not any(isinstance(module, CONVOLUTION) for module in network.modules()):
            raise ValueError(f"{self.name} compares feature maps, and the network has none")

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        """The teacher, then the student."""
        teacher = SGDTuner(
            lr=self.teacher_lr,
            epochs=self.teacher_epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            constant=True,
        )
        student = Distil(
            beta=self.beta,
            power=self.power,
            lr=self.lr,
            epochs=self.epochs,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
        )
        return Teach(tuner=teacher), student


@dataclass(frozen=True, kw_only=True)
class Teach(RepairStage):
    """Fine-tune a copy of the victim."""

    tuner: SGDTuner

    name = "teacher"

    def cost(self, samples: int) -> float:
        """Return the tuner's cost."""
        return self.tuner.cost(samples)

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the teacher's parameters and buffers.

        Raises:
            DivergedError: Training left the finite numbers.
        """
        del before
        teacher = restore(context.victim, context.device)
        epochs = self.tuner.train(teacher, context)
        for epoch in raise_if_diverged(epochs, "the teacher's training", "a smaller teacher_lr"):
            yield Step(epoch.number, self.tuner.epochs)
        return teacher.weights().state


@dataclass(frozen=True, kw_only=True)
class Distil(RepairStage):
    """Train a copy of the victim to attend as the teacher; for its numbers see `NAD`."""

    beta: tuple[float, ...]
    power: float
    lr: float
    epochs: int
    weight_decay: float
    batch_size: int

    name = "distillation"

    def cost(self, samples: int) -> float:
        """Return a pass of the student and a forward pass of the teacher per epoch."""
        return self.epochs * samples * 4 / 3

    def run(self, context: RepairContext, before: Tensors) -> Generator[Step, None, Tensors]:
        """Return the student.

        Raises:
            DivergedError: Training left the finite numbers.
            ValueError: The network has no maps.
        """
        student = restore(context.victim, context.device)
        taught = Weights(model_spec=context.victim.model_spec, state=dict(before))
        teacher = restore(taught, context.device)

        def look(epoch: Epoch) -> None:
            context.observe(student)
            if epoch.number == self.epochs:
                student.predict(context.clean.samples.images)

        epochs = self._train(student, teacher, context)
        remedy = "a smaller lr or beta"
        for epoch in raise_if_diverged(epochs, "the distillation", remedy, look):
            yield Step(epoch.number, self.epochs)
        return student.weights().state

    def _train(
        self, student: Classifier, teacher: Classifier, context: RepairContext
    ) -> Iterator[Epoch]:
        samples = context.clean.samples
        paths = stages_of(student, samples.images[:2])
        sgd = SGD(student.network, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        teacher.network.eval()
        with ExitStack() as hooks:
            seen = hooks.enter_context(watched(student.network, paths))
            shown = hooks.enter_context(watched(teacher.network, paths))

            def take(images: Tensor, labels: Tensor, rate: float) -> tuple[Tensor, Tensor]:
                sgd.zero_grad()
                with torch.no_grad():
                    teacher.logits(images)
                logits = student.logits(images)
                loss = cross_entropy(logits, labels) + self.difference(
                    [seen[path] for path in paths], [shown[path] for path in paths]
                )
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.param_groups[0]["lr"] = rate
                sgd.step()
                return loss, logits

            passes = Passes(epochs=self.epochs, batch_size=self.batch_size, rate=self.rate)
            sources = Sources.of(context.clean.seed, "distillation")
            yield from train_by(student, samples, take, passes, sources)

    def rate(self, elapsed: float) -> float:
        """Return the learning rate after so many epochs."""
        return self.lr if elapsed < LATE else self.lr / 100

    def difference(self, ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
        """Return the weighted sum of the differences in attention, from features by stage."""
        total = torch.zeros((), device=ours[0].device)
        for beta, one, other in zip(self.beta[-len(ours) :], ours, theirs, strict=True):
            found, wanted = attention(one, self.power), attention(other, self.power)
            if found is None or wanted is None:
                raise RuntimeError("a stage has a map in one pass and none in the other")
            total = total + beta * mse_loss(found, wanted)
        return total
