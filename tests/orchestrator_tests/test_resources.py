"""Shares of a machine: by the file, by memory, and what has room where."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from orchestrator.errors import ResourceError
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.plan.jobs import trial_job, victim_job
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import CONTEXT, Node, Shares, share_of, worker_bytes
from orchestrator.spec.model import (
    ArchitectureRequest,
    Device,
    ResourceRequest,
    Resources,
    Share,
    Study,
)
from tests.orchestrator_tests.spec_files import SMALL, load
from ulrl.models import Architecture
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.models.vgg import VGG19BN
from ulrl.replay import SPARE

NO_GPU, ONE_GPU = Node(cpus=8, gpus=0), Node(cpus=8, gpus=1, memory=80_000_000_000)


def shares_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **resources: object) -> Study:
    monkeypatch.chdir(tmp_path)
    return replace(load(SMALL), resources=Resources(**resources))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("share", "gpus", "room"),
    [  # Ray's own table, for declared GPUs: a fraction never spans two
        (Share(1, 0.5), 2, 4),
        (Share(1, 2), 3, 1),
        (Share(1, 0.3333), 2, 6),
        (Share(3, 0.125), 2, 2),
        (Share(2, 0), 0, 4),
        (Share(9, 0), 0, 0),
        (Share(1, 0.1), 0, 0),
    ],
)
def test_room_on_a_node(share: Share, gpus: int, room: int) -> None:
    assert Node(cpus=8, gpus=gpus).room(share) == room


def test_every_item_takes_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shares_of(
        tmp_path,
        monkeypatch,
        gpu=0.25,
        stages={"train_victim": ResourceRequest(gpu=1, cpu=4)},
        architectures={
            "preact_resnet18": ArchitectureRequest(stages={"unlearn": ResourceRequest(gpu=2)})
        },
    )
    plan = make_plan(study)
    shares = Shares(study, [NO_GPU])
    trial = plan.trials[0]
    found = [
        shares.of(victim_job(trial.scenario)),
        shares.of(JobCatalog(plan).groups[0].job),
        shares.of(trial_job(trial)),
    ]
    assert found == [Share(4, 1), Share(1, 2), Share(1, 0.25)]
    assert shares.device is Device.CUDA
    assert set(shares.all(plan.scenarios)) == {*found, Share(1, 0.25)}


@pytest.mark.parametrize(
    ("resources", "node", "device"),
    [
        ({}, NO_GPU, "cpu"),
        ({}, ONE_GPU, "cuda"),
        ({"gpu": 0}, ONE_GPU, "cpu"),
        ({"gpu": 0.5}, NO_GPU, "cuda"),
        ({"gpu": 0.5, "device": Device.CPU}, ONE_GPU, "cpu"),
        ({"stages": {"relearn": ResourceRequest(gpu=1)}}, NO_GPU, "cuda"),
        ({}, Node(cpus=8, gpus=2), "cpu"),  # declared, and torch finds none
    ],
)
def test_the_device(
    resources: dict[str, object],
    node: Node,
    device: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shares = Shares(shares_of(tmp_path, monkeypatch, **resources), [NO_GPU, node])
    assert shares.device.value == device
    assert shares.compute.device == device


def test_workers_are_what_there_is_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = shares_of(tmp_path, monkeypatch, gpu=0.5, device=Device.CPU)
    scenarios = make_plan(study).scenarios
    nodes = [Node(cpus=8, gpus=2), Node(cpus=1, gpus=2), Node(cpus=8, gpus=0)]
    assert Shares(study, nodes).workers(nodes, scenarios) == 5
    three = replace(study, resources=replace(study.resources, workers=3))
    assert Shares(three, nodes).workers(nodes, scenarios) == 3
    six = replace(study, resources=replace(study.resources, workers=6))
    rule = (
        "resources asks for 6 workers of 1 CPU and 0.5 GPU; this Ray has 17 CPUs and 4 GPUs, "
        "which is room for 5"
    )
    with pytest.raises(ResourceError) as caught:
        Shares(six, nodes).workers(nodes, scenarios)
    assert str(caught.value) == rule


def test_a_share_that_no_node_has_is_refused_by_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = {"train_victim": ResourceRequest(cpu=9)}
    study = shares_of(tmp_path, monkeypatch, gpu=0, stages=asks)
    with pytest.raises(ResourceError) as caught:
        Shares(study, [NO_GPU]).workers([NO_GPU, NO_GPU], make_plan(study).scenarios)
    assert str(caught.value) == (
        "resources asks for 9 CPU and 0 GPU for train_victim of preact_resnet18, and no node has "
        "that; this Ray has 16 CPUs and 0 GPUs on 2 nodes"
    )


@pytest.mark.parametrize(
    ("need", "memory", "share"),
    [
        (81e9, 80e9, 1.0),  # too large even so: it is the trial that fails
        (40e9, 80e9, 1.0),  # a tenth is kept free
        (36e9, 80e9, 0.5),
        (24e9, 80e9, 0.3333),
        (1e9, 80e9, 0.125),  # never more than eight
    ],
)
def test_a_share_by_memory(need: float, memory: float, share: float) -> None:
    assert share_of(need, memory) == share
    assert round(1 / share) * share <= 1


def test_by_memory_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = shares_of(tmp_path, monkeypatch)
    plan = make_plan(study)
    trial = plan.trials[0]
    need = worker_bytes(
        trial.scenario.architecture, classes=10, channels=3, side=16, images=1347, batch=128
    )
    for memory in (int(need * 1.2), int(need * 2.3), int(need * 100)):
        share = Shares(study, [Node(cpus=8, gpus=1, memory=memory)]).of(trial_job(trial))
        assert share == Share(1, share_of(need, memory))
    smallest = [Node(cpus=8, gpus=1, memory=int(need * 1.2)), ONE_GPU]
    assert Shares(study, smallest).of(victim_job(trial.scenario)).gpu == 1


@pytest.mark.parametrize("architecture", [PreActResNet18(width=4), VGG19BN(width=4)])
@pytest.mark.parametrize("batch", [12])
def test_the_estimate_counts_what_a_step_keeps(architecture: Architecture, batch: int) -> None:
    """Against a real forward pass: the sum of the tensors that autograd holds on to."""
    network = architecture.build(classes=10, channels=3, side=32).train()
    own = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = network(torch.rand(batch, 3, 32, 32))
    parameters = sum(p.numel() for p in network.parameters())
    need = worker_bytes(architecture, classes=10, channels=3, side=32, images=0, batch=batch)
    counted = (need - CONTEXT - SPARE - 20 * parameters) / 1.5
    assert counted == pytest.approx(sum(kept.values()), rel=0.1)
    del loss
