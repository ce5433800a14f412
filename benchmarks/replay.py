"""Made-up results in place of a store, for schedulers in simulated time."""

import hashlib

import torch

from orchestrator.plan.jobs import Job, JobKind, StageRun
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import RepairResult, ScoreResult, StageResults, VictimResult
from orchestrator.store.store import Store
from ulrl.attacks import Helper
from ulrl.evaluation import Evaluation
from ulrl.metrics import Metrics
from ulrl.scoring import NeuronScores

SCORES = NeuronScores(
    layers=("linear",),
    sizes=(10,),
    shift=torch.ones(10),
    z=torch.arange(10.0),
    suspects=(0,),
    movement={"linear.weight": torch.ones(1, 8)},
    stop_epoch=2,
    stop_accuracy=0.1,
    predicted=torch.arange(10),
    threshold_reached=True,
    diverged=False,
)


class Replay(StageResults):
    """Findings that are there as soon as somebody says so."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(Store("memory://replay"), CacheKeys(plan.study.victim, Compute()))
        self._helpers: set[tuple[Helper, str]] = set()
        self._made: set[str] = set()
        self._known: dict[int, VictimResult] = {}

    def make(self, job: Job) -> None:
        """Note that a job's result is there now."""
        if job.helper is not None:
            self._helpers.add((job.helper, self.keys.helper(job.scenario, job.helper)))
        elif job.kind is JobKind.VICTIM:
            self._known[job.scenario.number] = VictimResult(
                key=job.name,
                evaluation=_evaluation(0.9, 0.99),
                counts={},
                training=(),
                seconds=0.0,
                runs=(),
                specimens={},
            )
        elif job.kind is JobKind.STAGE:
            self._made.add(_group(job.trial))
        else:
            self._made.add(job.trial.name)

    def helper(self, scenario: Scenario, helper: Helper) -> StageRun | None:
        key = self.keys.helper(scenario, helper)
        if (helper, key) not in self._helpers:
            return None
        return StageRun(stage="train_helper", key=key, scenario="", seconds=0.0, study="")

    def victim(self, scenario: Scenario) -> VictimResult | None:
        return self._known.get(scenario.number)

    def scores(self, trial: Trial) -> ScoreResult | None:
        if _group(trial) not in self._made:
            return None
        return ScoreResult(scores=SCORES, relearn_key=trial.name, seconds=0.0, runs=())

    def repair(self, trial: Trial, relearn_key: str) -> RepairResult | None:
        if relearn_key not in self._made:
            return None
        asr = min(1.0, 0.02 * trial.setting.number + 0.3 * _chance(relearn_key))
        found = _evaluation(0.88, asr)
        return RepairResult(
            evaluation=found, counts={}, curve=(), training=(), seconds=0.0, runs=()
        )


def _group(trial: Trial) -> str:
    return f"{trial.scenario.number} {trial.defence_seed} {trial.hyperparameters.unlearn}"


def _evaluation(acc: float, asr: float) -> Evaluation:
    half = Metrics(acc=acc, asr=asr, ra=(1 - asr) * acc)
    return Evaluation(selection=half, report=half)


def _chance(text: str) -> float:
    """Return a number in [0, 1) that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") / 2**32
