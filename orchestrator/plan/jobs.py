"""The jobs of a study, the messages about them, and the groups that share an ascent."""

import os
import socket
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import ClassVar, TypeAlias

from orchestrator.address import Address
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.spec.model import Limits
from orchestrator.spec.space import Axis, Range, Values
from ulrl.attacks import Helper
from ulrl.scoring import ScoreConfig

OUT_OF_MEMORY = "out of memory"  # how the reason begins


@dataclass(frozen=True, kw_only=True)
class HelperJob:
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
class VictimJob:
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
class AscentJob:
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
class TrialJob:
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


Item: TypeAlias = HelperJob | VictimJob | AscentJob | TrialJob


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
class JobResult:
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


Drawn: TypeAlias = tuple[int, Values]  # a setting that is not known from the study alone


@dataclass(eq=False)
class AscentGroup:
    """Trials of a scenario that share an ascent.

    Attributes:
        shared: What the ascent depends on: of groups that agree in it, one makes it for all.
        floor: The lowest threshold that later settings may ask of the same ascent.
    """

    number: int
    scenario: Scenario
    shared: object
    floor: float | None = None
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def item(self) -> AscentJob:
        rules = {trial.hyperparameters.score: None for trial in self.trials}
        if self.floor is not None:
            rules |= {replace(rule, unlearn_threshold=self.floor): None for rule in rules}
        return AscentJob(
            number=self.number,
            trial=self.trials[0],
            rules=tuple(rules),
        )


class JobCatalog:
    """Every item that a plan may need.

    Where settings are drawn each has groups of its own, so that a worker which knows a
    setting knows its items.

    Attributes:
        helpers: In the order in which scenarios need them; one for all that can share it.
        groups: Trials that share an ascent.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._drawn = plan.study.search is not None
        self._floor = _lowest(plan.study.grid.settings.get("unlearn_threshold"))
        self.helpers: list[HelperJob] = []
        self._helper_of: dict[object, HelperJob] = {}
        for scenario in plan.scenarios:
            for helper in scenario.helpers:
                self._note(scenario, helper)
        self.groups: list[AscentGroup] = []
        self._by_number: dict[int, AscentGroup] = {}
        self._in_scenario: dict[int, list[AscentGroup]] = defaultdict(list)
        self._group_of: dict[int, AscentGroup] = {}
        self._found: dict[object, AscentGroup] = {}
        for trial in plan.trials:
            self.add(trial)

    def add(self, trial: Trial) -> AscentGroup:
        """Take in a trial and return its group."""
        parts = trial.hyperparameters
        shared = (trial.scenario.number, trial.defence_seed, parts.clean, parts.unlearn)
        name: object = trial.number if self._drawn else shared
        if name not in self._found:
            number = trial.number if self._drawn else len(self._found)
            floor = self._floor if self._drawn else None
            group = AscentGroup(number=number, scenario=trial.scenario, shared=shared, floor=floor)
            self._found[name] = self._by_number[number] = group
            self.groups.append(group)
            self._in_scenario[trial.scenario.number].append(group)
        self._found[name].trials.append(trial)
        self._group_of[trial.number] = self._found[name]
        return self._found[name]

    def _note(self, scenario: Scenario, helper: Helper) -> None:
        place = _shared_by(scenario, helper)
        if place not in self._helper_of:
            item = HelperJob(number=len(self.helpers), scenario=scenario, helper=helper)
            self._helper_of[place] = item
            self.helpers.append(item)

    def helpers_of(self, scenario: Scenario) -> list[HelperJob]:
        """Return what trains a scenario's helpers, in order."""
        return [self._helper_of[_shared_by(scenario, helper)] for helper in scenario.helpers]

    def group_of(self, trial: Trial) -> AscentGroup:
        """Return the trials that share their ascent with `trial`."""
        return self._group_of[trial.number]

    def trial_item(self, trial: Trial) -> TrialJob:
        """Return the item that works on `trial`."""
        return TrialJob(
            trial=trial,
            rules=self.group_of(trial).item.rules,
            stream=self._plan.study.prune.curve is not None,
        )

    def group(self, number: int) -> AscentGroup:
        """Return the group of that number."""
        return self._by_number[number]

    def known(self, trial: Trial) -> AscentGroup | None:
        """Return the group of a trial, if the catalogue has the trial."""
        return self._group_of.get(trial.number)

    def groups_in(self, scenario: int) -> list[AscentGroup]:
        """Return the groups of the scenario of that number."""
        return self._in_scenario[scenario]

    def drawn_for(self, item: Item) -> Drawn | None:
        """Return what a worker has to know to find an item by its name."""
        if not self._drawn or not isinstance(item, AscentJob | TrialJob):
            return None
        return item.trial.setting.number, item.trial.setting.values

    def item(self, name: str, drawn: Drawn | None = None) -> Item:
        """Return the item of that name; `drawn` is what `drawn_for` said of it."""
        kind, _, number = name.partition("-")
        if kind == "helper":
            return self.helpers[int(number)]
        if kind == "victim":
            return VictimJob(scenario=self._plan.scenarios[int(number)])
        if drawn is not None and int(number) not in self._group_of:
            for trial in self._plan.with_setting(*drawn):
                self.add(trial)
        if kind == "ascent":
            return self.group(int(number)).item
        if self._drawn:
            return self.trial_item(self.group(int(number)).trials[0])
        return self.trial_item(self._plan.trials[int(number)])


def _lowest(axis: Axis | None) -> float | None:
    """Return the lowest value that an axis of numbers admits."""
    if axis is None:
        return None
    return axis.low if isinstance(axis, Range) else min(axis)


def _shared_by(scenario: Scenario, helper: Helper) -> object:
    """Return what two scenarios must have in common to share a helper."""
    chain: list[Helper] = [helper]
    while (needed := chain[-1].needs) is not None:
        chain.append(needed)
    tied = any(one.of_victim for one in chain)
    architecture = scenario.architecture if tied else None
    return (helper, scenario.dataset, scenario.seed, architecture)
