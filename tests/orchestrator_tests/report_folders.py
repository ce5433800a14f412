"""Study folders made up for tests of the report: every status, weak victims, hostile text."""

import csv
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

HOSTILE = 'boom </script><script>alert("1")</script> <img src="http://evil.test/x.png"> {{ 7*7 }}'
COLUMNS = (
    *("attack", "attack_options", "dataset", "architecture", "poison_ratio", "target_label"),
    *("seed", "defence_seed", "clean_ratio", "unlearn_threshold", "reinit_ratio"),
)
OUTCOME = (
    *("status", "error", "victim_ok"),
    *(
        f"{metric}_{when}_{half}"
        for metric in ("acc", "asr", "ra")
        for when in ("before", "after")
        for half in ("selection", "report")
    ),
    *("der_selection", "der_report", "flagged", "target_z", "stop_epoch", "threshold_reached"),
    *("seconds", "mlflow_run_id"),
)
# Columns that older results lack.
LATER = (
    *("target_rank", "collapse_class", "collapse_share", "wrecked", "rir_selection", "rir_report"),
    *("repair_seconds", "passes", "passes_planned"),
    *("zeroed_parts", "zeroed_share", "weight_change", "repair_defaults"),
)
AFTER_THE_VICTIM = [name for name in OUTCOME if "_after_" in name or name.startswith("der_")]
AFTER_THE_VICTIM += ["flagged", "target_z", "stop_epoch", "threshold_reached", "seconds"]

Row = dict[str, Any]
Attack = tuple[str, Mapping[str, Any]]


def make_rows(  # one argument per axis
    *,
    attacks: Sequence[Attack] = (("badnets", {}), ("blended", {"alpha": 0.1}), ("sig", {})),
    datasets: Sequence[str] = ("digits",),
    architectures: Sequence[str] = ("preact_resnet18(width=16)",),
    seeds: Sequence[int] = (0,),
    thresholds: Sequence[float] = (0.1, 0.2, 0.4),
    ratios: Sequence[float] = (0.25, 0.5, 1.0),
    further: Mapping[str, Sequence[Any]] | None = None,
) -> list[Row]:
    """Return the rows of a study whose trials are all done, as a plan orders them."""
    further = further or {}
    rows = []
    scenarios = itertools.product(attacks, datasets, architectures, seeds)
    for (attack, options), dataset, architecture, seed in scenarios:
        random = Random(f"{attack}{options}{dataset}{architecture}{seed}")
        before = {
            f"{metric}_before_{half}": _near(random, middle)
            for metric, middle in (("acc", 0.93), ("asr", 0.98), ("ra", 0.02))
            for half in ("selection", "report")
        }
        for threshold, ratio, *others in itertools.product(thresholds, ratios, *further.values()):
            row: Row = {
                "attack": attack,
                "attack_options": json.dumps(options),
                "dataset": dataset,
                "architecture": architecture,
                "poison_ratio": 0.1,
                "target_label": 0,
                "seed": seed,
                "defence_seed": seed,
                "clean_ratio": 0.05,
                "unlearn_threshold": threshold,
                "reinit_ratio": ratio,
                **dict(zip(further, others, strict=True)),
                "status": "done",
                "error": "",
                "victim_ok": True,
                **before,
                **_repaired(random, before, threshold, ratio),
            }
            rows.append(row)
    return rows


def _near(random: Random, middle: float) -> float:
    return min(1.0, max(0.0, random.gauss(middle, 0.01)))


def _repaired(random: Random, before: Row, threshold: float, ratio: float) -> Row:
    row: Row = {}
    for half in ("selection", "report"):
        acc = _near(random, 0.91 - 0.1 * (ratio - 0.5) ** 2)
        asr = _near(random, 0.02 + 0.6 * (threshold - 0.2) ** 2 + 0.2 * (1 - ratio) ** 2)
        row |= {f"acc_after_{half}": acc, f"asr_after_{half}": asr}
        row[f"ra_after_{half}"] = _near(random, 0.8)
        asr_drop = max(0.0, before[f"asr_before_{half}"] - asr)
        acc_drop = max(0.0, before[f"acc_before_{half}"] - acc)
        row[f"der_{half}"] = (asr_drop - acc_drop + 1) / 2
    flagged = random.choice([[0], [0], [0, 3], [5], []])
    return row | {
        "flagged": json.dumps(flagged),
        "target_z": random.uniform(2, 30),
        "stop_epoch": random.randint(2, 20),
        "threshold_reached": random.random() > 0.1,
        "seconds": random.uniform(1, 60),
        "mlflow_run_id": f"{random.getrandbits(64):016x}",
    }


def settle(row: Row) -> None:
    """Make the DER of a done row that of its ACC and ASR."""
    for half in ("selection", "report"):
        asr, acc = (
            max(0.0, row[f"{metric}_before_{half}"] - row[f"{metric}_after_{half}"])
            for metric in ("asr", "acc")
        )
        row[f"der_{half}"] = (asr - acc + 1) / 2


def reach(row: Row, der: float, half: str = "selection") -> None:
    """Let a done row reach a DER, at no cost in ACC."""
    row |= {f"asr_before_{half}": 1.0, f"asr_after_{half}": 2 - 2 * der}
    row |= {f"acc_before_{half}": 0.9, f"acc_after_{half}": 0.9, f"der_{half}": der}


def unfinish(row: Row, status: str, error: str = "") -> None:
    """Make a done row one that ended otherwise."""
    row |= {"status": status, "error": error} | dict.fromkeys(AFTER_THE_VICTIM, "")


def weaken(rows: Sequence[Row], where: Callable[[Row], bool]) -> None:
    """Let the victims of some rows not take."""
    for row in filter(where, rows):
        row |= {"victim_ok": False, "asr_before_selection": 0.11, "asr_before_report": 0.125}
        if row["status"] == "done":
            settle(row)


def write_csv(path: Path, rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_study(folder: Path, rows: Sequence[Row], objective: str = "der") -> Path:
    """Write results.csv, stages.csv and study.yaml; return the folder."""
    further = [name for name in rows[0] if name not in {*COLUMNS, *OUTCOME, *LATER}]
    later = [name for name in rows[0] if name in LATER]
    write_csv(folder / "results.csv", rows, [*COLUMNS, *further, *OUTCOME, *later])
    stages = ("train_victim", "unlearn", "score_neurons", "relearn", "evaluate")
    work = [
        {
            "stage": stage,
            "key": f"{stage}{number // (9 if stage == 'train_victim' else 1):04}",
            "scenario": f"{row['attack']} {row['dataset']} seed {row['seed']}",
            "seconds": 0.5 + number % 7,
            "computed": number % 3 != 2,
        }
        for number, row in enumerate(rows)
        for stage in stages
    ]
    write_csv(folder / "stages.csv", work)
    study = f"name: sensitivity-made-up\nobjective: {objective}\n"
    (folder / "study.yaml").write_text(study, encoding="utf-8")
    return folder


def write_pruning(folder: Path, scenario: str) -> None:
    """Write a pruning log of two decisions."""
    columns = (
        *("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs"),
        *("worse", "against"),
    )
    setting, best = (f"unlearn_threshold={value}, reinit_ratio=0.25" for value in (0.4, 0.2))
    rows = [
        ("setting", setting, "", 7, 0.8123456, 0.95, 0.0078125, 7, 7, best),
        ("curve", setting, scenario, 5, 0.6, 0.9, "", 6, 5, ""),
    ]
    log = folder / "logs" / "pruning.csv"
    write_csv(log, [dict(zip(columns, row, strict=True)) for row in rows])


def mixed_rows() -> list[Row]:
    """Return rows with everything that can happen in a study."""
    rows = make_rows(
        attacks=(
            ("badnets", {}),
            ("blended", {"alpha": 0.1}),
            ("blended", {"alpha": 0.2, "labels": "all_to_all"}),
            ("sig", {"labels": "clean_label"}),
        ),
        datasets=("digits", "cifar10"),
        seeds=(0, 1, 2),
    )
    weaken(rows, lambda row: row["attack"] == "sig" and row["seed"] == 2)
    weaken(rows, lambda row: row["attack"] == "sig" and row["dataset"] == "cifar10")
    for row in rows:
        worst = row["unlearn_threshold"] == 0.4 and row["reinit_ratio"] == 0.25
        if row["attack"] == "badnets" and row["dataset"] == "cifar10":
            row["asr_after_report"] += 0.3
            settle(row)
        if worst and (row["dataset"], row["seed"]) != ("digits", 0):
            unfinish(row, "pruned")
    unfinish(rows[4], "failed", HOSTILE)
    unfinish(rows[40], "failed", "Traceback (most recent call last):\n  File x\nValueError: no")
    for row in rows[-3:]:
        unfinish(row, "pending")
    return rows


def write_curves(folder: Path, rows: Sequence[Row], epochs: int = 12) -> None:
    """Write curves.csv: an ascent per scenario, a relearning per done trial."""
    further = [name for name in rows[0] if name not in {*COLUMNS, *OUTCOME}]
    columns = ("phase", *COLUMNS, *further, "accuracy", "acc", "asr", "ra")
    curves, seen = [], set()
    for row in rows:
        if row["status"] == "done":
            point = {name: row[name] for name in (*COLUMNS, *further)}
            scenario = tuple(str(row[name]) for name in COLUMNS[:7])
            falling = json.dumps([round(1 - epoch / epochs, 3) for epoch in range(epochs)])
            flat = json.dumps([round(row["acc_after_selection"], 3)] * epochs)
            if scenario not in seen:
                seen.add(scenario)
                values = {"accuracy": falling, "acc": falling, "asr": flat, "ra": flat}
                curves.append({"phase": "unlearn", **point, **values})
            values = {"accuracy": "[]", "acc": flat, "asr": falling, "ra": flat}
            curves.append({"phase": "relearn", **point, **values})
    write_csv(folder / "curves.csv", curves, columns)


def count_out(rows: Sequence[Row], classes: int = 10, each: int = 40) -> list[Row]:
    """Return counts by class, and make the rows' metrics of the report half follow from them.

    Each class has as many clean images and, but for those that ASR leaves out, triggered ones.
    """
    counts: list[Row] = []
    victims: dict[tuple[str, ...], Row] = {}
    for number, row in enumerate(rows):
        scenario = tuple(str(row[name]) for name in COLUMNS[:7])
        if row["victim_ok"] == "":
            continue
        if scenario not in victims:
            random = Random(f"{scenario}")
            counts += _counted(row, "before", number, random, (classes, each))
            victims[scenario] = row
        for metric in ("acc", "asr", "ra"):
            row[f"{metric}_before_report"] = victims[scenario][f"{metric}_before_report"]
        if row["status"] == "done":
            counts += _counted(row, "after", number, Random(number), (classes, each))
            settle(row)
    return counts


def _counted(
    row: Row, when: str, number: int, random: Random, size: tuple[int, int]
) -> Iterator[Row]:
    """Yield cells of the report half with the metrics that a row has, as far as images allow."""
    classes, each = size
    all_to_all = json.loads(row["attack_options"]).get("labels") == "all_to_all"
    cells: Counter[tuple[Any, ...]] = Counter()
    for images in ("clean", "triggered"):
        aims = {
            label: (label + 1) % classes if all_to_all else row["target_label"]
            for label in range(classes)
        }
        shown = [c for c in range(classes) if images == "clean" or aims[c] != c] * each
        random.shuffle(shown)
        shares = ("acc",) if images == "clean" else ("asr", "ra")
        hits = [round(float(row[f"{metric}_{when}_report"]) * len(shown)) for metric in shares]
        hits[1:] = [min(hit, len(shown) - hits[0]) for hit in hits[1:]]
        for metric, hit in zip(shares, hits, strict=True):
            row[f"{metric}_{when}_report"] = hit / len(shown)
        for place, label in enumerate(shown):
            aim = None if images == "clean" else aims[label]
            wrong = random.choice([c for c in range(classes) if c not in {label, aim}])
            guess: int | None = wrong if place >= sum(hits) else label
            if images == "triggered" and place < hits[0]:
                guess = aim
            cells[images, label, aim, guess] += 1
    model = {"before": "victim", "after": "repaired"}[when]
    names = ("images", "true_class", "wanted_class", "predicted_class")
    for cell, count in cells.items():
        head = {"trial": number, "model": model, "half": "report"}
        yield {**head, **dict(zip(names, cell, strict=True)), "count": count}


def write_starts(folder: Path) -> None:
    """Write the record of one start."""
    start = {
        "command": "python -m orchestrator.study grid.yaml",
        "executor": "inline",
        "device": "cpu",
        "hardware": "2 × a processor, 8 GiB",
        "system": "Linux",
        "versions": {"python": "3.11", "torch": "2.14.1"},
        "commit": "",
    }
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "starts.jsonl").write_text(json.dumps(start) + "\n", encoding="utf-8")
