"""How often Wilcoxon's pruner is wrong when truth is known: ``python -m benchmarks.pruning_truth``.

Studies are made up: a setting's value is its merit plus noise, part of which the seeds of an
attack may share. The pruner's rule judges them, many at once
(`orchestrator.search.abandonment.decided_after`; a test compares it with the program's
decisions). In the rows of clusters the rule is given attacks instead, the means over their seeds,
one after the other: what it would do if only attacks were pairs.
"""

import argparse
import json
import time
from dataclasses import dataclass
from math import sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.search.abandonment import Floats, decided_after

Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of study.

    Attributes:
        attacks, seeds: Scenarios are every combination.
        equal, worse: Settings of merit 0, and of merit -1 in standard deviations of the noise.
        common: Share of the noise's variance that the seeds of an attack share.
        clusters: Whether attacks are the pairs, not scenarios.
    """

    attacks: int
    seeds: int = 1
    equal: int
    worse: int = 0
    common: float = 0.0
    clusters: bool = False

    @property
    def text(self) -> str:
        settings = f"{self.equal} equal" + (f", {self.worse} worse by 1 sd" if self.worse else "")
        scenarios = f"{self.attacks} × {self.seeds}"
        pairs = "attacks" if self.clusters else "scenarios"
        return f"{settings} | {scenarios} | {self.common:g} | {pairs}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a pruner did in the studies of a case: shares, each with a standard error.

    Attributes:
        equals: Of the settings of merit 0 that it abandoned, the first of all left out.
        worse: Of those of merit -1.
        saved: Of the trials.
        lost: Of the studies in which it abandoned the setting with the best mean.
        regret: By how much the mean of the best one left is lower, in sd of the noise.
    """

    equals: tuple[float, float]
    worse: tuple[float, float] | None
    saved: tuple[float, float]
    lost: tuple[float, float]
    regret: tuple[float, float]


GRIDS = ((12, 3), (3, 12))
CASES = (
    Case(equal=2, attacks=24),
    Case(equal=9, attacks=9),
    Case(equal=18, attacks=24),
    Case(equal=25, attacks=36),
    *(Case(equal=25, attacks=a, seeds=s, common=c) for a, s in GRIDS for c in (0.5, 0.9)),
    *(Case(equal=25, attacks=a, seeds=s, common=0.9, clusters=True) for a, s in GRIDS),
    Case(equal=25, attacks=144, seeds=3),
    Case(equal=25, attacks=144, seeds=3, clusters=True),
    Case(equal=2, worse=16, attacks=36),
    Case(equal=2, worse=16, attacks=12, seeds=3, common=0.5),
    Case(equal=2, worse=16, attacks=12, seeds=3, common=0.5, clusters=True),
)


def main() -> None:
    """Print a row for each pruner and case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=400)
    studies = parser.parse_args().studies
    started, rows = time.process_time(), []
    print("| p, steps | settings | attacks × seeds | common | pairs ", end="")
    print("| equals abandoned, % | worse abandoned, % | trials saved, % ", end="")
    print(f"| best lost, % | regret, sd |\n{'|---' * 10}|")
    for arguments in ((0.1, 7), (0.05, 5), (0.05, 7), (0.01, 7), (0.005, 7)):
        for case in CASES:
            found = simulate(case, *arguments, studies)
            rows.append({"pruner": arguments, "case": vars(case), **vars(found)})
            shares = (found.equals, found.worse, found.saved, found.lost)
            shown = " | ".join(map(_percent, shares))
            regret = f"{found.regret[0]:.3f} ± {found.regret[1]:.3f}"
            p, steps = arguments
            print(f"| {p}, {steps} | {case.text} | {shown} | {regret} |", flush=True)
    cpu = round(time.process_time() - started, 1)
    print(json.dumps({"studies": studies, "cpu_seconds": cpu, "rows": rows}))


def simulate(case: Case, p_threshold: float, n_startup_steps: int, studies: int) -> Found:
    """Return what the pruner does; the settings of a study are in a random order."""
    random = np.random.default_rng(0)
    settings = case.equal + case.worse
    merits = np.tile([0.0] * case.equal + [-1.0] * case.worse, (studies, 1))
    merits = random.permuted(merits, axis=1)
    shared = random.normal(size=(studies, settings, 1, case.attacks))
    own = random.normal(size=(studies, settings, case.seeds, case.attacks))
    noise = case.common**0.5 * shared + (1 - case.common) ** 0.5 * own
    values: Floats = merits[:, :, None, None] + noise
    means = values.mean(axis=(2, 3))
    if case.clusters:
        values = values.mean(axis=2, keepdims=True)
    pairs = values.shape[2] * values.shape[3]
    after = decided_after(values.reshape(studies, settings, pairs), p_threshold, n_startup_steps)
    gone = after > 0
    best = means.argmax(axis=1)
    left = np.where(gone, -np.inf, means).max(axis=1)
    is_equal = merits == 0
    is_equal[:, 0] = False  # it cannot be abandoned, whichever it is
    return Found(
        equals=_share(_within(gone, is_equal)),
        worse=_share(_within(gone, merits < 0)) if case.worse else None,
        saved=_share(np.where(gone, 1 - after / pairs, 0.0).mean(axis=1)),
        lost=_share(gone[np.arange(studies), best]),
        regret=_share(means.max(axis=1) - left),
    )


def _within(gone: Bools, chosen: Bools) -> Floats:
    """Return each study's share of the chosen settings that are gone; none without such."""
    counts = chosen.sum(axis=1)
    shares: Floats = (gone & chosen).sum(axis=1)[counts > 0] / counts[counts > 0]
    return shares


def _share(values: Floats) -> tuple[float, float]:
    """Return the mean over studies with its standard error."""
    return float(values.mean()), float(values.std() / sqrt(values.size))


def _percent(found: tuple[float, float] | None) -> str:
    return "–" if found is None else f"{100 * found[0]:.1f} ± {100 * found[1]:.1f}"


if __name__ == "__main__":
    main()
