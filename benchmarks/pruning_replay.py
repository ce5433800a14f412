"""What each pruner saves and loses on a recorded grid: ``pruning_replay.py runs/pruning``.

A finished study with ``prune: none`` is decided anew, trial by trial, by the program's own
decisions; nothing is trained. Each replay is a study of its own: two thirds of the seeds,
scenarios and settings in a random order. Truth is the grid itself: the setting with the best
mean over the replay's scenarios on the selection half. ± is 1.96 standard errors of the mean over
replays; they overlap in seeds, so it does not tell how other seeds would do. A replay without
pruning would have saved, lost and regretted nothing.
"""

import argparse
import itertools
import json
import platform
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import optuna
import scipy.stats

from benchmarks.recorded_grid import Grid, Replayed, read_grid, replay, sub_study
from orchestrator.spec.model import Prune, PrunerChoice

KEPT = 2 / 3  # of the seeds, in each replay


def wilcoxon(p_threshold: float, n_startup_steps: int) -> PrunerChoice:
    """Return the pruner across scenarios."""
    return PrunerChoice(
        pruner="wilcoxon",
        arguments={"p_threshold": p_threshold, "n_startup_steps": n_startup_steps},
    )


def curve(pruner: str, **arguments: object) -> PrunerChoice:
    """Return a pruner within scenarios."""
    return PrunerChoice(pruner=pruner, arguments=arguments)


MEDIAN = curve("median", n_startup_trials=4, n_warmup_steps=5)
CURVES = {
    "median, n_startup_trials 4, n_warmup_steps 5": MEDIAN,
    "percentile 25, the same": curve(
        "percentile", percentile=25.0, n_startup_trials=4, n_warmup_steps=5
    ),
    "successive_halving, min_resource 4, reduction 2": curve(
        "successive_halving", min_resource=4, reduction_factor=2
    ),
    "hyperband, min_resource 2, max_resource 10, reduction 2": curve(
        "hyperband", min_resource=2, max_resource=10, reduction_factor=2
    ),
    "threshold, lower 0.45, n_warmup_steps 5": curve("threshold", lower=0.45, n_warmup_steps=5),
    "patient around median, patience 3": curve(
        "patient", wrapped=MEDIAN, patience=3, min_delta=0.0
    ),
}
ACROSS = {
    f"wilcoxon p {p}, n_startup_steps {steps}": wilcoxon(p, steps)
    for p, steps in ((0.1, 7), (0.05, 7), (0.01, 2), (0.01, 7), (0.01, 10), (0.005, 7))
}
DEFAULT = wilcoxon(0.01, 7)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over replays and the half width of its 95 % interval."""

    mean: float
    half: float

    def text(self, form: str, factor: float = 1.0) -> str:
        return f"{form.format(factor * self.mean)} ± {form.format(factor * self.half)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table and one line of JSON."""
    given = _arguments(argv)
    _remember_tests()
    grid = read_grid(given.folder)
    prunes = {
        **{name: Prune(setting=choice) for name, choice in ACROSS.items()},
        **{name: Prune(curve=choice) for name, choice in CURVES.items()},
        **{
            f"wilcoxon p 0.01, n_startup_steps 7 and {name}": Prune(setting=DEFAULT, curve=choice)
            for name, choice in CURVES.items()
        },
    }
    print("| pruner | trials saved, % | relearn epochs saved, % | seconds saved, % ", end="")
    print("| best setting lost, % | regret, 0.001 |\n|---|---|---|---|---|---|")
    found = {}
    started = time.process_time()
    for name, prune in prunes.items():
        if given.only and given.only not in name:
            continue
        count = given.replays if prune.curve is None else given.curve_replays
        found[name] = measure(grid, prune, count)
        print(row(name, found[name]), flush=True)
    facts = {
        "grid": [len(grid.plan.scenarios), len(grid.plan.settings)],
        "objective": grid.plan.study.objective.value,
        "replays": [given.replays, given.curve_replays],
        "cpu_seconds": round(time.process_time() - started, 1),
        "python": platform.python_version(),
        "optuna": optuna.__version__,
        "rows": {
            name: {key: [round(e.mean, 5), round(e.half, 5)] for key, e in estimates.items()}
            for name, estimates in found.items()
        },
    }
    print(json.dumps(facts))


def _remember_tests() -> None:
    """Let a test of the same differences be computed once: every threshold asks for it.

    With ties scipy goes through all signs of up to 13 pairs, which takes 10 ms.
    """
    plain, known = scipy.stats.wilcoxon, {}

    def remembered(x: Any, *args: Any, **options: Any) -> Any:
        name = (tuple(sorted(x)), args, tuple(sorted(options.items())))
        if name not in known:
            known[name] = plain(x, *args, **options)
        return known[name]

    scipy.stats.wilcoxon = remembered


def measure(grid: Grid, prune: Prune, replays: int) -> dict[str, Estimate]:
    """Return what replays of a pruner give, on average and how surely."""
    seeds = sorted({scenario.seed for scenario in grid.plan.scenarios})
    kept = max(1, round(KEPT * len(seeds)))
    subsets = list(itertools.combinations(seeds, kept))
    source = random.Random(0)  # noqa: S311 - the same replays for every pruner
    source.shuffle(subsets)
    found: list[Replayed] = []
    for number in range(replays):
        subset = subsets[number % len(subsets)]
        plan = sub_study(grid, subset, prune, random.Random(number))  # noqa: S311
        found.append(replay(grid, plan))
    return {
        name: _estimate([float(getattr(one, name)) for one in found])
        for name in ("trials", "epochs", "seconds", "lost", "regret")
    }


def _estimate(values: Sequence[float]) -> Estimate:
    spread = stdev(values) if len(values) > 1 else 0.0
    return Estimate(mean=fmean(values), half=1.96 * spread / sqrt(len(values)))


def row(name: str, estimates: dict[str, Estimate]) -> str:
    """Return a row of the table."""
    shares = [estimates[key].text("{:.1f}", 100) for key in ("trials", "epochs", "seconds", "lost")]
    return f"| {name} | {' | '.join(shares)} | {estimates['regret'].text('{:.1f}', 1000)} |"


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder of a finished study with prune: none")
    parser.add_argument("--replays", type=int, default=150, help="of pruners across scenarios")
    parser.add_argument("--curve-replays", type=int, default=30, help="of those that read curves")
    parser.add_argument("--only", default="", help="pruners whose name holds this")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
