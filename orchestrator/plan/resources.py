"""Nodes, shares of nodes, and the GPU memory that jobs need."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import ResourceError
from orchestrator.plan.jobs import Job
from orchestrator.plan.plan import Scenario
from orchestrator.spec.model import STAGES, Device, Share, Study
from ulrl.datasets import DatasetError
from ulrl.models import Architecture
from ulrl.replay import SPARE

CONTEXT = 600_000_000  # bytes that CUDA and its libraries take in a process
STATES = 5  # a model's weights, gradients, momentum, and two copies: the victim's, the result's
KINDS_OF_SLACK = 1.5  # gradients of activations, workspaces, fragments
MOST_PER_GPU = 8  # workers on one GPU: with more, each only waits for the others
USABLE = 0.9  # of a GPU's memory


def worker_bytes(
    architecture: Architecture, *, classes: int, channels: int, side: int, images: int, batch: int
) -> float:
    """Return the bytes of GPU memory that a worker of this architecture is taken to need.

    ``context + spare + 4 states parameters + 1.5 batch saved + 2 images channels side²``, where
    `spare` is what torch keeps besides a recorded step's memory, `saved` what autograd saves of one
    image for the backward pass (counted, in 32 bits, on a network without storage), and the
    set's `images` lie there as bytes, once clean and once poisoned.
    """
    parameters, saved = _network(architecture, classes, channels, side)
    pixels = 2 * images * channels * side**2
    return CONTEXT + SPARE + 4 * STATES * parameters + KINDS_OF_SLACK * batch * saved + pixels


def share_of(need: float, memory: float) -> float:
    """Return the share of a GPU with so much memory: 1, 1/2 and so on to 1/8.

    Rounded down to four digits, which is what Ray counts in: three thirds fit on one GPU.
    """
    count = max(1, min(MOST_PER_GPU, int(USABLE * memory / need)))
    return int(10_000 / count) / 10_000


@lru_cache
def _network(
    architecture: Architecture, classes: int, channels: int, side: int
) -> tuple[int, float]:
    """Return a network's parameters, and the bytes that autograd keeps of one image."""
    batch = 2  # of one image, BatchNorm cannot be trained
    with torch.device("meta"):
        network = architecture.build(classes=classes, channels=channels, side=side).train()
        images = torch.empty(batch, channels, side, side)
    own = set(map(_storage, network.parameters()))
    saved: dict[int, Tensor] = {}  # the tensors stay alive, so that their storages do

    def save(tensor: Tensor) -> Any:
        if _storage(tensor) not in own:
            saved[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(images)
    size = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    return sum(p.numel() for p in network.parameters()), size / batch


def _storage(tensor: Tensor) -> int:
    """Return what tensors that share memory have in common, also where there is none."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]  # noqa: SLF001


UNKNOWN_SET = (10, 32, 3, 50_000)  # classes, side, channels, images where a set is not here


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What of a machine changes the last bits of a result."""

    device: str = "cpu"  # or `cuda`
    threads: int = 1  # of torch on a CPU: sums are split among them


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine."""

    cpus: float
    gpus: float
    memory: int = 0  # of the smallest of its GPUs, in bytes; 0 where torch finds none

    def room(self, share: Share) -> int:
        """Return how many workers of this share fit; a fraction never spans two GPUs."""
        by_cpu = int(self.cpus // share.cpu)
        if not share.gpu:
            return by_cpu
        if share.gpu <= 1:
            return min(by_cpu, int(self.gpus) * int(1 / share.gpu + 1e-9))
        return min(by_cpu, int(self.gpus // share.gpu))


def this_machine() -> Node:
    """Return what this process could use."""
    cards = range(torch.cuda.device_count())
    memory = [torch.cuda.get_device_properties(card).total_memory for card in cards]
    return Node(cpus=os.cpu_count() or 1, gpus=len(cards), memory=min(memory, default=0))


class Shares:
    """What each job of a study takes, of machines like these."""

    def __init__(self, study: Study, nodes: Sequence[Node]) -> None:
        self._study = study
        gpus = study.resources.gpus
        there = any(node.gpus and node.memory for node in nodes)
        wanted = any(gpus) or (there and 0 not in gpus)
        usual = Device.CUDA if wanted else Device.CPU
        self.device = study.resources.device or usual  # where torch computes
        self._memory = min((node.memory for node in nodes if node.memory), default=0)
        self._known: dict[object, Share] = {}

    @property
    def compute(self) -> Compute:
        """What of the machines the results' keys know."""
        return Compute(device=self.device.value, threads=self._study.resources.cpu)

    def of(self, job: Job) -> Share:
        """Return what Ray keeps free for a job."""
        relearn = job.trial.hyperparameters.relearn if job.is_trial else None
        batch = relearn.relearn_batch_size if relearn else None
        return self._of(job.stage, job.scenario, batch)

    def all(self, scenarios: Sequence[Scenario]) -> dict[Share, str]:
        """Return every share that a study may ask for, with a job that asks for it."""
        found: dict[Share, str] = {}
        for scenario in scenarios:
            for stage in STAGES:
                share = self._of(stage, scenario, None)
                found.setdefault(share, f"{stage} of {scenario.architecture.name}")
        return found

    def likely(self, nodes: Sequence[Node], scenarios: Sequence[Scenario]) -> int:
        """Return how many jobs will be worked on at once, before anything is refused."""
        taken = self.all(scenarios)
        room = max(sum(node.room(share) for node in nodes) for share in taken)
        return self._study.resources.workers or max(1, room)

    def workers(self, nodes: Sequence[Node], scenarios: Sequence[Scenario]) -> int:
        """Return how many jobs are worked on at once on these nodes.

        Raises:
            ResourceError: A job would never start, or there is no room for so many workers.
        """
        cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
        if self.device is Device.CUDA and gpus and not any(node.memory for node in nodes):
            raise ResourceError(
                "resources asks for a GPU, and torch finds none where Ray counts some; fix "
                "that, or compute on the CPU with resources.device: cpu"
            )
        there = f"this Ray has {cpus:g} CPUs and {gpus:g} GPUs"
        shares = self.all(scenarios)
        rooms = {share: sum(node.room(share) for node in nodes) for share in shares}
        for share, what in shares.items() if len(shares) > 1 else ():
            if not rooms[share]:
                several = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
                raise ResourceError(
                    f"resources asks for {share} for {what}, and no node has that; {there}{several}"
                )
        most = max(rooms.values())
        wanted = self._study.resources.workers or most
        if most < max(1, wanted):
            raise ResourceError(
                f"resources asks for {max(1, wanted)} workers of {min(shares)}; {there}, which is "
                f"room for {most}"
            )
        return wanted

    def _of(self, stage: str, scenario: Scenario, batch: int | None) -> Share:
        name = (stage, scenario.architecture, scenario.dataset, batch)
        if name not in self._known:
            cpu, gpu = self._study.resources.asked(stage, scenario.architecture.name)
            if gpu is None:
                gpu = self._by_memory(scenario, batch)
            self._known[name] = Share(cpu=cpu, gpu=gpu)
        return self._known[name]

    def _by_memory(self, scenario: Scenario, batch: int | None) -> float:
        if self.device is Device.CPU:
            return 0.0
        if not self._memory:
            return 1.0
        info = None
        with suppress(DatasetError):
            info = scenario.dataset.info()
        classes, side, channels, images = (
            (info.classes, info.side, info.channels, info.train_count) if info else UNKNOWN_SET
        )
        config = self._study.victim.config(scenario.dataset.name, scenario.poison.attack.name)
        need = worker_bytes(
            scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            images=images,
            batch=max(config.batch_size, batch or 0),
        )
        return share_of(need, self._memory)


def compute_here(study: Study) -> Compute:
    """Return what the keys of a study know that runs, or ran, on this machine."""
    return Shares(study, [this_machine()]).compute
