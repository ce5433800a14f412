"""Tables of ULRL's two axes, in Markdown: ``python -m benchmarks.axes_table runs/axes``.

All numbers are of the report half, of trials on victims that took. Each victim is repaired with
several draws of clean samples (``defence_seed``), so two spreads can be told apart. Tables: how
much of an attack's DER the axes explain, and the spreads; in how many repairs the backdoor is
removed (ASR below 10 %, ACC above chance) at each setting, and at the highest ratio by draw; what
becomes of repairs whose target row is flagged, and of the others, and in how many removals the
target's class is kept (ACC above 10 %); what the ascents do; of each attack the surfaces.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from benchmarks._common import study_folder, table
from benchmarks._removals import SHARE, is_removed, target_class_acc
from orchestrator.plan.columns import DRAW, SURFACE_AXES
from orchestrator.reporting.classes import DEAD

THRESHOLD, RATIO = SURFACE_AXES
VICTIM = "seed"
OUTCOMES = (
    "removed, target flagged",
    "removed, target not flagged",
    "ACC lost",
    "RA",
    "class kept",
)
SURFACES = {"ACC": "acc_after_report", "ASR": "asr_after_report", "RA": "ra_after_report"}


def spreads(trials: pd.DataFrame, column: str) -> tuple[float, float]:
    """Return the standard deviations of a column over victims and over draws of one victim.

    Both are of one setting, pooled over settings (root mean square): over draws it is the sample
    standard deviation within a victim; over victims that of the victims' means, less what the
    draws alone put into them (the components of a one-way random-effects model).
    """
    within = trials.groupby([THRESHOLD, RATIO, VICTIM])[column].agg(["mean", "var", "count"])
    draws = float(within["var"].mean())
    between = within["mean"].groupby([THRESHOLD, RATIO]).var().mean()
    victims = max(0.0, float(between) - draws / float(within["count"].mean()))
    return victims**0.5, draws**0.5


def shares(trials: pd.DataFrame, column: str) -> tuple[float, float, float]:
    """Return the shares of a column's variance that threshold, ratio and their product explain.

    Of the sum of squares of all trials, each being its victim's and draw's mean plus a rest: those
    of the means by threshold, by ratio, and by both less these two (two-way analysis of variance
    of a balanced design). What is left to 1 is the victims', the draws' and what they do to the
    axes' effects.
    """
    whole = trials[column].mean()
    total = float(((trials[column] - whole) ** 2).sum())
    if total == 0:
        return 0.0, 0.0, 0.0

    def explained(axes: list[str]) -> float:
        means = trials.groupby(axes)[column].transform("mean")
        return float(((means - whole) ** 2).sum()) / total

    threshold, ratio = explained([THRESHOLD]), explained([RATIO])
    return threshold, ratio, explained([THRESHOLD, RATIO]) - threshold - ratio


def is_strong(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Return which trials are on victims that took."""
    return trials["victim_ok"].astype(str) == "True"


def removals(trials: pd.DataFrame, by: Sequence[str] = (THRESHOLD, RATIO)) -> list[str]:
    """Return of each combination of these columns how many repairs remove the backdoor."""
    return [f"{_removed(of).sum()}/{len(of)}" for _, of in trials.groupby([*by])]


def _removed(trials: pd.DataFrame) -> "pd.Series[bool]":
    rows: list[Any] = trials.to_dict("records")
    return pd.Series([is_removed(row) for row in rows], index=trials.index, dtype=bool)


def outcomes(trials: pd.DataFrame) -> list[str]:
    """Return what becomes of repairs that reset something.

    Removed of those whose target row is flagged, and of the others; of those removed the loss of
    ACC in points and RA in percent, each as mean (lowest to highest), and in how many the target's
    class keeps an ACC above 10 %: a model that never predicts it has no backdoor either.
    """
    some = trials[trials[RATIO] > 0]
    pairs = zip(some["flagged"].map(json.loads), some["target_label"], strict=True)
    hit = pd.Series([int(target) in rows for rows, target in pairs], index=some.index)
    removed = _removed(some)
    lost = (some["acc_before_report"] - some[SURFACES["ACC"]])[removed]
    return [
        *(f"{removed[of].sum()}/{of.sum()}" for of in (hit, ~hit)),
        *(span(100 * values) for values in (lost, some[SURFACES["RA"]][removed])),
        _kept(some[SHARE][removed].dropna()),
    ]


def _kept(accuracies: "pd.Series[float]") -> str:
    return f"{(accuracies > DEAD).sum()}/{len(accuracies)}" if len(accuracies) else "–"


def span(values: "pd.Series[float]") -> str:
    """Return mean, lowest and highest."""
    return f"{values.mean():.1f} ({values.min():.1f} to {values.max():.1f})" if len(values) else "–"


def ascents(trials: pd.DataFrame) -> list[str]:
    """Return how many ascents there are, and what holds of them, as counts.

    Whether phase 1 flags anything, whether it flags the class that most images are predicted as at
    the end (``collapse_class``), whether that is the target, and whether the target is flagged.
    """
    once = trials.drop_duplicates(["attack", VICTIM, DRAW, THRESHOLD])
    flagged = once["flagged"].map(json.loads)
    pairs = list(zip(flagged, once["collapse_class"], once["target_label"], strict=True))
    counts = (
        sum(bool(rows) for rows, _, _ in pairs),
        sum(int(collapse) in rows for rows, collapse, _ in pairs),
        sum(int(collapse) == int(target) for _, collapse, target in pairs),
        sum(int(target) in rows for rows, _, target in pairs),
    )
    return [str(len(once)), *map(str, counts)]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    folder = parser.parse_args().folder
    trials = pd.read_csv(folder / "results.csv").join(target_class_acc(folder))
    trials = trials[(trials["status"] == "done") & is_strong(trials)]
    rows, removed, drawn, ends, became = [], [], [], [], []
    reset = trials[trials[RATIO] == trials[RATIO].max()]
    for attack, of in trials.groupby("attack", sort=False):
        parts = [f"{100 * part:.0f}" for part in shares(of, "der_report")]
        sd = [f"{100 * s:.1f}" for column in SURFACES.values() for s in spreads(of, column)]
        rows.append([str(attack), str(of[VICTIM].nunique()), *parts, *sd])
        removed.append([str(attack), *removals(of)])
        drawn.append([str(attack), *removals(reset[reset["attack"] == attack], (THRESHOLD, DRAW))])
        ends.append([str(attack), *ascents(of)])
        became.append([str(attack), *outcomes(of)])
    head = ["attack", "victims", "threshold", "ratio", "both"]
    head += [f"{m}, sd over {over}" for m in SURFACES for over in ("victims", "draws")]
    table(head, rows)
    print()
    settings = sorted({*zip(trials[THRESHOLD], trials[RATIO], strict=True)})
    table(["attack", *(f"{threshold:g}, {ratio:g}" for threshold, ratio in settings)], removed)
    print()
    draws = sorted({*zip(reset[THRESHOLD], reset[DRAW], strict=True)})
    table(["attack", *(f"{threshold:g}, draw {draw}" for threshold, draw in draws)], drawn)
    print()
    became.append(["all", *outcomes(trials)])
    table(["attack", *OUTCOMES], became)
    print()
    ends.append(["all", *ascents(trials)])
    what = ("any flagged", "collapse class flagged", "it is the target", "target flagged")
    table(["attack", "ascents", *what], ends)
    for attack, of in trials.groupby("attack", sort=False):
        lines = []
        for threshold, row in of.groupby(THRESHOLD):
            cells = [
                " / ".join(f"{100 * cell[column].mean():.0f}" for column in SURFACES.values())
                for _, cell in row.groupby(RATIO)
            ]
            lines.append([f"{threshold:g}", *cells])
        ratios = [f"{value:g}" for value in sorted(of[RATIO].unique())]
        print()
        table([f"{attack}: {' / '.join(SURFACES)}", *ratios], lines)


if __name__ == "__main__":
    main()
