"""The jobs of a study, and the messages about them."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import TypeAlias

from orchestrator.address import Address
from orchestrator.plan.columns import MODELS
from orchestrator.plan.plan import Scenario, Trial
from orchestrator.spec.model import Limits
from orchestrator.spec.space import Axis, Values
from ulrl.attacks import Helper
from ulrl.audits import Audit

OUT_OF_MEMORY = "out of memory"  # how the reason begins


class JobKind(StrEnum):
    """Where in the chain of stages a job stands."""

    HELPER = "helper"  # what an attack has trained before the victim
    VICTIM = "victim"
    STAGE = "stage"  # of a repair method, before its last one
    TRIAL = "trial"  # the last stage of a repair method, and the evaluation of its model
    AUDIT = "audit"  # of a victim or a repaired model


@dataclass(frozen=True, kw_only=True)
class AuditTarget:
    """An audit of a model.

    Attributes:
        audit: What looks at the model.
        place: Of the audit in the study file.
        trial: Whose repaired model is audited. For a victim, one that has the clean samples to
            audit it by.
        repaired: Whether it is the repaired model.
    """

    audit: Audit
    place: int
    trial: Trial
    repaired: bool


@dataclass(frozen=True, kw_only=True)
class Job:
    """A stage of a chain, for one worker."""

    name: str  # unique in the study, and the same wherever its plan is made
    kind: JobKind
    stage: str  # what limits and resources call it: one of `STAGES`
    text: str  # what people call it
    scenario: Scenario  # any of those that need it
    helper: Helper | None = None  # what a helper's job trains; what it needs is trained already
    trials: tuple[Trial, ...] = ()  # that a stage is for; the first stands for all
    position: int = 0  # of a repair method's stage
    audit: AuditTarget | None = None
    # The study's setting axes, where later settings may ask more of the same stage.
    axes: Mapping[str, Axis] = field(default_factory=dict)
    stream: bool = False  # whether every epoch is reported, because a pruner may stop the trial

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
        """The trial, or the first of the trials, of a repair method's stage."""
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


def audit_job(target: AuditTarget) -> Job:
    """Return the job that audits a model; `audit_of` reads its name."""
    model = MODELS[target.repaired]
    return Job(
        name=f"audit.{target.place}.{model}-{target.trial.number:05d}",
        kind=JobKind.AUDIT,
        stage="audit",
        text=f"audit of the {model}",
        scenario=target.trial.scenario,
        audit=target,
    )


def audit_of(noun: str, trial: Trial, audits: Sequence[Audit]) -> AuditTarget | None:
    """Return what an audit's job is for, by its name without the number and that trial."""
    kind, _, rest = noun.partition(".")
    if kind != JobKind.AUDIT:
        return None
    place, _, model = rest.partition(".")
    repaired = model == MODELS[True]
    return AuditTarget(audit=audits[int(place)], place=int(place), trial=trial, repaired=repaired)


@lru_cache(maxsize=1)
def here() -> str:
    """Return where this process is, as ``host:pid`` and its GPUs if it has some of its own."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    place = f"{socket.gethostname()}:{os.getpid()}"
    return f"{place} gpu {gpus}" if gpus else place


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a job is."""

    stage: str  # that runs
    epoch: int  # epochs done
    epochs: int  # there will be at most
    # For the last stage: ACC, ASR and RA on the monitor subset after each epoch; without an attack
    # ACC alone.
    curve: tuple[tuple[float, float | None, float | None], ...] = ()
    place: str = field(default_factory=here, compare=False)
    begins: bool = False  # whether the job begins now; reported of jobs whose time is limited
    pause: float = 0.0  # seconds to wait for another study that computes the stage


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """A stage that was executed and its result stored."""

    stage: str
    key: str
    scenario: str
    seconds: float
    study: str  # identifier of the study that executed it


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job ended."""

    runs: tuple[StageRun, ...] = ()  # stages executed for it, in order
    error: str = ""  # one line, if it failed; without places, as results are
    message: str = ""  # the same for the log and the terminal, places included
    trace: str = ""
    skipped: bool = False  # whether the error says that a repair method does not apply
    fatal: bool = False  # whether no other job can do better (a store that cannot be written to)
    spent: float = 0.0  # seconds on its worker, or 0 where they were not counted
    place: str = field(default_factory=here, compare=False)

    @property
    def reason(self) -> str:
        """The failure, as a person reads it."""
        return self.message or self.error


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every worker of a study needs to know, whatever it works on."""

    store: Address
    study: str  # identifier, stored with each result
    device: str = "cpu"  # or `cuda`
    threads: int = 1  # of torch
    keep_repaired: bool = True  # whether repaired weights stay in the store
    limits: Limits = field(default_factory=Limits)
    expendable: bool = False  # whether a job that does not stop in time ends its process


Drawn: TypeAlias = tuple[int, Values]  # a setting that is not known from the study alone
