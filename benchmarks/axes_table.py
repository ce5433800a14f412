"""Tables of ULRL's two axes, in Markdown: ``python -m benchmarks.axes_table runs/axes``.

All numbers are of the report half, of trials on victims that took. Each victim is repaired with
several draws of clean samples (``defence_seed``), so two spreads can be told apart.
"""

import argparse
from pathlib import Path

import pandas as pd

from benchmarks._common import table

THRESHOLD, RATIO, VICTIM, DRAW = "unlearn_threshold", "reinit_ratio", "seed", "defence_seed"
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


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the study's folder")
    trials = pd.read_csv(parser.parse_args().folder / "results.csv")
    trials = trials[(trials["status"] == "done") & (trials["victim_ok"].astype(str) == "True")]
    rows, found = [], []
    for attack, of in trials.groupby("attack", sort=False):
        parts = [f"{100 * part:.0f}" for part in shares(of, "der_report")]
        sd = [f"{100 * s:.1f}" for column in SURFACES.values() for s in spreads(of, column)]
        rows.append([str(attack), str(of[VICTIM].nunique()), *parts, *sd])
        runs = of[of[RATIO] == 1.0].drop_duplicates([VICTIM, DRAW, THRESHOLD])
        by = runs.groupby(THRESHOLD)["target_rank"].agg(lambda ranks: (ranks == 1).mean())
        found.append([str(attack), *(f"{100 * share:.0f}" for share in by)])
    head = ["attack", "victims", "threshold", "ratio", "both"]
    head += [f"{m}, sd over {over}" for m in SURFACES for over in ("victims", "draws")]
    table(head, rows)
    print()
    thresholds = [f"{value:g}" for value in sorted(trials[THRESHOLD].unique())]
    table(["attack", *thresholds], found)
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
