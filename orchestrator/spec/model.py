"""The study as frozen dataclasses: grid, rules, resources, search, pruning, tracking."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from orchestrator.address import Address
from orchestrator.spec.rules import RuleError, TrackingUri, nearest
from orchestrator.spec.space import Axis, DrawnMethod, Space, Span
from ulrl.attacks import Attack, LabelRule, Stamp
from ulrl.audits import Audit
from ulrl.datasets import Dataset, Preprocessing, check_normalisation
from ulrl.hyperparameters import Preset, names
from ulrl.interchange import zoo_name
from ulrl.methods import ULRL, RepairMethod
from ulrl.metrics import CleanMetrics, Metrics
from ulrl.models import Architecture
from ulrl.plugins import Plugin
from ulrl.poison import Poison
from ulrl.recipes import VictimRecipe
from ulrl.registry import options_of

# What an item is begun for.
STAGES = ("train_helper", "train_victim", "unlearn", "relearn", "audit")
# Stages that run inside another's item and have no worker of their own.
_INNER = {"score_neurons": "unlearn", "evaluate": "train_victim and relearn"}
_STRICT = ConfigDict(extra="forbid")
MOST_HOURS = 24 * 366 * 10  # ten years: a larger number is in seconds


def _stage(name: str) -> str:
    if name in _INNER:
        raise ValueError(f"{name} has no worker of its own; it runs with {_INNER[name]}")
    if name not in STAGES:
        raise ValueError(f"unknown key{nearest(name, STAGES, 'the keys are')}")
    return name


def _share(gpu: float) -> float:
    if gpu > 1 and not gpu.is_integer():
        raise RuleError("at most 1, or a whole number")
    return gpu


def _every_stage(minutes: Any) -> Any:
    return minutes if isinstance(minutes, dict) else dict.fromkeys(STAGES, minutes)


# What pydantic reads in a study file, where these dataclasses are its sections.
Stage = Annotated[str, AfterValidator(_stage)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Cpus = Annotated[int, Field(ge=1, le=1024)]  # of one worker: no machine has more
Gpu = Annotated[float, Field(ge=0, le=64), AfterValidator(_share)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Minutes = Annotated[float, Field(gt=0, le=60 * MOST_HOURS)]
StageMinutes = Annotated[Mapping[Stage, Minutes], BeforeValidator(_every_stage)]


class Device(StrEnum):
    """Where torch computes."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True, kw_only=True)
class ResourceRequest:
    """What one entry of the file asks for; None leaves it to the next, more general one."""

    __pydantic_config__ = _STRICT

    cpu: Cpus | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True, kw_only=True)
class ArchitectureRequest(ResourceRequest):
    """What a file asks for an architecture, and for stages of it."""

    stages: Mapping[Stage, ResourceRequest] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Share:
    """What Ray keeps free for one worker: whole CPUs; part of one GPU, or whole ones."""

    cpu: int = 1
    gpu: float = 0.0

    def __str__(self) -> str:
        return f"{self.cpu} CPU and {self.gpu:g} GPU"


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Workers at once, and the share of each.

    The most specific entry counts: a stage of an architecture, the architecture, the stage, the
    study. What none says, the machine or the cluster decides.
    """

    __pydantic_config__ = _STRICT

    workers: Count | None = None  # items worked on at once; None is what there is room for
    # CPUs of a worker, and threads of torch, on which results' last bits depend. A stage or an
    # architecture may ask for more CPUs: fewer run at once, and torch's threads stay these.
    cpu: Cpus = 1
    gpu: Gpu | None = None  # None is by memory where there is a GPU
    device: Device | None = None  # None is `cuda` if a worker has a share of a GPU
    stages: Mapping[Stage, ResourceRequest] = field(default_factory=dict)
    # By the bare name, for every variant of it.
    architectures: Mapping[str, ArchitectureRequest] = field(default_factory=dict)

    def asked(self, stage: str, architecture: str) -> tuple[int, float | None]:
        """Return the CPUs and the share of a GPU that the file asks for; None is not said."""
        of_architecture = self.architectures.get(architecture, ArchitectureRequest())
        asks = (
            of_architecture.stages.get(stage, ResourceRequest()),
            of_architecture,
            self.stages.get(stage, ResourceRequest()),
            ResourceRequest(cpu=self.cpu, gpu=self.gpu),
        )
        cpu = next(ask.cpu for ask in asks if ask.cpu is not None)
        return cpu, next((ask.gpu for ask in asks if ask.gpu is not None), None)

    @property
    def gpus(self) -> tuple[float, ...]:
        """Every share of a GPU that the file names."""
        lines = [self.gpu, *(request.gpu for _, request in self.requests())]
        return tuple(gpu for gpu in lines if gpu is not None)

    def requests(self) -> Iterator[tuple[tuple[str, ...], ResourceRequest]]:
        """Yield every line that asks for stages and architectures, with the keys to it."""
        for stage, request in self.stages.items():
            yield ("stages", stage), request
        for name, architecture in self.architectures.items():
            yield ("architectures", name), architecture
            for stage, request in architecture.stages.items():
                yield ("architectures", name, "stages", stage), request


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one item may take: minutes by stage, and starts if its worker dies."""

    __pydantic_config__ = _STRICT

    minutes: StageMinutes = field(default_factory=dict)
    attempts: Count = 3

    def seconds(self, stage: str) -> float | None:
        """Return what an item of a stage may take; None is no limit."""
        return self.minutes[stage] * 60 if stage in self.minutes else None

    def overdue(self, stage: str) -> str:
        """Return the error of an item that worked longer."""
        return f"worked longer than limits.minutes, which is {self.minutes[stage]:g}"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Hours and trials after which one start of the command begins nothing; None is no limit."""

    __pydantic_config__ = _STRICT

    hours: Annotated[float, Field(gt=0, le=MOST_HOURS)] | None = None
    trials: Count | None = None


SCENARIO_AXES = ("attack", "dataset", "architecture", "poison_ratio", "target_label", "seed")
# Setting axes with a column of their own in every table; further ones follow as in the file.
FIRST_SETTINGS = ("defence_seed", "clean_ratio", "unlearn_threshold", "reinit_ratio")


class Objective(StrEnum):
    """What a study seeks, on the selection half."""

    DER = "der"
    ASR = "asr"
    ACC = "acc"
    RA = "ra"

    @property
    def maximise(self) -> bool:
        return self is not Objective.ASR


DIRECTIONS = {True: "maximize", False: "minimize"}  # as Optuna calls them


@dataclass(frozen=True, kw_only=True)
class OwnObjective:
    """A metric of the user's that a study seeks on the selection half."""

    value: str
    maximise: bool


class LogModels(StrEnum):
    """Which repaired models MLflow gets."""

    BEST = "best"
    ALL = "all"
    NONE = "none"


class AuditedModels(StrEnum):
    """Which models a study audits."""

    VICTIM = "victim"  # victims, and the benign models of `attack: none`
    BEST = "best"  # these, and each scenario's best repaired model of each repair method
    ALL = "all"  # these, and every repaired model


@dataclass(frozen=True, kw_only=True)
class AttackChoice:
    """One entry of the attack axis: the trigger with its options, and how it poisons."""

    attack: Attack
    labels: LabelRule
    stamp: Stamp = Stamp.BEFORE_AUGMENTATION
    poison_ratio: float | None = None  # None: the axis of that name applies
    source: tuple[int, ...] = ()  # classes, under `labels: source_specific`

    def poison(self, poison_ratio: float, target_label: int) -> Poison:
        """Return what the attacker does at this ratio, with this target: `none` has neither."""
        if self.attack.benign:
            return Poison(attack=self.attack, labels=self.labels, poison_ratio=0.0)
        return Poison(
            attack=self.attack,
            labels=self.labels,
            poison_ratio=poison_ratio,
            target_label=target_label,
            stamp=self.stamp,
            source=self.source,
        )

    @property
    def usual_source(self) -> tuple[int, ...]:
        """The source classes of an entry that names none."""
        specific = self.labels is LabelRule.SOURCE_SPECIFIC
        return self.attack.default_source if specific else ()


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The axes. Scenario axes have values; a setting axis may instead be a range."""

    attacks: tuple[AttackChoice, ...]
    datasets: tuple[Dataset, ...]
    architectures: tuple[Architecture, ...]
    poison_ratios: tuple[float, ...] = (0.1,)
    target_labels: tuple[int, ...] = (0,)
    seeds: tuple[int, ...] = (0,)
    # The axes that the file names: `FIRST_SETTINGS`, then others as in the file. Where an axis is
    # not named, the plan takes the scenario's seed and the preset's values.
    settings: Mapping[str, Axis] = field(default_factory=dict)

    @cached_property
    def spaces(self) -> Mapping[str, Space]:
        """What a setting of each repair method can be; ULRL's axes have no value for others."""
        entries = self.settings.get("repair")
        if not isinstance(entries, tuple):
            return {ULRL: Space(self.settings)}
        spaces = {}
        for name in dict.fromkeys(entry.name for entry in entries):
            axes = {
                axis: (None,) if name != ULRL and is_of_ulrl(axis) else values
                for axis, values in self.settings.items()
            }
            axes["repair"] = tuple(entry for entry in entries if entry.name == name)
            spaces[name] = Space(axes)
        return spaces


@dataclass(frozen=True, kw_only=True)
class Search:
    """How settings are drawn, instead of taking every combination."""

    sampler: str  # one of Optuna's, by its name in snake case
    settings: int  # of each repair method to draw in all, its own defaults among them
    seed: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Combinations to leave out: every condition must hold.

    Conditions are the values that match, by axis: for attack, dataset and architecture a bare
    name, which matches every variant, or an entry of the axis; else values, or a `Span` of them.
    """

    conditions: Mapping[str, tuple[Any, ...]]


def is_of_ulrl(axis: str) -> bool:
    """Whether a setting axis means nothing to repair methods other than ULRL."""
    return axis == "preset" or (axis in names() and names()[axis][0] != "clean")


def holds(conditions: Mapping[str, Sequence[Any]], point: Mapping[str, Any]) -> bool:
    """Return whether a point of the grid, by axis, meets every condition.

    ULRL's axes have no value for other methods, which null does not match either.
    """
    method = point.get("repair")
    if method is not None and method.name != ULRL and any(map(is_of_ulrl, conditions)):
        return False
    return all(matches(wanted, point[axis]) for axis, wanted in conditions.items())


def matches(wanted: Sequence[Any], value: Any) -> bool:
    """Return whether one of the wanted values is this one, its name, its label or a span around."""
    if isinstance(value, AttackChoice):
        return value in wanted or value.attack.name in wanted
    if isinstance(value, Dataset):
        return value in wanted or value.label in wanted or value.name in wanted
    if isinstance(value, Architecture):
        return value in wanted or value.called in wanted or value.name in wanted
    if isinstance(value, RepairMethod | DrawnMethod):
        return value in wanted or value.name in wanted
    return value in wanted or any(isinstance(one, Span) and value in one for one in wanted)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What a network subtracts from pixels in [0, 1] and divides by: a number, or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)

    def of(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return a dataset's preprocessing with these numbers instead of its own."""
        channels = len(preprocessing.mean)
        mean, std = (v * channels if len(v) == 1 else v for v in (self.mean, self.std))
        return replace(preprocessing, mean=mean, std=std)


@dataclass(frozen=True, kw_only=True)
class VictimImport:
    """Where pre-trained victims lie."""

    path: str  # names of scenario axes in braces stand for their values
    backdoorbench: bool = False  # whether they lie below it in folders named as in its zoo
    normalisation: Normalisation | None = None  # None is the dataset's
    # Which scenarios it serves, as for an exclusion; none is all of them.
    conditions: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


BRACES = re.compile(r"\{([^{}]*)\}")


def import_path(entry: VictimImport, names: Mapping[str, Any]) -> str:
    """Return where an entry's victim lies, for a scenario's values by axis."""
    path = Path(BRACES.sub(lambda found: str(names[found[1]]), entry.path))
    if entry.backdoorbench:
        axes = ("dataset", "architecture", "attack", "poison_ratio")
        path /= zoo_name(**{axis: names[axis] for axis in axes})
    return str(path)


@dataclass(frozen=True, kw_only=True)
class PrunerChoice:
    """One of Optuna's pruners, by its name in snake case, with its own arguments."""

    pruner: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Prune:
    """The pruners, if any."""

    setting: PrunerChoice | None = None  # across scenarios: settings unlikely to be the best
    curve: PrunerChoice | None = None  # within a scenario: trials, by their relearning curve


@dataclass(frozen=True, kw_only=True)
class VictimRule:
    """What a victim must reach on the selection half to count as one; a benign one has no ASR."""

    min_acc: Fraction = 0.5
    min_asr: Fraction = 0.8

    def admits(self, reached: CleanMetrics) -> bool:
        """Whether a victim with these metrics took."""
        obeys = not isinstance(reached, Metrics) or reached.asr >= self.min_asr
        return reached.acc >= self.min_acc and obeys


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Where MLflow's record goes, and which repaired models the store keeps."""

    __pydantic_config__ = _STRICT

    uri: TrackingUri  # None is no MLflow
    log_models: LogModels = LogModels.BEST
    register: bool = False  # the best model of each scenario, under the alias `best`

    def __post_init__(self) -> None:
        if self.register and self.log_models is LogModels.NONE:
            raise ValueError("register wants models that are logged; let log_models be best or all")
        if self.register and self.uri is None:
            raise ValueError("register wants MLflow; leave it out, or let uri be an address")


@dataclass(frozen=True, kw_only=True)
class Study:
    """Everything a study file says, defaults filled in, paths absolute."""

    name: str
    source: str  # the file as the user named it, for messages
    # Before the grid, which holds objects of their classes: a worker loads them first.
    plugins: tuple[Plugin, ...] = ()
    grid: Grid
    preset: Preset = Preset.DEFAULT
    exclude: tuple[Exclusion, ...] = ()
    search: Search | None = None  # None is every combination
    victim: VictimRecipe = field(default_factory=VictimRecipe)
    imports: tuple[VictimImport, ...] = ()  # the first that matches counts
    victim_rule: VictimRule = field(default_factory=VictimRule)
    prune: Prune = field(default_factory=Prune)
    objective: Objective | OwnObjective = Objective.DER
    metrics: tuple[str, ...] = ()  # the user's own
    audits: tuple[Audit, ...] = ()
    audited: AuditedModels = AuditedModels.BEST
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    budget: Budget = field(default_factory=Budget)
    optuna_storage: Address | None = None  # None is a journal in the study folder, at the end
    mlflow: Tracking
    store: Address
    labels: Mapping[str, str] = field(default_factory=dict)  # what the report calls names
    # Where the file has each attack, dataset and architecture of the grid, by axis, for messages.
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict, compare=False, repr=False)


def attack_options(choice: AttackChoice, *, paths: bool = False) -> dict[str, Any]:
    """Return what an entry of the attack axis says beyond the attack's name.

    Without `paths`, files have no folders.
    """
    attack_class: Any = type(choice.attack)  # a dataclass, as every registered one
    places = {part.name for part in fields(attack_class) if part.metadata.get("runtime")}
    places = set() if paths else places
    options = {
        name: Path(value).name if name in places else value
        for name, value in options_of(choice.attack).items()
    }
    if choice.labels is not choice.attack.label_rules[0]:
        options["labels"] = choice.labels.value
    if choice.stamp is not choice.attack.default_stamp:
        options["stamp"] = choice.stamp.value
    if choice.source != choice.usual_source:
        options["source"] = choice.source
    return options
