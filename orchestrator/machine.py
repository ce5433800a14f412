"""What there is to compute on, and what a study's workers take of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.definition import Study
from orchestrator.errors import Unusable
from orchestrator.memory import share_of, worker_bytes
from orchestrator.plan import Scenario
from orchestrator.resources import STAGES, Device, Share
from orchestrator.work import Item, TrialItem
from ulrl.datasets import DatasetError

UNKNOWN_SET = (10, 32, 3, 50_000)  # classes, side, channels, images where a set is not here


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What of a machine changes the last bits of a result.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: Threads of torch on a CPU: sums are split among them.
    """

    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine.

    Attributes:
        memory: Of the smallest of its GPUs, in bytes; 0 where torch finds none.
    """

    cpus: float
    gpus: float
    memory: int = 0

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
    import torch

    cards = [
        torch.cuda.get_device_properties(card).total_memory
        for card in range(torch.cuda.device_count())
    ]
    memory = min(cards, default=0)
    return Node(cpus=os.cpu_count() or 1, gpus=len(cards), memory=memory)


class Shares:
    """What each item of a study takes, of machines like these.

    Attributes:
        device: Where torch computes.
    """

    def __init__(self, study: Study, nodes: Sequence[Node]) -> None:
        self._study = study
        said, resources = study.resources.gpus, study.resources
        there = any(node.gpus and node.memory for node in nodes)
        if resources.device is not None:
            self.device = resources.device
        else:
            wanted = any(said) or (there and 0 not in said)
            self.device = Device.CUDA if wanted else Device.CPU
        self._memory = min((node.memory for node in nodes if node.memory), default=0)
        self._known: dict[object, Share] = {}

    @property
    def compute(self) -> Compute:
        """What of the machines the results' keys know."""
        return Compute(device=self.device.value, threads=self._study.resources.cpu)

    def of(self, item: Item) -> Share:
        """Return what Ray keeps free for an item."""
        batch = None
        if isinstance(item, TrialItem):
            batch = item.trial.hyperparameters.relearn.relearn_batch_size
        return self._of(item.stage, item.scenario, batch)

    def all(self, scenarios: Sequence[Scenario]) -> dict[Share, str]:
        """Return every share that a study may ask for, with an item that asks for it."""
        found: dict[Share, str] = {}
        for scenario in scenarios:
            for stage in STAGES:
                share = self._of(stage, scenario, None)
                found.setdefault(share, f"{stage} of {scenario.architecture.name}")
        return found

    def likely(self, nodes: Sequence[Node], scenarios: Sequence[Scenario]) -> int:
        """Return how many items will be worked on at once, before anything is refused."""
        taken = self.all(scenarios)
        room = max(sum(node.room(share) for node in nodes) for share in taken)
        return self._study.resources.workers or max(1, room)

    def workers(self, nodes: Sequence[Node], scenarios: Sequence[Scenario]) -> int:
        """Return how many items are worked on at once on these nodes.

        Raises:
            Unusable: An item would wait for ever, or there is no room for so many workers.
        """
        cpus, gpus = (sum(getattr(node, what) for node in nodes) for what in ("cpus", "gpus"))
        if self.device is Device.CUDA and gpus and not any(node.memory for node in nodes):
            raise Unusable(
                "resources asks for a GPU, and torch finds none where Ray counts some; mend "
                "that, or compute on the CPU with resources.device: cpu"
            )
        there = f"this Ray has {cpus:g} CPUs and {gpus:g} GPUs"
        most = 0
        shares = self.all(scenarios)
        for share, what in shares.items():
            room = sum(node.room(share) for node in nodes)
            if not room and len(shares) > 1:
                several = f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
                raise Unusable(
                    f"resources asks for {share} for {what}, and no node has that; {there}{several}"
                )
            most = max(most, room)
        wanted = self._study.resources.workers or most
        if most < max(1, wanted):
            share = min(shares)
            raise Unusable(
                f"resources asks for {max(1, wanted)} workers of {share}; {there}, which is "
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
        try:
            facts = scenario.dataset.facts()
        except DatasetError:
            facts = None
        classes, side, channels, images = (
            (facts.classes, facts.side, facts.channels, facts.train_count) if facts else UNKNOWN_SET
        )
        usual = self._study.victim.config(
            scenario.dataset.name, scenario.poison.attack.name
        ).batch_size
        need = worker_bytes(
            scenario.architecture,
            classes=classes,
            channels=channels,
            side=side,
            images=images,
            batch=max(usual, batch or 0),
        )
        return share_of(need, self._memory)


def compute_here(study: Study) -> Compute:
    """Return what the keys of a study know that runs, or ran, on this machine."""
    return Shares(study, [this_machine()]).compute
