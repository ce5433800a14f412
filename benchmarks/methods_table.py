"""Tables of a study of repair methods: ``python -m benchmarks.methods_table runs/methods``.

The numbers are the report's, by the same code from the same results.csv. Tables: each method at the
one setting that is best over all victims; ACC / ASR (DER) by attack; in how many repairs the
backdoor is removed (ASR below 10 %, ACC above chance; in brackets in how many of these the target's
class keeps an ACC above 10 %: a model that never predicts it has no backdoor either), and the mean
(lowest to highest) ACC of that class after the removals; ULRL beside each method.
"""

import argparse
from collections.abc import Sequence
from statistics import fmean

import pandas as pd

from benchmarks._common import markdown, study_folder
from benchmarks._removals import count_removals, removed, target_class_acc
from benchmarks.axes_table import span
from orchestrator.plan.columns import ULRL, Family
from orchestrator.plan.labels import DAGGER
from orchestrator.reporting.build import league_markdown, read_summary
from orchestrator.reporting.league import MethodOutcome, league, league_table
from orchestrator.reporting.summary import summarise
from orchestrator.reporting.text import difference_texts, names_of
from orchestrator.search.inference import estimate

METRICS = ("acc_after_report", "asr_after_report", "der_report")


def _families(found: Sequence[MethodOutcome]) -> dict[Family, str]:
    """Return the families that a method repairs, with the names of their attacks."""
    return {one.family: _name(one.family.attack) for row in found for one in row.repairs}


def _name(attack: str) -> str:
    return attack.partition(" ")[0]  # without its options


def by_attack(found: Sequence[MethodOutcome]) -> str:
    """Return ACC / ASR (DER) of each method on each attack, means over the seeds."""
    families = _families(found)
    victims = {o.scenario: o.victim for row in found for o in row.summary.outcomes if o.took}
    before = ["none"]
    for family in families:
        of = [victim for scenario, victim in victims.items() if scenario.family == family]
        clean, obeyed = (100 * fmean(v[f"{m}_before_report"] for v in of) for m in ("acc", "asr"))
        before.append(f"{clean:.0f} / {obeyed:.0f}, n = {len(of)}")
    rows = [before]
    for row in found:
        cells = []
        for family in families:
            acc, asr, der = (row.of(family, metric) for metric in METRICS)
            if acc and asr and der:
                cells.append(f"{100 * acc.mean:.0f} / {100 * asr.mean:.0f} ({der.mean:.2f})")
            else:
                cells.append("–")
        rows.append([row.method, *cells])
    return markdown(["method", *families.values()], rows)


def by_class(found: Sequence[MethodOutcome], accuracies: "pd.Series[float]") -> str:
    """Return in how many repairs of each attack the backdoor is removed, and the class kept.

    Args:
        found: The methods.
        accuracies: ACC of the target's class after a repair, by the trial's place.
    """
    families = _families(found)
    rows = []
    for row in found:
        of = [[t for t in row.judged if t.scenario.family == family] for family in families]
        cells = [count_removals(part, accuracies) if part else "–" for part in [*of, row.judged]]
        known = accuracies[accuracies.index.isin([t.place for t in removed(row.judged)])]
        rows.append([row.method, *cells, span(100 * known)])
    head = ["removed (class kept)", *families.values(), "all", "the class's ACC"]
    return markdown(head, rows)


def beside_ulrl(found: Sequence[MethodOutcome]) -> str:
    """Return how ULRL stands to each other method: DER of ULRL less that of the other.

    An attack is won if ULRL's DER is the larger on every one of its victims, and lost if it is
    the smaller on every one.
    """
    [ulrl] = [row for row in found if row.method == ULRL]
    rows, gaps = [], []
    for row in found:
        shared = [one for one in ulrl.repairs if one in row.repairs]
        if row is ulrl or not shared:  # as where a method wrecks every model
            continue
        attacks = [one.family.attack for one in shared]
        own, other = ([r.repairs[one].numbers["der_report"] for one in shared] for r in (ulrl, row))
        differences = [a - b for a, b in zip(own, other, strict=True)]
        gaps.append((estimate(differences, attacks), "der"))
        places: tuple[list[str], ...] = ([], [], [])
        for attack in dict.fromkeys(attacks):
            of = [d for d, a in zip(differences, attacks, strict=True) if a == attack]
            places[0 if min(of) > 0 else 2 if max(of) < 0 else 1].append(_name(attack))
        rows.append([row.method, *(", ".join(names) or "–" for names in places)])
    texts = difference_texts(gaps)
    lines = [[row[0], text, *row[1:]] for row, text in zip(rows, texts, strict=True)]
    return markdown(["method", "ULRL - method, DER", "ULRL wins", "neither", "ULRL loses"], lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    folder = parser.parse_args(arguments).folder
    results, study, summary = read_summary(folder)
    found = league(
        {
            method: summarise(part, summary.objective, oracles=method.endswith(DAGGER))
            for method, part in results.by_method.items()
        }
    )
    print(league_markdown(study.name or folder.name, league_table(found, names_of(results))))
    parts = [by_attack(found), by_class(found, target_class_acc(folder))]
    if any(row.method == ULRL for row in found):
        parts.append(beside_ulrl(found))
    print(*parts, sep="\n\n")


if __name__ == "__main__":
    main()
