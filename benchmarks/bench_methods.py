"""Repair methods against loops written as published: ``python -m benchmarks.bench_methods``.

Each method's training repairs one small victim, by the library and by a plain loop in torch
(`benchmarks/_plain_repairs.py`), with the same draws; results have to agree. Then six methods with
several settings each repair one victim in a study, and what their stages train on is counted:
as it ran, and as it would be if each trial did all of its stages by itself.
"""

import argparse
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

import orchestrator as o
from benchmarks import _plain_repairs as plain
from benchmarks._common import in_turn, options, ratios, report, spread, summary, table
from benchmarks._material import material
from orchestrator.pipeline.chain import reached
from orchestrator.plan.plan import make_plan
from orchestrator.plan.resources import compute_here
from orchestrator.store.keys import CacheKeys
from orchestrator.store.lookup import StageResults
from orchestrator.store.store import Store
from ulrl.clean import CleanConfig, draw_clean_samples
from ulrl.methods import METHODS, RepairContext, RepairStage
from ulrl.methods._sam import Schedule
from ulrl.models import Classifier, Weights

CPU = torch.device("cpu")
TOLERANCE = 1e-4  # of the distance between two results, relative to how far the loop moved
STUDY = """\
name: shared
grid:
  attack: badnets
  dataset: {{name: digits, size: 8}}
  architecture: {{name: preact_resnet18, width: 4}}
  clean_ratio: 0.1
  repair:
    - {{name: fine_pruning, epochs: {long}, budget: [0.02, 0.05, 0.1, 0.2]}}
    - name: nad
      teacher_epochs: {short}
      epochs: {short}
      beta: [[5, 10, 10], [50, 100, 100], [500, 1000, 1000]]
    - {{name: anp, steps: {steps}, mask_threshold: [0.1, 0.2, 0.4, 0.6]}}
    - {{name: rnp, mask_epochs: {double}, mask_threshold: [0.2, 0.4, 0.6, 0.8]}}
    - {{name: tsbd, epochs: {double}, unlearn_lr: 0.01, filters: [0.05, 0.1, 0.15, 0.3]}}
    - {{name: nc, steps: {searched}, epochs: {long}, threshold: [1.5, 2, 2.5]}}
victim: {{epochs: {short}, batch_size: 64, min_acc: 0, min_asr: 0}}
prune: none
mlflow: {{log_models: none}}
store: store
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Duel:
    """A stage of a method, and the loop that gives the same.

    Attributes:
        ours: Stages to run, each on what the one before returned.
        theirs: The plain loop.
        before: What the first of ours is given.
        start: Where each tensor of the result begins; by default the victim's.
    """

    ours: tuple[RepairStage, ...]
    theirs: Callable[[], Mapping[str, Tensor]]
    before: Mapping[str, Tensor] = field(default_factory=dict)
    start: Callable[[str], Tensor | float] | None = None


def main(argv: list[str] | None = None) -> None:
    """Print a table of seconds and one of what is trained, and the line of JSON."""
    parser = options(__doc__, width=4, samples=80, epochs=2, steps=20, rounds=3, scale=2)
    parser.add_argument("--only", nargs="*", default=[], help="methods; by default all")
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.samples, given.epochs, given.steps, given.rounds = 2, 40, 1, 10, 1
        given.scale = 1
    torch.set_num_threads(1)
    seconds = duels(given)
    counted = {} if given.only else sharing(given.scale)
    report("methods", width=given.width, samples=given.samples, ratio_of_cpu=seconds, **counted)


def duels(given: argparse.Namespace) -> dict[str, dict[str, float | int]]:
    """Run each pair in turn, check that results agree, and return ratios of CPU time."""
    made = material(given.width, max(200, 2 * given.samples), 40, 1 if given.quick else 6, 10)
    share = given.samples / len(made.images.train_labels)
    clean = draw_clean_samples(CleanConfig(clean_ratio=share), made.images, 0)
    context = RepairContext(victim=made.victim, clean=clean, device=CPU, observe=_unobserved)
    found, rows = {}, []
    for name, duel in pairs(context, given).items():
        if given.only and name not in given.only:
            continue
        results: dict[str, Mapping[str, Tensor]] = {}

        def ours(duel: Duel = duel, results: dict[str, Mapping[str, Tensor]] = results) -> None:
            results["ours"] = run(duel.ours, context, duel.before)

        def theirs(duel: Duel = duel, results: dict[str, Mapping[str, Tensor]] = results) -> None:
            results["theirs"] = duel.theirs()

        with in_double():  # steps multiply what float32 rounds differently
            ours()
            theirs()
            apart = distance(
                results["ours"],
                results["theirs"],
                duel.start or made.victim.state.__getitem__,
            )
        if apart > TOLERANCE:
            raise RuntimeError(f"{name}: results differ by {apart:.3g} of the loop's way")
        ours()  # the first of anything loads code
        theirs()
        clocks = in_turn({"loop": theirs, "ours": ours}, given.rounds)
        faster = ratios(clocks["loop"], clocks["ours"], "cpu")
        found[name] = {**summary(faster, 3), "apart": float(f"{apart:.2g}")}
        rows.append(
            [
                name,
                *(spread([taken.cpu for taken in clocks[who]]) for who in ("loop", "ours")),
                spread(faster),
                f"{apart:.1g}",
            ]
        )
    table(["method", "plain loop, CPU s", "ours, CPU s", "ratio", "results apart"], rows)
    return found


def pairs(context: RepairContext, given: argparse.Namespace) -> dict[str, Duel]:
    """Return the duels by method; what comes before the stages that are timed is done here."""
    victim, clean, epochs, steps = context.victim, context.clean, given.epochs, given.steps
    size = max(8, given.samples // 4)

    def tuned(name: str, **fields: object) -> tuple[RepairStage, ...]:
        method: Any = METHODS[name]
        stages: tuple[RepairStage, ...] = (
            method(batch_size=size, **fields).resolved("cifar10").stages
        )
        return stages

    recovery = tuned("rnp", mask_epochs=2 * epochs)
    unlearned = run(recovery[:1], context, {})
    cut = tuned("tsbd", epochs=epochs, unlearn_lr=0.01, unlearn_threshold=0.4)
    changes = run(cut[:2], context, {})
    edit = cut[2].reads(changes)
    if edit is None:
        raise RuntimeError("tsbd cuts by what changed")
    lr = 1e-3
    return {
        "fine_tuning": Duel(
            ours=tuned("fine_tuning", epochs=2 * epochs),
            theirs=lambda: plain.fine_tuning(victim, clean, 2 * epochs, size),
        ),
        "ft_sam": Duel(
            ours=tuned("ft_sam", epochs=epochs, schedule=Schedule.PER_BATCH),
            theirs=lambda: plain.ft_sam(victim, clean, epochs, size),
        ),
        "nad": Duel(
            ours=tuned("nad", epochs=epochs, teacher_epochs=epochs),
            theirs=lambda: plain.nad(victim, clean, epochs, size),
        ),
        "tsbd": Duel(
            ours=cut[2:],
            theirs=lambda: plain.tsbd(victim, edit, clean, epochs, size),
            before=changes,
        ),
        "i_bau": Duel(
            ours=tuned("i_bau", rounds=2, lr=lr),
            theirs=lambda: plain.i_bau(victim, clean, 2, size, lr),
        ),
        "sau": Duel(
            ours=tuned("sau", rounds=2, lr=lr),
            theirs=lambda: plain.sau(victim, clean, 2, size, lr),
        ),
        "anp": Duel(
            ours=tuned("anp", steps=steps)[:1],
            theirs=lambda: plain.anp(victim, clean, steps, size),
            start=_masks,
        ),
        "rnp": Duel(
            ours=recovery[1:2],
            theirs=lambda: plain.rnp(
                victim,
                Weights(model_spec=victim.model_spec, state=dict(unlearned)),
                clean,
                2 * epochs,
                size,
            ),
            before=unlearned,
            start=_masks,
        ),
        "nc": Duel(
            ours=tuned("nc", steps=steps, search_batch_size=size)[:1],
            theirs=lambda: plain.nc(victim, clean, steps, size),
            start=lambda _: float(torch.ones(()).tanh() / 2 + 0.5),
        ),
    }


def run(
    stages: tuple[RepairStage, ...], context: RepairContext, before: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Return what the last of some stages returns."""
    for stage in stages:
        steps = stage.checked(context, before)
        while True:
            try:
                next(steps)
            except StopIteration as end:
                before = end.value
                break
    return before


def distance(
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    start: Callable[[str], Tensor | float],
) -> float:
    """Return how far two results lie apart, relative to how far one lies from its start."""
    apart, moved = 0.0, 0.0
    for name, value in theirs.items():
        if not name.endswith("num_batches_tracked"):
            apart += float((ours[name].double() - value.double()).square().sum())
            moved += float((value.double() - start(name)).square().sum())
    return math.sqrt(apart / moved)


def sharing(scale: int) -> dict[str, object]:
    """Run a study of six methods, and count epochs of its samples that its stages train on."""
    fields = {"short": scale, "double": 2 * scale, "long": 5 * scale, "steps": 40 * scale}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("shared.yaml").write_text(
                STUDY.format(**fields, searched=20 * scale), encoding="utf-8"
            )
            study = o.load_study("shared.yaml")
            with redirect_stdout(StringIO()):
                o.run_study(study, out="runs/shared", inline=True)
            listed = pd.read_csv("runs/shared/stages.csv").key
            plan = make_plan(study)
            keys = CacheKeys(study.victim, compute_here(study))
            results = StageResults(Store(study.store), keys)
            work = [
                (trial.method.name, before.relearn_key, stage.cost(1000) / 1000)
                for trial in plan.trials
                if trial.method is not None
                for stage, before in zip(trial.method.stages, reached(results, trial), strict=True)
            ]
        finally:
            os.chdir(before)
    frame = pd.DataFrame(work, columns=["method", "key", "epochs"])
    if not set(frame.key) <= set(listed):
        raise RuntimeError("a stage is not listed that its trials rest on")
    alone = frame.groupby("method").epochs.sum()
    once = frame.drop_duplicates("key").groupby("method").epochs.sum()
    trials = {
        name: sum(t.method is not None and t.method.name == name for t in plan.trials)
        for name in alone.index
    }
    rows = [
        [name, trials[name], alone[name], once[name], alone[name] / once[name]]
        for name in alone.index
    ]
    rows.append(["all", len(plan.trials), alone.sum(), once.sum(), alone.sum() / once.sum()])
    table(["method", "trials", "epochs, each trial alone", "epochs, shared", "ratio"], rows)
    return {
        "epochs_alone": round(alone.sum(), 1),
        "epochs_shared": round(once.sum(), 1),
        "epochs_ratio": round(alone.sum() / once.sum(), 2),
    }


@contextmanager
def in_double() -> Iterator[None]:
    """Compute in double precision inside."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _masks(name: str) -> float:
    """Return where scores, that is minus the masks, begin; accuracies are compared from 0 on."""
    return -1.0 if name.startswith("score/") else 0.0


def _unobserved(classifier: Classifier) -> None:
    del classifier


if __name__ == "__main__":
    main()
