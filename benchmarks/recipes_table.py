"""Tables of docs/results.md from a study run with two recipes: ``recipes_table.py CSV CSV``.

Each is a results.csv. The report half, in percent, DER a fraction; means over seeds, sample
standard deviations. Victims that did not take are counted and left out.
"""

import sys
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
from scipy.stats import spearmanr

SETTING = ["unlearn_threshold", "reinit_ratio"]
PRESET = [0.2, 1.0]
METRICS = {"acc_after_report": 100, "asr_after_report": 100, "der_report": 1}

Surfaces = dict[object, pd.DataFrame]  # by seed: a row per setting, a column per metric


def main(paths: Sequence[Path]) -> None:
    """Print what victims and repairs are, and how far two recipes differ beside two seeds."""
    recipes = {path.parent.name: _read(path) for path in paths}
    print("| attack | victims of | n | ACC / ASR | ULRL: ACC / ASR | DER |\n" + "|---" * 6 + "|")
    for attack in _attacks(recipes):
        for recipe, rows in recipes.items():
            print(outcome(attack, recipe, rows[rows.attack == attack]))
    print("\n| attack | two victims of | pairs | ACC | ASR | DER | rank correlation of DER |")
    print("|---" * 7 + "|")
    for attack in _attacks(recipes):
        surfaces = {name: surfaces_of(rows, attack) for name, rows in recipes.items()}
        for kind, pairs in kinds(*surfaces.values()).items():
            if pairs:
                print(f"| {attack} | {kind} | {len(pairs)} | {' | '.join(apart(pairs))} |")


def outcome(attack: str, recipe: str, rows: pd.DataFrame) -> str:
    """Return a line about an attack's victims, and what ULRL does at the preset's setting."""
    own = rows[(rows[SETTING] == PRESET).all(axis=1)]
    weak, own = int((~_sound(own)).sum()), own[_sound(own)]

    def of(column: str, scale: float = 100, digits: int = 1) -> str:
        return spread([scale * value for value in own[column]], digits)

    before = f"{of('acc_before_report')} / {of('asr_before_report')}"
    after = f"{of('acc_after_report')} / {of('asr_after_report')}"
    count = f"{len(own)}{f', {weak} weak' if weak else ''}"
    return f"| {attack} | {recipe} | {count} | {before} | {after} | {of('der_report', 1, 3)} |"


def surfaces_of(rows: pd.DataFrame, attack: str) -> Surfaces:
    """Return what ULRL reached on each seed's victim of an attack, at every setting."""
    own = rows[(rows.attack == attack) & _sound(rows)]
    return {
        seed: part.set_index(SETTING).sort_index()[list(METRICS)]
        for seed, part in own.groupby("seed")
    }


def kinds(one: Surfaces, other: Surfaces) -> dict[str, list[tuple[pd.DataFrame, pd.DataFrame]]]:
    """Return pairs of victims: of one recipe and two seeds, and of two recipes."""
    return {
        "one recipe": [pair for some in (one, other) for pair in combinations(some.values(), 2)],
        "two recipes": list(product(one.values(), other.values())),
    }


def apart(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Iterator[str]:
    """Yield how far two victims differ, on average over settings: ± over the pairs."""
    pairs = [a.align(b, join="inner", axis=0) for a, b in pairs]  # what both have done
    for metric, scale in METRICS.items():
        gaps = [scale * float((a[metric] - b[metric]).abs().mean()) for a, b in pairs]
        yield spread(gaps, 1 if scale > 1 else 3)
    ders = [(a.der_report, b.der_report) for a, b in pairs]
    yield spread(
        [float(spearmanr(a, b)[0]) for a, b in ders if min(a.nunique(), b.nunique()) > 1], 2
    )


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Return mean ± standard deviation, the value alone if there is but one."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}" if values else "–"
    return f"{fmean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _read(path: Path) -> pd.DataFrame:
    rows = pd.read_csv(path)
    return rows[rows.status == "done"]


def _attacks(recipes: dict[str, pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(attack for rows in recipes.values() for attack in rows.attack))


def _sound(rows: pd.DataFrame) -> "pd.Series[bool]":
    return rows.victim_ok.astype(str) == "True"


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:3]])
