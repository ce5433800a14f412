"""Work of each job, the measured speed of a machine, and the order that follows."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.plan.jobs import AuditTarget, Job, JobKind
from orchestrator.plan.plan import Plan, Scenario, Trial
from ulrl.attacks import Helper
from ulrl.datasets import Dataset, Preprocessing
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.methods import RepairStage
from ulrl.models import EVALUATION_BATCH, Architecture, Classifier, ModelSpec
from ulrl.poisoning import MONITOR_COUNT
from ulrl.precision import Precision
from ulrl.randomness import preserved_default_rng
from ulrl.supervised import VictimConfig
from ulrl.training_hooks import NO_HOOKS, TrainingHooks
from ulrl.unlearning import CLIMBS_TWICE, Finder

BUDGET = 4.0  # seconds for all that a plan wants to know
LEAST = 0.2  # seconds for one network
STEP_SECONDS = 0.004  # of a step besides its arithmetic, where nothing can be timed
EFFICIENCY = 0.4  # of the measured matrix-product rate that small convolutions reach
# A GPU of the H100's class where none is here; fitted to benchmarks/results/h200-speeds.json.
GPU_TRAINING, GPU_TESTS = 2.6e14, 1.5e14  # FLOP/s, in bf16 and in TF32
GPU_MEMORY = 4.2e12  # bytes/s
GPU_KERNELS = 0.0012  # seconds of a step's kernels besides their arithmetic
GPU_LAUNCHES = 0.0075  # seconds that launching a step takes at least where none is replayed
UPDATE_BYTES = 32  # that a step moves for a parameter: its casts, gradient, momentum and itself
LARGEST = 40_000_000  # parameters of what is built to be timed on a CPU
TRIED = 64  # images of a timed forward pass on a CPU
STEPS = 8  # of a timed epoch on a GPU, which is not to wait for what an epoch begins with


@dataclass(frozen=True, kw_only=True)
class StageShape:
    """All that seconds per image depend on, but for the machine."""

    architecture: Architecture
    classes: int
    channels: int
    side: int
    preprocessing: Preprocessing
    batch: int
    precision: Precision
    replayed: bool = True  # on a GPU, whether steps are recorded once


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per image."""

    train: float  # in a training step of the real batch size, augmentation included
    test: float  # in a prediction
    timed: bool  # whether measured here and now; otherwise it is arithmetic


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a network is, counted without building it."""

    forward: float  # FLOPs of one image
    parameters: int
    head: int  # weights of the last layer


UNKNOWN = Size(forward=1.0, parameters=1, head=1)


class Calibration:
    """Times each of some kinds of work once, within a few seconds for all."""

    def __init__(self, device: str, threads: int, kinds: int) -> None:
        here = device == "cpu" or torch.cuda.is_available()
        self._device = torch.device(device) if here else None
        self._threads = threads
        self._slice = max(LEAST, BUDGET / max(1, kinds))
        self._left = BUDGET
        self._known: dict[StageShape, Speed] = {}

    def speed(self, kind: StageShape) -> Speed:
        """Return how fast a kind of work goes."""
        if kind not in self._known:
            self._known[kind] = self._measure(kind)
        return self._known[kind]

    def _measure(self, kind: StageShape) -> Speed:
        size = size_of(kind.architecture, kind.classes, kind.channels, kind.side)
        cpu = self._device is not None and self._device.type == "cpu"
        guess = on_cpu(kind, size) if cpu else on_gpu(kind, size)
        short = self._left < LEAST or (cpu and size.parameters > LARGEST)
        if size == UNKNOWN or self._device is None or short or 6 * guess.train > self._slice:
            return guess
        began = time.perf_counter()
        try:
            with preserved_default_rng(), torch_threads(self._threads):
                return self._time(kind, self._device, guess)
        finally:
            self._left -= time.perf_counter() - began

    def _time(self, kind: StageShape, device: torch.device, guess: Speed) -> Speed:
        shape = {"classes": kind.classes, "channels": kind.channels, "side": kind.side}
        model_spec = ModelSpec(
            architecture=kind.architecture, preprocessing=kind.preprocessing, **shape
        )
        classifier = Classifier(model_spec, kind.architecture.build(**shape), device)
        count = max(2, min(kind.batch, int(self._slice / (6 * guess.train))))
        gpu = device.type == "cuda"
        seen = count * (STEPS if gpu else 1)
        images = torch.zeros((seen, kind.channels, kind.side, kind.side), dtype=torch.uint8)
        samples = Samples(images=images, labels=torch.zeros(seen, dtype=torch.int64))
        config = SGDConfig(
            epochs=1000, batch_size=count, rate=lambda _: 1e-4, precision=kind.precision
        )
        sources = Sources.of(0, "calibration")
        hooks = NO_HOOKS if kind.replayed else TrainingHooks()
        steps = train(classifier, samples, cross_entropy, config, sources, hooks)
        trained = self._repeat(lambda: next(steps))
        shown = images[: EVALUATION_BATCH if gpu else min(count, TRIED)].to(device)
        tested = self._repeat(lambda: classifier.predict(shown))
        return Speed(train=trained / seen, test=tested / len(shown), timed=True)

    def _repeat(self, act: Callable[[], object]) -> float:
        """Return the seconds of an act: the median of several, after a first that warms up."""
        act()
        spent: list[float] = []
        until = time.perf_counter() + self._slice / 3
        while not spent or (time.perf_counter() < until and len(spent) < 20):
            began = self._clock()
            act()
            spent.append(self._clock() - began)
        return median(spent)

    def _clock(self) -> float:
        """Return the time; on a CPU of computing, so that waiting for others does not count."""
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / self._threads


def on_gpu(kind: StageShape, size: Size) -> Speed:
    """Return about how fast a GPU of the H100's class would be."""
    moved = UPDATE_BYTES * size.parameters / GPU_MEMORY
    step = 3 * kind.batch * size.forward / GPU_TRAINING + moved + GPU_KERNELS
    if not kind.replayed:
        step = max(step, GPU_LAUNCHES)
    return Speed(train=step / kind.batch, test=size.forward / GPU_TESTS, timed=False)


def on_cpu(kind: StageShape, size: Size) -> Speed:
    """Return about how fast a thread of this machine is."""
    one = size.forward / (EFFICIENCY * _rate())
    return Speed(train=3 * one + STEP_SECONDS / kind.batch, test=one, timed=False)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside."""
    former = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(former)


@lru_cache
def size_of(architecture: Architecture, classes: int, channels: int, side: int) -> Size:
    """Return a network's size, counted on torch's meta device; `UNKNOWN` where it does not work."""
    shape = {"classes": classes, "channels": channels, "side": side}
    try:
        architecture.check(**shape)
    except ValueError:  # images of a file that is missing are guessed
        return UNKNOWN
    with torch.device("meta"):
        network = architecture.build(**shape).eval()
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            network(torch.empty(1, channels, side, side))
    head = architecture.head_for(**shape)
    return Size(
        forward=float(counter.get_total_flops()),
        parameters=sum(p.numel() for p in network.parameters()),
        head=sum(p.numel() for p in network.get_submodule(head).parameters()),
    )


@lru_cache
def _rate() -> float:
    """Return the FLOP/s of a matrix product on one thread of this machine, measured now."""
    a = torch.ones(512, 512)
    with torch_threads(1):
        a @ a
        began = time.process_time()
        for _ in range(20):
            a @ a
        elapsed = time.process_time() - began
    return 20 * 2 * 512**3 / max(elapsed, 1e-6)


ASCENT_EPOCHS = 8  # a typical ascent; it ends where the threshold is reached
METHOD_BATCH = 128  # images per step of a repair method whose batches nobody knows
BACKWARD = 2.0  # a step's way back costs about two ways forth


@dataclass(frozen=True, kw_only=True)
class JobLoad:
    """What a job computes."""

    trained: float  # images in training steps, each as often as it is seen
    tested: float  # images in forward passes alone
    batch: int  # images per step
    known: bool = True  # whether `trained` is sure: an ascent's length is not
    replayed: bool = True  # whether a GPU replays its steps, for networks that are `replayable`

    @property
    def passes(self) -> float:
        """All of it in forward passes of one image."""
        return (1 + BACKWARD) * self.trained + self.tested


class Workload:
    """The loads of a plan's jobs, by arithmetic on the study alone; no network is built."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._known: dict[Dataset, tuple[int, int]] = {}

    def of(self, job: Job) -> JobLoad:
        """Return what a job computes."""
        if job.helper is not None:
            return self.helper(job.scenario, job.helper)
        if job.kind is JobKind.VICTIM:
            return self.victim(job.scenario)
        if job.audit is not None:
            return self.audit(job.audit)
        return self.stage(job.trial, job.position)

    def audit(self, target: AuditTarget) -> JobLoad:
        """Return the load of an audit."""
        samples = self._samples(target.trial)[0] if target.audit.needs_samples else 0
        return JobLoad(
            trained=sum(stage.cost(samples) for stage in target.audit.stages),
            tested=0.0,
            batch=min(METHOD_BATCH, samples) or METHOD_BATCH,
            known=False,
            replayed=False,
        )

    def stage(self, trial: Trial, position: int) -> JobLoad:
        """Return the load of a stage of a trial's repair method."""
        if trial.method is None:
            return self.ascent(trial) if position == 0 else self.relearn(trial)
        samples, test = self._samples(trial)
        stage, last = trial.method.stages[position], position == len(trial.method.stages) - 1
        return JobLoad(
            trained=stage.cost(samples),
            tested=1.0 * test * stage.looks + (2.0 * test if last else 0.0),
            batch=min(METHOD_BATCH, samples),
            known=False,
            replayed=False,
        )

    def helper(self, scenario: Scenario, helper: Helper) -> JobLoad:
        """Return the load of what attacks train first."""
        config, (train, _) = self._config(scenario), self._counts(scenario)
        trained = helper.cost(config) * train
        return JobLoad(trained=trained, tested=0.0, batch=config.batch_size, replayed=helper.plain)

    def victim(self, scenario: Scenario) -> JobLoad:
        """Return the load of a victim and its evaluation.

        One that is imported is only evaluated, and so is a benign one, which is its helper's.
        """
        config, (train, test) = self._config(scenario), self._counts(scenario)
        trained = scenario.source is None and not scenario.benign
        return JobLoad(
            trained=config.epochs * train if trained else 0,
            tested=2.0 * test,
            batch=config.batch_size,
            replayed=not scenario.poison.stamps_in_training,
        )

    def ascent(self, trial: Trial) -> JobLoad:
        """Return the load of an ascent of typical length."""
        config = trial.hyperparameters.unlearn
        epochs = min(ASCENT_EPOCHS, config.unlearn_epochs) + self.planned_first_ascent(trial)
        load = self._phase(trial, epochs, config.unlearn_batch_size)
        looked = self._samples(trial)[0] if config.finder is Finder.PRIOR_SHIFT else 0
        return replace(load, tested=load.tested + looked, known=False)

    def planned_first_ascent(self, trial: Trial) -> int:
        """Return the epochs planned for an ascent before the one that is scored; 0 without one."""
        config = trial.hyperparameters.unlearn
        twice = config.finder in CLIMBS_TWICE
        return min(ASCENT_EPOCHS, config.unlearn_epochs) if twice else 0

    def relearn(self, trial: Trial) -> JobLoad:
        """Return the load of a relearning and its evaluation."""
        config = trial.hyperparameters.relearn
        load = self._phase(trial, config.relearn_epochs, config.relearn_batch_size)
        return replace(load, tested=load.tested + 2.0 * self._samples(trial)[1])

    def _config(self, scenario: Scenario) -> VictimConfig:
        attack = scenario.poison.attack.name
        return self._plan.study.victim.config(scenario.dataset.name, attack)

    def _counts(self, scenario: Scenario) -> tuple[int, int]:
        """Return training and test images; CIFAR-10's where the file that tells is missing."""
        dataset = scenario.dataset
        if dataset not in self._known:
            info = dataset.info()
            found = (info.train_count, info.test_count) if info else (50_000, 10_000)
            self._known[dataset] = found
        return self._known[dataset]

    def planned_passes(self, trial: Trial) -> float:
        """Return how often another method than ULRL trains on each clean sample, as it is planned.

        Every stage that the trial needs counts, shared with others or not. Forward passes alone
        count as a third of one in training where a stage's cost has them. A sweep of held-out
        accuracies counts where the rule chooses by it, although the stage takes it for any rule.
        """
        samples, _ = self._samples(trial)
        return 0.0 if trial.method is None else trial.method.cost(samples) / samples

    def _samples(self, trial: Trial) -> tuple[int, int]:
        """Return clean samples and test images."""
        train, test = self._counts(trial.scenario)
        return max(1, int(train * trial.hyperparameters.clean.clean_ratio)), test

    def _phase(self, trial: Trial, epochs: int, batch: int) -> JobLoad:
        samples, test = self._samples(trial)
        monitored = 2.0 * min(MONITOR_COUNT, test // 2)
        return JobLoad(
            trained=epochs * samples, tested=epochs * monitored, batch=min(batch, samples)
        )


def kind_of(trial: Trial, position: int) -> str:
    """Return what stages have in common that take as long per unit of load."""
    if trial.method is None:
        return ("ascent", "trial")[position]
    return f"repair.{trial.method.stages[position].name}"


def kinds_of(trial: Trial) -> list[str]:
    """Return the kinds of all stages of a trial's repair method."""
    count = 2 if trial.method is None else len(trial.method.stages)
    return [kind_of(trial, position) for position in range(count)]


def kinds_to_share(trials: Iterable[Trial]) -> set[str]:
    """Return the kinds of stages that may be fewer than a plan counts, as equal cuts share them.

    They are counted as if no two stages before them found the same.
    """
    methods = {trial.method: trial for trial in trials if trial.method is not None}
    return {
        kind_of(trial, position)
        for method, trial in methods.items()
        for position, stage in enumerate(method.stages)
        if position and type(stage).reads is not RepairStage.reads
    }


def machine_of(scenario: Scenario) -> tuple[str, str]:
    """Return what seconds per image depend on, besides the machine."""
    return scenario.architecture.label, scenario.dataset.label


Length = Callable[[Scenario], float]


def lengths(plan: Plan) -> Length:
    """Return how long the preparation of a scenario of `plan` is: FLOPs of helpers and victim.

    Networks are looked at only where scenarios differ in them. One that cannot be built fails
    where it is trained, not here.
    """
    workload = Workload(plan)
    differ = len({(s.architecture, s.dataset) for s in plan.scenarios}) > 1

    def length(scenario: Scenario) -> float:
        helpers = (workload.helper(scenario, helper) for helper in scenario.helpers)
        loads = [workload.victim(scenario), *helpers]
        return sum(load.passes for load in loads) * (_forward(scenario) if differ else 1.0)

    return length


def _forward(scenario: Scenario) -> float:
    try:
        return size_of(scenario.architecture, *shape_of(scenario.dataset)).forward
    except Exception:  # noqa: BLE001 - the order is advice
        return 0.0


def shape_of(dataset: Dataset) -> tuple[int, int, int]:
    """Return classes, channels and side; CIFAR-10's where the file that tells is missing."""
    info = dataset.info()
    return (info.classes, info.channels, info.side) if info else (10, 3, 32)
