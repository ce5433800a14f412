"""The jobs of a study, and the messages about them."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import TypeAlias

from orchestrator.address import Address
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.spec.model import Limits
from orchestrator.spec.space import Axis, Values
from ulrl.attacks import Helper

OUT_OF_MEMORY = "out of memory"  # how the reason begins


class JobKind(StrEnum):
    """Where in the chain of stages a job stands."""

    HELPER = "helper"  # what an attack has trained before the victim
    VICTIM = "victim"
    STAGE = "stage"  # of a repair method, before its last one
    TRIAL = "trial"  # the last stage of a repair method, and the evaluation of its model


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage of a chain, for one worker.

    Attributes:
        name: Unique in the study, and the same wherever its plan is made.
        kind: Where in the chain it stands.
        stage: What limits and shares of resources call it: one of `STAGES`.
        text: What people call it.
        scenario: Any of those that need it.
        helper: What a helper's job trains; what it needs itself is trained already.
        trials: Those that a repair method's stage is for, the first of which stands for all.
        position: Of a repair method's stage, from 0.
        axes: The study's setting axes, where later settings may ask more of the same stage.
        stream: Whether every epoch is reported, because the trial may be cut.
    """

    name: str
    kind: JobKind
    stage: str
    text: str
    scenario: Scenario
    helper: Helper | None = None
    trials: tuple[Trial, ...] = ()
    position: int = 0
    axes: Mapping[str, Axis] = field(default_factory=dict)
    stream: bool = False

    @property
    def is_trial(self) -> bool:
        """Whether a trial ends with it."""
        return self.kind is JobKind.TRIAL

    @cached_property
    def numbers(self) -> frozenset[int]:
        """The numbers of its trials."""
        return frozenset(trial.number for trial in self.trials)

    @property
    def trial(self) -> Trial:
        """The trial that it is for, or any of those that it is for.

        Raises:
            IndexError: It is a helper's or a victim's.
        """
        return self.trials[0]


def helper_job(number: int, scenario: Scenario, helper: Helper) -> Job:
    """Return the job that trains a helper; `number` is its own among those of the plan."""
    return Job(
        name=f"helper-{number:04d}",
        kind=JobKind.HELPER,
        stage="train_helper",
        text=f"helper {type(helper).__name__}",
        scenario=scenario,
        helper=helper,
    )


def victim_job(scenario: Scenario) -> Job:
    """Return the job that trains or imports a scenario's victim, and evaluates it."""
    return Job(
        name=f"victim-{scenario.number:04d}",
        kind=JobKind.VICTIM,
        stage="train_victim",
        text="victim",
        scenario=scenario,
    )


def trial_job(
    trial: Trial,
    position: int = 1,
    *,
    axes: Mapping[str, Axis] | None = None,
    stream: bool = False,
) -> Job:
    """Return the job that ends a trial; `position` is that of its method's last stage."""
    return Job(
        name=trial.name,
        kind=JobKind.TRIAL,
        stage="relearn",
        text=trial.setting.text,
        scenario=trial.scenario,
        trials=(trial,),
        position=position,
        axes=axes or {},
        stream=stream,
    )


@lru_cache(maxsize=1)
def here() -> str:
    """Return where this process is, as ``host:pid`` and its GPUs if it has some of its own."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    place = f"{socket.gethostname()}:{os.getpid()}"
    return f"{place} gpu {gpus}" if gpus else place


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is.

    Attributes:
        stage: The stage that runs.
        epoch: Epochs done.
        epochs: Epochs there will be at most.
        curve: For the last stage: ACC, ASR and RA on the monitor subset after each epoch.
        place: The process that made it.
        begins: Whether the job begins now; reported of jobs whose time is limited.
        pause: Seconds to wait before the next step, while another study computes the stage.
    """

    stage: str
    epoch: int
    epochs: int
    curve: tuple[tuple[float, float, float], ...] = ()
    place: str = field(default_factory=here, compare=False)
    begins: bool = False
    pause: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage that was executed and its result stored.

    Attributes:
        study: Identifier of the study that executed it.
    """

    stage: str
    key: str
    scenario: str
    seconds: float
    study: str


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job ended.

    Attributes:
        runs: Stages executed for it, in order.
        error: One line, if it failed by an exception; without places, as results are.
        told: The same for a person's eyes, places included.
        trace: The traceback that goes with it.
        fatal: Whether no other job can do better (a store that cannot be written to).
        spent: Seconds on its worker, or 0 where nobody counted.
        place: The process that made it.
    """

    runs: tuple[StageRun, ...] = ()
    error: str = ""
    told: str = ""
    trace: str = ""
    fatal: bool = False
    spent: float = 0.0
    place: str = field(default_factory=here, compare=False)

    @property
    def reason(self) -> str:
        """The failure, as a person reads it."""
        return self.told or self.error


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every worker of a study needs to know, whatever it works on.

    Attributes:
        store: Where results are.
        study: Identifier of the study, stored with each result.
        device: ``cpu`` or ``cuda``.
        threads: Threads of torch.
        keep_repaired: Whether repaired weights stay in the store after their evaluation.
        limits: What a job may take.
        expendable: Whether a job that does not stop in time ends its process.
    """

    store: Address
    study: str
    device: str = "cpu"
    threads: int = 1
    keep_repaired: bool = True
    limits: Limits = field(default_factory=Limits)
    expendable: bool = False


Drawn: TypeAlias = tuple[int, Values]  # a setting that is not known from the study alone
