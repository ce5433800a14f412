"""Sections `resources`, `limits` and `budget`: what counts where, and their mistakes."""

from pathlib import Path

import pytest

from orchestrator.spec.load import resolved_yaml
from orchestrator.spec.model import (
    STAGES,
    ArchitectureRequest,
    Budget,
    Device,
    Limits,
    ResourceRequest,
    Resources,
)
from tests.orchestrator_tests.spec_files import SMALL, load, mistakes

FULL = """\
resources:
  workers: 3
  gpu: 0.25
  stages: {train_victim: {gpu: 1, cpu: 2}, relearn: {gpu: 0.5}}
  architectures: {preact_resnet18: {gpu: 2, stages: {relearn: {gpu: 0.125}}}}
limits: {minutes: {train_victim: 90, relearn: 1.5}, attempts: 5}
budget: {hours: 8, trials: 500}
"""


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


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


THEY_ARE = "they are preact_resnet18"
CASES = {
    "resources: {stages: {train_victm: {gpu: 1}}}\n": (
        "6: resources.stages.train_victm: unknown key; did you mean 'train_victim'?"
    ),
    "resources: {stages: {evaluate: {gpu: 1}}}\n": (
        "6: resources.stages.evaluate: evaluate has no worker of its own; it runs with "
        "train_victim and relearn"
    ),
    "resources: {stages: {relearn: {gpu: 1.5}}}\n": (
        "6: resources.stages.relearn.gpu: gpu is at most 1, or a whole number; got 1.5"
    ),
    "resources: {stages: 3}\n": "6: resources.stages: stages is a mapping; got 3",
    "resources: {stages: {relearn: 3}}\n": (
        "6: resources.stages.relearn: relearn is a mapping; got 3"
    ),
    "resources: {cpu: 4, stages: {relearn: {cpu: 2}}}\n": (
        "6: resources.stages.relearn.cpu: cpu is at least resources.cpu, torch's threads, "
        "which are 4; got 2"
    ),
    "resources: {architectures: {preact_resnet: {gpu: 1}}}\n": (
        "6: resources.architectures.preact_resnet: no architecture of this grid is called "
        "'preact_resnet'; did you mean 'preact_resnet18'?"
    ),
    "resources: {architectures: {zzz: {gpu: 1}}}\n": (
        "6: resources.architectures.zzz: no architecture of this grid is called 'zzz'; "
        "they are preact_resnet18"
    ),
    "resources: {architectures: [1]}\n": (
        "6: resources.architectures: architectures is a mapping of architectures to what each "
        "takes; got a list"
    ),
    "resources: {architectures: {preact_resnet18: {stages: {relearn: {cpus: 1}}}}}\n": (
        "6: resources.architectures.preact_resnet18.stages.relearn.cpus: unknown key; did you "
        "mean 'cpu'?"
    ),
    "resources: {gpu: 0.5, stages: {relearn: {gpu: 0}}}\n": (
        "6: resources: all stages have a share of a GPU or none has: a study computes on one "
        "kind of device; gpu is 0 in one place and above 0 in another"
    ),
    "resources: {gpu: 0, device: cuda}\n": (
        "6: resources: device cuda wants a share of a GPU; gpu is 0"
    ),
    "resources: {device: tpu}\n": (
        "6: resources.device: device is cpu or cuda; got 'tpu'; did you mean 'cpu'?"
    ),
    "limits: {minutes: 0}\n": "6: limits.minutes: minutes is above 0 and at most 5.2704e+06; got 0",
    "limits: {minutes: {score_neurons: 1}}\n": (
        "6: limits.minutes.score_neurons: score_neurons has no worker of its own; it runs with "
        "unlearn"
    ),
    "limits: {attempts: 0}\n": "6: limits.attempts: attempts is at least 1; got 0",
    "limits: {hours: 1}\n": "6: limits.hours: unknown key; the keys are minutes, attempts",
    "budget: {hours: -1}\n": "6: budget.hours: hours is above 0 and at most 87840; got -1",
    "budget: {trials: 1.5}\n": "6: budget.trials: trials is a whole number; got 1.5",
    "budget: {minutes: 3}\n": "6: budget.minutes: unknown key; the keys are hours, trials",
    "budget: 8\n": "6: budget: budget is a mapping; got 8",
}


@pytest.mark.parametrize(("addition", "expected"), CASES.items())
def test_mistakes(addition: str, expected: str) -> None:
    assert mistakes(SMALL + addition) == [expected]
