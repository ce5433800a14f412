"""What a worker is handed, and what it hands back: plain values, no machinery."""

import os
import socket
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, TypeAlias

from orchestrator.address import Address
from orchestrator.plan import Scenario, Trial
from orchestrator.resources import Limits
from ulrl.attacks import Helper
from ulrl.scoring import ScoreConfig

OUT_OF_MEMORY = "out of memory"  # how the reason begins


@dataclass(frozen=True, kw_only=True)
class HelperItem:
    """Train what the attacks of several scenarios need first.

    Attributes:
        number: Among the helpers of the plan.
        scenario: Any of those that need it.
        helper: What to train; what it needs itself is trained already.
    """

    stage: ClassVar[str] = "train_helper"
    number: int
    scenario: Scenario
    helper: Helper

    @property
    def name(self) -> str:
        return f"helper-{self.number:04d}"

    @property
    def text(self) -> str:
        return f"helper {type(self.helper).__name__}"


@dataclass(frozen=True, kw_only=True)
class VictimItem:
    """Train and evaluate a scenario's victim."""

    stage: ClassVar[str] = "train_victim"
    scenario: Scenario

    @property
    def name(self) -> str:
        return f"victim-{self.scenario.number:04d}"

    @property
    def text(self) -> str:
        return "victim"


@dataclass(frozen=True, kw_only=True)
class AscentItem:
    """One ascent, and the scores of every setting that reads it.

    Attributes:
        number: Of the group of trials that share the ascent.
        trial: Any of them.
        rules: Their different scoring rules.
    """

    stage: ClassVar[str] = "unlearn"
    number: int
    trial: Trial
    rules: tuple[ScoreConfig, ...]

    @property
    def name(self) -> str:
        return f"ascent-{self.number:05d}"

    @property
    def scenario(self) -> Scenario:
        return self.trial.scenario

    @property
    def text(self) -> str:
        return "ascent"


@dataclass(frozen=True, kw_only=True)
class TrialItem:
    """Relearn and evaluate one trial.

    Attributes:
        rules: As for its ascent, should that have to be made again.
        stream: Whether every epoch is reported, because somebody may cut the trial.
    """

    stage: ClassVar[str] = "relearn"
    trial: Trial
    rules: tuple[ScoreConfig, ...]
    stream: bool

    @property
    def name(self) -> str:
        return self.trial.name

    @property
    def scenario(self) -> Scenario:
        return self.trial.scenario

    @property
    def text(self) -> str:
        return self.trial.setting.text


Item: TypeAlias = HelperItem | VictimItem | AscentItem | TrialItem


@lru_cache(maxsize=1)
def here() -> str:
    """Return where this process is, as ``host:pid`` and its GPUs if it has some of its own."""
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    place = f"{socket.gethostname()}:{os.getpid()}"
    return f"{place} gpu {gpus}" if gpus else place


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far an item is.

    Attributes:
        stage: The stage that runs.
        epoch: Epochs done.
        epochs: Epochs there will be at most.
        curve: For a relearning: ACC, ASR and RA on the monitor subset after each epoch.
        place: The process that made it.
        begins: Whether the item begins now; told of items whose time is limited.
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
class Finished:
    """How an item ended.

    Attributes:
        runs: Stages executed for it, in order.
        error: One line, if it failed by an exception; without places, as results are.
        told: The same for a person's eyes, places included.
        trace: The traceback that goes with it.
        fatal: Whether no other item can do better (a store that cannot be written to).
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
        """What to tell a person of the failure."""
        return self.told or self.error


@dataclass(frozen=True, kw_only=True)
class Site:
    """What every worker of a study needs to know, whatever it works on.

    Attributes:
        store: Where results are.
        study: Identifier of the study, kept with each result.
        device: ``cpu`` or ``cuda``.
        threads: Threads of torch.
        keep_repaired: Whether repaired weights stay in the store after their evaluation.
        limits: What an item may take.
        expendable: Whether an item that does not stop in time ends its process.
    """

    store: Address
    study: str
    device: str = "cpu"
    threads: int = 1
    keep_repaired: bool = True
    limits: Limits = field(default_factory=Limits)
    expendable: bool = False
