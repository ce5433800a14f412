"""A tiny study of one scenario that is really computed, and the store it is computed into."""

import shutil
from pathlib import Path
from typing import Any

from orchestrator.address import Address
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Progress, Site, StageRun, victim_job
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.plan.resources import Compute
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.store import Store
from tests.orchestrator_tests.small_studies import BADNETS, choice, small_study
from tests.steps import finished
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.recipes import VictimRecipe

STAGES = ("train_victim", "unlearn", "score_neurons", "relearn", "repaired", "evaluate")
VICTIM = VictimRecipe.of(epochs=2, batch_size=64)
AXES: dict[str, tuple[Any, ...]] = {
    "unlearn_threshold": (0.5, 0.2),
    "z_threshold": (0.5,),
    "reinit_ratio": (0.5, 1.0),
    "clean_ratio": (0.05,),
    "relearn_epochs": (2,),
    "unlearn_epochs": (6,),
    "unlearn_lr": (0.05,),
}


def plan_of(*seeds: int) -> Plan:
    """Return a plan of four settings, with a scenario for each seed."""
    grid = {"architectures": (PreActResNet18(width=2),), "seeds": seeds}
    attacks = [choice(BADNETS)]
    return make_plan(small_study(attacks=attacks, settings=AXES, grid=grid, few={}, victim=VICTIM))


class Place:
    """A store with a stage runner before it, and how to ask what the store has."""

    def __init__(self, plan: Plan, root: Path, **site: Any) -> None:
        self.plan = plan
        self.store = Store(str(root))
        self.site = Site(store=Address(str(root)), study="me", **site)
        self.keys = CacheKeys(VICTIM, Compute())
        self.catalog = JobCatalog(plan)
        self.done: list[tuple[list[Progress], tuple[StageRun, ...]]] = []  # of each job

    @property
    def jobs(self) -> list[Job]:
        """All jobs in an order in which they can be worked on."""
        trials = [self.catalog.job(trial, 1) for trial in self.plan.trials]
        victims = [victim_job(scenario) for scenario in self.plan.scenarios]
        return [*victims, *(group.job for group in self.catalog.groups), *trials]

    def do(self, job: Job) -> tuple[list[Progress], tuple[StageRun, ...]]:
        """Do a job in a new stage runner, and return its progress and what was executed."""
        self.done.append(finished(StageRunner(self.site, VICTIM).work(job)))
        return self.done[-1]

    def do_all(self) -> list[str]:
        """Do everything, and return the stages that were executed."""
        return [run.stage for job in self.jobs for run in self.do(job)[1]]

    @property
    def root(self) -> Path:
        return Path(str(self.store.url))

    def take(self, other: "Place", *stages: str) -> None:
        """Copy what another place has of some stages."""
        for stage in stages:
            shutil.copytree(other.root / stage, self.root / stage)

    def forget(self, *stages: str) -> None:
        """Delete all results of some stages."""
        for stage in stages:
            shutil.rmtree(self.root / stage)

    @property
    def findings(self) -> StageResults:
        return StageResults(self.store, self.keys)

    def content(self) -> dict[str, tuple[Any, ...]]:
        """Return every sound result of the store, but for how long it took."""
        found = {}
        for path in self.root.rglob("*.safetensors"):
            entry = self.store.read(path.parts[-3], path.stem)
            if entry is None:
                continue
            values = {k: v for k, v in entry.values.items() if k != "ascent_seconds"}
            tensors = {name: tensor.tolist() for name, tensor in sorted(entry.tensors.items())}
            found[f"{path.parts[-3]} {path.stem}"] = (repr(values), repr(tensors), entry.study)
        return found

    def damage(self, stage: str, key: str = "") -> None:
        """Flip a bit in the middle of each entry of a stage."""
        paths = list((self.root / stage).rglob(f"{key}*.safetensors"))
        assert paths
        for path in paths:
            content = bytearray(path.read_bytes())
            content[-1 if stage in {"train_victim", "repaired"} else len(content) // 2] ^= 4
            path.write_bytes(content)
