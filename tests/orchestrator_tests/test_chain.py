"""Chains of stages of repair methods other than ULRL, and what they share."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.cli.remaining_time import RemainingTime
from orchestrator.pipeline.chain import chain_of, reached
from orchestrator.plan.jobs import Job, JobKind, trial_job
from orchestrator.plan.plan import Plan, Trial
from tests.orchestrator_tests.places import Place, plan_of
from ulrl.attacks import Step
from ulrl.errors import DivergedError
from ulrl.methods import RepairContext, RepairMethod, RepairStage
from ulrl.models import restore

Found = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Measure(RepairStage):
    """The norm of each row of the head, to some power."""

    name = "measure"
    power: int = 1

    def run(self, context: RepairContext, before: Found) -> Generator[Step, None, Found]:
        assert not before
        yield Step(1, 1)
        return {"norms": context.victim.head.norm(dim=1) ** self.power}


@dataclass(frozen=True, kw_only=True)
class Choose(RepairStage):
    """The row of the largest norm, which no power changes."""

    name = "choose"

    def run(self, context: RepairContext, before: Found) -> Generator[Step, None, Found]:
        del context
        yield Step(1, 1)
        return {"row": before["norms"].argmax().reshape(1), "norm": before["norms"].max()}


@dataclass(frozen=True, kw_only=True)
class Zero(RepairStage):
    """The victim without that row."""

    name = "zero"
    broken: bool = False

    def reads(self, before: Found) -> Found:
        return {"row": before["row"]}

    def run(self, context: RepairContext, before: Found) -> Generator[Step, None, Found]:
        classifier = restore(context.victim, context.device)
        with torch.no_grad():
            classifier.head.weight[before["row"]] = float("inf") if self.broken else 0.0
        yield Step(1, 1)
        return classifier.weights().state


@dataclass(frozen=True, kw_only=True)
class Three(RepairMethod):
    """Three stages."""

    name = "three"
    power: int = 1
    broken: bool = False

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        return Measure(power=self.power), Choose(), Zero(broken=self.broken)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_of(0)


def last_job(trial: Trial) -> Job:
    return trial_job(trial, position=len(chain_of(trial)) - 1)


def test_a_later_key_depends_on_what_the_stage_reads(plan: Plan, tmp_path: Path) -> None:
    """Two findings that agree in it lead to one repaired model."""
    place = Place(plan, tmp_path)
    one = replace(plan.trials[0], method=Three())
    other = replace(plan.trials[0], method=Three(power=2))
    wanted = ["train_victim", "repair.measure", "repair.choose", "relearn", "evaluate"]
    assert [run.stage for run in place.do(last_job(one))[1]] == wanted
    assert [run.stage for run in place.do(last_job(other))[1]] == wanted[1:3]
    ours, theirs = (reached(place.findings, trial) for trial in (one, other))
    assert [a.relearn_key == b.relearn_key for a, b in zip(ours, theirs, strict=True)] == [
        *(False, False, True)
    ]
    assert [run.stage for run in ours[-1].runs] == ["repair.measure", "repair.choose"]
    repaired = place.findings.repair(one, ours[-1].relearn_key)
    assert repaired is not None
    assert len(repaired.curve) == 1, "a method that shows no curve has its end"


def test_a_stage_by_itself_leaves_the_rest(plan: Plan, tmp_path: Path) -> None:
    place = Place(plan, tmp_path)
    trial = replace(plan.trials[0], method=Three())
    job = Job(
        name="three.measure-00000",
        kind=JobKind.STAGE,
        stage="unlearn",
        text="",
        scenario=trial.scenario,
        trials=(trial,),
    )
    assert [run.stage for run in place.do(job)[1]] == ["train_victim", "repair.measure"]
    assert [run.stage for run in place.do(replace(job, position=1))[1]] == ["repair.choose"]
    progress, runs = place.do(last_job(trial))
    assert [run.stage for run in runs] == ["relearn", "evaluate"]
    assert [step.stage for step in progress] == ["zero"], "people see the stage's own name"


@dataclass(frozen=True, kw_only=True)
class One(RepairMethod):
    """A single stage."""

    name = "one"

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        return (Measure(),)


def test_of_a_method_of_one_stage_nothing_is_left_once_its_trials_are_decided(plan: Plan) -> None:
    trials = [replace(trial, method=One()) for trial in plan.trials]
    single = replace(plan, trials=trials)
    left = RemainingTime(single)
    left.begin()
    left.victim(plan.scenarios[0])
    for trial in trials:
        left.decided(trial)
    assert left.left(workers=1) == 0.0


def test_a_method_that_diverges_gives_no_model(plan: Plan, tmp_path: Path) -> None:
    place = Place(plan, tmp_path)
    trial = replace(plan.trials[0], method=Three(broken=True))
    with pytest.raises(DivergedError, match=r"^zero diverged \(.*weight is not finite\)$"):
        place.do(last_job(trial))
    assert place.findings.repair(trial, reached(place.findings, trial)[-1].relearn_key) is None


@dataclass(frozen=True, kw_only=True)
class Many(RepairStage):
    """Nine numbers whose names do not come in order."""

    name = "many"

    def run(self, context: RepairContext, before: Found) -> Generator[Step, None, Found]:
        del context, before
        yield Step(1, 1)
        return {f"n{9 - place}": torch.tensor([place]) for place in range(9)}


@dataclass(frozen=True, kw_only=True)
class InOrder(RepairStage):
    """The victim; it reads the numbers in the order in which it is given them."""

    name = "in_order"

    def reads(self, before: Found) -> Found:
        return {"all": torch.cat(list(before.values()))}

    def run(self, context: RepairContext, before: Found) -> Generator[Step, None, Found]:
        del before
        yield Step(1, 1)
        return context.victim.state


@dataclass(frozen=True, kw_only=True)
class Ordered(RepairMethod):
    """Many, then InOrder."""

    name = "ordered"

    @property
    def stages(self) -> tuple[RepairStage, ...]:
        return Many(), InOrder()


def test_tensors_have_one_order_before_and_after_they_are_stored(
    plan: Plan, tmp_path: Path
) -> None:
    place = Place(plan, tmp_path)
    trial = replace(plan.trials[0], method=Ordered())
    place.do(last_job(trial))
    for _ in range(4):
        assert place.findings.repair(trial, reached(place.findings, trial)[-1].relearn_key)
