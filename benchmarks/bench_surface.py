"""A sensitivity surface of 300 settings on one victim: ``python -m benchmarks.bench_surface``.

5 thresholds × 5 ratios × 4 alphas × 3 defence seeds. Ours runs for real, all of it, and its
epochs are counted from what was executed. Without sharing each setting would have an ascent of
its own, to its own threshold, and a relearning of its own: those epochs are counted too, since
phase 1 says where each would have stopped. Their time is worked out from units measured in this
run, and so is that of the official loop's structure, which tests all images after every epoch.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks._common import (
    clock,
    in_turn,
    options,
    report,
    table,
    the_device,
)
from benchmarks._material import whole
from benchmarks._official import OfficialLoop
from benchmarks._sharing import SURFACE, Count, distinct_relearnings, scored
from orchestrator.address import Address
from orchestrator.pipeline.catalog import JobCatalog
from orchestrator.pipeline.inputs import StageInputs
from orchestrator.pipeline.stages import StageRunner
from orchestrator.plan.jobs import Job, Site, victim_job
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import Compute
from orchestrator.spec.load import load_study
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.serialization import ASCENT, VICTIM
from orchestrator.store.store import Store
from ulrl.shapes import shapes

STUDY = """\
name: surface
grid:
  attack: badnets
  dataset: {{arrays: {file}, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25], flip: true}}
  architecture: {{name: preact_resnet18, width: {width}}}
  clean_ratio: 0.1
  unlearn_batch_size: {batch}
  relearn_batch_size: {batch}
  relearn_epochs: {relearn}
  z_threshold: {z}
victim: {{epochs: {epochs}, batch_size: 64}}
prune: none
mlflow: {{uri: "sqlite:///{file}.db"}}
store: {store}
"""
OFFICIAL_EPOCHS = 20  # of a relearning, which the whole surface is counted with as well


def main(argv: list[str] | None = None) -> None:
    """Print a row per way of doing it and the line of JSON."""
    numbers = {"width": 4, "training": 640, "relearn": 5, "epochs": 5, "rounds": 3, "workers": 4}
    given = options(__doc__, **numbers).parse_args(argv)
    if given.quick:
        given.width, given.training, given.relearn, given.epochs = 1, 80, 1, 1
        given.rounds, given.workers = 1, 0
    with tempfile.TemporaryDirectory() as folder:
        surface = Surface(Path(folder), given)
        surface.run()
        units = surface.official_units(given.rounds, given.workers)
        told(surface, units, given)


def told(surface: "Surface", units: dict[str, float], given: argparse.Namespace) -> None:
    """Print what was counted, measured and worked out."""
    counts = surface.counts()
    keys = surface.distinct_relearnings()
    if surface.executed("relearn") != keys:
        raise RuntimeError(f"{surface.executed('relearn')} relearnings for {keys} distinct keys")
    seconds = {
        "shared": surface.spent["ascent"] + surface.spent["trial"],
        "unshared": surface.unshared_seconds(),
        "official structure": counts["unshared"].ascent * units["ascent"]
        + counts["unshared"].relearn * units["relearn"],
    }
    ways = {**counts, "official structure": counts["unshared"]}
    how = {"shared": "measured", "unshared": "worked out", "official structure": "worked out"}
    longer = f"with {OFFICIAL_EPOCHS}-epoch relearnings"
    table(
        ["way", "ascents", "relearnings", "epochs", longer, "CPU s", "", "ratio of CPU s"],
        [
            [
                way,
                count.ascents,
                count.relearnings,
                count.epochs,
                count.ascent + count.relearnings * OFFICIAL_EPOCHS,
                seconds[way],
                how[way],
                seconds[way] / seconds["shared"],
            ]
            for way, count in ways.items()
        ],
    )
    print(f"official epochs, CPU s: {', '.join(f'{k} {v:.3g}' for k, v in units.items())}")
    report(
        "surface",
        width=given.width,
        settings=len(surface.plan.trials),
        relearn_epochs=given.relearn,
        distinct_relearnings=keys,
        collapsed_at_ratio_1=surface.collapsed(),
        flagged=surface.flagged(),
        **{
            f"{way.replace(' ', '_')}_{name}": getattr(count, name)
            for way, count in ways.items()
            for name in ("ascents", "ascent", "relearnings", "epochs")
        },
        cpu_seconds={way: round(value, 2) for way, value in seconds.items()},
        worked_out=[way for way, word in how.items() if word != "measured"],
    )


class Surface:
    """The study, done job by job as a worker of it would."""

    def __init__(self, folder: Path, given: argparse.Namespace) -> None:
        training, relearn = given.training, given.relearn
        images, file = shapes(training, 2 * training, 0), folder / "shapes.npz"
        arrays = {
            f"{part}_{what}": values.permute(0, 2, 3, 1).numpy() if what == "images" else values
            for part, what, values in (
                ("train", "images", images.train_images),
                ("train", "labels", images.train_labels),
                ("test", "images", images.test_images),
                ("test", "labels", images.test_labels),
            )
        }
        np.savez(file, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
        store, batch = folder / "store", min(32, training // 20)
        text = STUDY.format(
            file=file,
            width=given.width,
            batch=batch,
            relearn=relearn,
            epochs=given.epochs,
            store=store,
            z=0.5 if given.quick else 3.5,  # so small a victim has no row that stands out
        )
        (folder / "surface.yaml").write_text(text, encoding="utf-8")
        study = load_study(str(folder / "surface.yaml"), SURFACE)
        self._folder, self._relearn = folder, relearn
        self.plan = make_plan(study)
        self._catalog = JobCatalog(self.plan)
        device = the_device().type
        self._site = Site(store=Address(str(store)), study="benchmark", device=device)
        self._keys = CacheKeys(study.victim, Compute(device=device, threads=1))
        self._store = Store(str(store))
        self._findings = StageResults(self._store, self._keys)
        self._runs: dict[str, list[str]] = {}
        self.spent: dict[str, float] = {}

    def run(self) -> None:
        """Do everything."""
        runner = StageRunner(self._site, self.plan.study.victim)
        self._do(runner, victim_job(self.plan.scenarios[0]))
        for group in self._catalog.groups:
            self._do(runner, group.job)
        for trial in self.plan.trials:
            self._do(runner, self._catalog.job(trial, 1))

    def _do(self, runner: StageRunner, job: Job) -> None:
        with clock() as taken:
            for _ in runner.work(job):
                pass
        kind = job.name.partition("-")[0]
        self.spent[kind] = self.spent.get(kind, 0.0) + taken.cpu
        for run in runner.executed:
            self._runs.setdefault(run.stage, []).append(run.key)

    def executed(self, stage: str) -> int:
        """Return how often a stage was executed."""
        return len(self._runs.get(stage, []))

    def distinct_relearnings(self) -> int:
        """Return how many relearnings differ, by what they are and not by the store's keys."""
        return distinct_relearnings(self.plan.trials, scored(self._findings, self.plan.trials))

    def collapsed(self) -> list[int]:
        """Return settings with ratio 1, and the relearnings they share."""
        some = [t for t in self.plan.trials if t.hyperparameters.reset.reinit_ratio == 1]
        return [len(some), len({one.relearn_key for one in scored(self._findings, some)})]

    def flagged(self) -> list[int]:
        """Return how many of the settings' phases 1 found no, one, two suspects."""
        found = scored(self._findings, self.plan.trials)
        sizes = [len(one.scores.suspects) for one in found]
        return [sizes.count(size) for size in range(3)]

    def counts(self) -> dict[str, Count]:
        """Return what was executed, and what it would be without sharing."""
        keys = self._runs["unlearn"]
        ascents = [ASCENT.peek(self._store, key) for key in keys]
        lengths = [len(one.content.accuracy) for one in ascents if one is not None]
        stops = [one.scores.stop_epoch for one in scored(self._findings, self.plan.trials)]
        shared = self.executed("relearn")
        return {
            "shared": Count(
                ascents=len(keys),
                ascent=sum(lengths),
                relearnings=shared,
                relearn=shared * self._relearn,
            ),
            "unshared": Count(
                ascents=len(stops),
                ascent=sum(stops),
                relearnings=len(stops),
                relearn=len(stops) * self._relearn,
            ),
        }

    def unshared_seconds(self) -> float:
        """Work out the CPU seconds without sharing, from what an epoch and a trial took."""
        counts = self.counts()
        ours, theirs = counts["shared"], counts["unshared"]
        ascent = self.spent["ascent"] / ours.ascent
        return theirs.ascent * ascent + theirs.relearnings * self.spent["trial"] / ours.relearnings

    def official_units(self, rounds: int, workers: int) -> dict[str, float]:
        """Return CPU seconds of an epoch of each phase in the official loop's structure."""
        trial, scenario = self.plan.trials[0], self.plan.scenarios[0]
        inputs = StageInputs()
        model_spec = inputs.model_spec(scenario)
        victim = VICTIM.read(self._store, self._keys.victim(scenario), model_spec)
        if victim is None:
            raise RuntimeError("the victim comes first")
        loop = OfficialLoop(
            trial.hyperparameters,
            victim.content.of(model_spec),
            inputs.clean(trial),
            whole(inputs.tests(scenario, {})),
            self._folder,
            workers=workers,
            device=the_device(),
        )
        taken = in_turn(
            {"ascent": lambda: loop.unlearn(1), "relearn": lambda: loop.relearn(1)}, rounds
        )
        return {name: median(one.cpu for one in some) for name, some in taken.items()}


if __name__ == "__main__":
    main()
