"""Sections `resources`, `limits` and `budget`: what counts where, and their mistakes."""

import pytest

from orchestrator.spec.dump import resolved_yaml
from orchestrator.spec.model import (
    STAGES,
    ArchitectureRequest,
    Budget,
    Device,
    Limits,
    ResourceRequest,
    Resources,
)
from tests.orchestrator_tests.spec_files import SMALL, load

pytestmark = pytest.mark.usefixtures("empty_folder")

FULL = """\
resources:
  workers: 3
  gpu: 0.25
  stages: {train_victim: {gpu: 1, cpu: 2}, relearn: {gpu: 0.5}}
  architectures: {preact_resnet18: {gpu: 2, stages: {relearn: {gpu: 0.125}}}}
limits: {minutes: {train_victim: 90, relearn: 1.5}, attempts: 5}
budget: {hours: 8, trials: 500}
"""


def test_everything_said() -> None:
    study = load(SMALL + FULL)
    assert study.resources == Resources(
        workers=3,
        cpu=1,
        gpu=0.25,
        device=None,
        stages={"train_victim": ResourceRequest(gpu=1, cpu=2), "relearn": ResourceRequest(gpu=0.5)},
        architectures={
            "preact_resnet18": ArchitectureRequest(
                gpu=2, stages={"relearn": ResourceRequest(gpu=0.125)}
            )
        },
    )
    assert study.limits == Limits(minutes={"train_victim": 90, "relearn": 1.5}, attempts=5)
    assert study.budget == Budget(hours=8, trials=500)
    again = load(resolved_yaml(study))
    assert again.resources == study.resources
    assert again.limits == study.limits
    assert again.budget == study.budget


def test_nothing_said() -> None:
    study = load(SMALL)
    assert study.resources == Resources()
    assert study.limits == Limits(minutes={}, attempts=3)
    assert study.budget == Budget(hours=None, trials=None)
    assert study.resources.asked("relearn", "vit_b_16") == (1, None)


def test_the_most_particular_line_counts() -> None:
    asked = load(SMALL + FULL).resources.asked
    assert asked("relearn", "preact_resnet18") == (1, 0.125)
    assert asked("train_victim", "preact_resnet18") == (2, 2)
    assert asked("unlearn", "preact_resnet18") == (1, 2)
    assert asked("relearn", "vgg19_bn") == (1, 0.5)
    assert asked("train_victim", "vgg19_bn") == (2, 1)
    assert asked("train_helper", "vgg19_bn") == (1, 0.25)


def test_one_number_of_minutes_is_every_stage() -> None:
    assert load(SMALL + "limits: {minutes: 30}\n").limits.minutes == dict.fromkeys(STAGES, 30)


def test_the_device() -> None:
    assert load(SMALL + "resources: {gpu: 1, device: cpu}\n").resources.device is Device.CPU
