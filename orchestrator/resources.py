"""What a study may take: a worker's share of a machine, limits of an item, a budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

STAGES = ("train_helper", "train_victim", "unlearn", "relearn")  # what an item is begun for


class Device(StrEnum):
    """Where torch computes."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one line of the file asks for; None leaves it to the next, more general line."""

    cpu: int | None = None
    gpu: float | None = None


@dataclass(frozen=True, kw_only=True)
class ArchitectureAsk(Ask):
    """What a file asks for an architecture, and for stages of it."""

    stages: Mapping[str, Ask] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Share:
    """What Ray keeps free for one worker.

    Attributes:
        cpu: Whole CPUs.
        gpu: A fraction of one GPU, or whole ones.
    """

    cpu: int = 1
    gpu: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpu} CPU and {self.gpu:g} GPU"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Workers at once, and the share of each.

    The most particular line that says something counts: a stage of an architecture, the
    architecture, the stage, the study. What none says, the machine or the cluster decides.

    Attributes:
        workers: Items worked on at once; None is what there is room for.
        cpu: CPUs of a worker, and threads of torch, on which results' last bits depend. A
            stage or an architecture may ask for more CPUs: Ray keeps them free, which
            leaves room for fewer at once, while torch's threads stay these.
        gpu: Share of a GPU; None is by memory where there is a GPU.
        device: Where torch computes; None is ``cuda`` if a worker has a share of a GPU.
        stages: By stage: `STAGES`.
        architectures: By the bare name, for every variant of it.
    """

    workers: int | None = None
    cpu: int = 1
    gpu: float | None = None
    device: Device | None = None
    stages: Mapping[str, Ask] = field(default_factory=dict)
    architectures: Mapping[str, ArchitectureAsk] = field(default_factory=dict)

    def asked(self, stage: str, architecture: str) -> tuple[int, float | None]:
        """Return the CPUs and the share of a GPU that the file asks for; None is not said."""
        of_architecture = self.architectures.get(architecture, ArchitectureAsk())
        asks = (
            of_architecture.stages.get(stage, Ask()),
            of_architecture,
            self.stages.get(stage, Ask()),
            Ask(cpu=self.cpu, gpu=self.gpu),
        )
        cpu = next(ask.cpu for ask in asks if ask.cpu is not None)
        return cpu, next((ask.gpu for ask in asks if ask.gpu is not None), None)

    @property
    def gpus(self) -> tuple[float, ...]:
        """Every share of a GPU that the file names."""
        lines: list[Ask] = [Ask(gpu=self.gpu), *self.stages.values()]
        for architecture in self.architectures.values():
            lines += [architecture, *architecture.stages.values()]
        return tuple(line.gpu for line in lines if line.gpu is not None)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may take.

    Attributes:
        minutes: By stage; a stage that is not named has no limit.
        attempts: How often an item is begun whose worker dies under it.
    """

    minutes: Mapping[str, float] = field(default_factory=dict)
    attempts: int = 3

    def seconds(self, stage: str) -> float | None:
        """Return what an item of a stage may take; None is no limit."""
        return self.minutes[stage] * 60 if stage in self.minutes else None

    def overdue(self, stage: str) -> str:
        """Return the error of an item that worked longer."""
        return f"worked longer than limits.minutes, which is {self.minutes[stage]:g}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What one start of the command may take; None is all that there is to do.

    Attributes:
        hours: After which nothing is begun any more.
        trials: Trials that are begun.
    """

    hours: float | None = None
    trials: int | None = None
