"""Tables of docs/results.md from a study over `preset`: ``presets_table.py RESULTS.csv``.

Means over seeds, sample standard deviations, the report half, in percent; DER a fraction.
Victims that did not take are in the last table only.
"""

import sys
from pathlib import Path

import pandas as pd

PRESETS = ("fine_tuning", "official", "default")


def main(path: Path) -> None:
    """Print a table per architecture, a row per attack, and one of all attacks together."""
    rows = pd.read_csv(path).rename(columns={"stop_accuracy": "accuracy_at_stop"})  # its first name
    rows = rows[rows.status == "done"]
    sound = rows[rows.victim_ok.astype(str) == "True"]
    for architecture, group in sound.groupby("architecture", sort=False):
        print(f"\n### {architecture}\n")
        heads = " | ".join(f"{preset} ACC / ASR / DER" for preset in PRESETS)
        print(f"| attack | n | victim ACC / ASR | {heads} |")
        print("|" + "---|" * (3 + len(PRESETS)))
        for attack, part in group.groupby("attack", sort=False):
            print(line(str(attack), part))
        print(line("**mean**", group))
    print("\n### Each trial\n")
    print(
        "| architecture | attack | seed | preset | victim | repaired | flagged | z, rank of the "
        "target's row | stop epoch (accuracy) |"
    )
    print("|" + "---|" * 9)
    for row in rows.to_dict("records"):
        z = "–" if pd.isna(row["target_z"]) else f"{row['target_z']:.1f}, {row['target_rank']:.0f}"
        stop = f"{row['stop_epoch']:.0f} ({100 * row['accuracy_at_stop']:.0f} %)"
        print(
            f"| {row['architecture']} | {row['attack']} | {row['seed']} | {row['preset']} "
            f"| {percent(row['acc_before_report'])} / {percent(row['asr_before_report'])}"
            f"{'' if str(row['victim_ok']) == 'True' else ' (weak)'} "
            f"| {percent(row['acc_after_report'])} / {percent(row['asr_after_report'])} "
            f"| {row['flagged']} | {z} | {stop} |"
        )


def line(name: str, part: pd.DataFrame) -> str:
    """Return a row of the table."""
    first = part[part.preset == PRESETS[0]]
    cells = [name, str(len(first)), spread(first, "acc_before_report", "asr_before_report")]
    for preset in PRESETS:
        some = part[part.preset == preset]
        der = f"{some.der_report.mean():.3f} ± {some.der_report.std():.3f}"
        cells.append(f"{spread(some, 'acc_after_report', 'asr_after_report')} / {der}")
    return f"| {' | '.join(cells)} |"


def spread(part: pd.DataFrame, *columns: str) -> str:
    """Return mean ± standard deviation of each column in percent."""
    return " / ".join(f"{100 * part[c].mean():.1f} ± {100 * part[c].std():.1f}" for c in columns)


def percent(share: float) -> str:
    """Return a fraction in percent."""
    return f"{100 * share:.1f}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
