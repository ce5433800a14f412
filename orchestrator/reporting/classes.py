"""The report's section on classes: what a repair does to each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.files import csv_text
from orchestrator.reporting.canvas import Drawing, Panel, Sheet
from orchestrator.reporting.confusion import Key, Matrices, Shares, added
from orchestrator.reporting.heatmap import Cell, cell_scales, colour_at, draw_cells
from orchestrator.reporting.results import Results
from orchestrator.reporting.schema import METRICS, MODELS, SCENARIO
from orchestrator.reporting.summary import Repair, Summary
from orchestrator.reporting.wording import NOTHING, signed

MOST_DRAWN = 20  # classes of a confusion matrix that is drawn
MOST_LISTED = 10  # classes at either end, where there are more than that
MOST_SCENARIOS = 12
_MOST_WRITTEN = 12  # classes beyond which cells are too small for numbers
_WANTED = "#d55e00"  # the outline of what the attacker wants
_CSV = (
    *("class", "wanted_class", "clean_images", "acc_before", "acc_after", "triggered_images"),
    *("asr_before", "asr_after", "ra_before", "ra_after"),
)
_LEFT, _BOTTOM, _RIGHT, _TOP = 44.0, 34.0, 8.0, 22.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired:
    """A scenario's victim, and what the one setting for all makes of it.

    Attributes:
        repair: The trials; where they are several, `after` is of all their models together.
    """

    repair: Repair
    before: Matrices
    after: Matrices


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Classes of a scenario, in words.

    Attributes:
        rows: Class; ACC of the victim, of the repaired model and the difference; ASR of the two.
    """

    title: str
    rows: Sequence[tuple[str, ...]]


def chosen_repairs(summary: Summary) -> list[Repair]:
    """Return how the one setting for all repairs, for those scenarios that are shown.

    The first of each family precede others: seeds resemble each other.
    """
    families = summary.families().values()
    ordered = sorted(
        ((place, outcome) for group in families for place, outcome in enumerate(group)),
        key=lambda pair: pair[0],
    )
    found = [outcome.common for _, outcome in ordered if outcome.common is not None]
    return found[:MOST_SCENARIOS]


def keys_of(repair: Repair, results: Results) -> list[Key]:
    """Return the victim and the repaired models of a scenario, as the file of counts names them."""
    number = {id(trial): place for place, trial in enumerate(results.trials)}
    first = next(n for n, t in enumerate(results.trials) if t.scenario == repair.scenario)
    return [
        (first, MODELS[0]),
        *((number[id(trial)], MODELS[1]) for trial in repair.judged),
    ]


def repaired_of(repair: Repair, found: Sequence[Matrices]) -> Repaired:
    """Return the matrices of a victim and then of the repaired models as one."""
    return Repaired(repair=repair, before=found[0], after=added(found[1:]))


def draw_classes(shown: Repaired) -> Drawing | None:
    """Draw four confusion matrices in percent of their rows, unless they are too large."""
    classes = shown.before.classes
    if classes > MOST_DRAWN:
        return None
    width, height = (21.0, 19.0) if classes <= _MOST_WRITTEN else (13.0, 13.0)
    panels = (
        ("Triggered, victim", shown.before, "triggered"),
        ("Triggered, repaired", shown.after, "triggered"),
        ("Clean, victim", shown.before, "clean"),
        ("Clean, repaired", shown.after, "clean"),
    )
    columns = 4 if classes <= _MOST_WRITTEN else 2
    sheet = Sheet(
        rows=len(panels) // columns,
        columns=columns,
        width=_LEFT + max(classes, 8) * width + _RIGHT,
        height=_BOTTOM + max(classes, 6) * height + _TOP,
    )
    labels = [str(label) for label in range(classes)]
    for place, (title, matrices, images) in enumerate(panels):
        row, column = divmod(place, columns)
        scales = cell_scales(classes, classes)
        panel = sheet.panel(row, column, (_LEFT, _BOTTOM, _RIGHT, _TOP), *scales)
        panel.title(title)
        panel.labels("predicted class", "class of the image")
        for label in getattr(matrices, images).any(axis=1).nonzero()[0]:
            panel.box((0, classes - 1 - label), (classes, classes - label), fill=colour_at(0))
        draw_cells(panel, _cells(matrices, images), labels, labels[::-1])
        if images == "triggered":
            _outline(panel, matrices)
    return sheet.finish()


def class_tables(shown: Repaired) -> list[ClassTable]:
    """Return all classes, or of many those that lost most ACC and those that keep most ASR."""
    classes = range(shown.before.classes)
    if len(classes) <= MOST_DRAWN:
        return [ClassTable(title="", rows=[_row(shown, label) for label in classes])]
    loss, left = _losses(shown), shown.after.by_class["asr"]
    return [
        ClassTable(
            title=title, rows=[_row(shown, label) for label in _largest(values)[:MOST_LISTED]]
        )
        for title, values in (
            ("Classes that lost most ACC", loss),
            ("Classes with the highest remaining ASR", left),
        )
    ]


def extremes(shown: Repaired) -> str:
    """Return which class lost most ACC, and which has the highest ASR left."""
    told = []
    for metric, values, most, none in (
        ("acc", _losses(shown), "lost most ACC", "no class lost ACC"),
        ("asr", shown.after.by_class["asr"], "has the highest ASR", "no class has an ASR above 0"),
    ):
        label = _largest(values)[0]
        before, after = (
            _percent(matrices.by_class[metric][label]) for matrices in (shown.before, shown.after)
        )
        told.append(f"class {label} {most} ({before} → {after})" if values[label] > 0 else none)
    return ", ".join(told)


def classes_csv(shown: Repaired, setting_axes: Sequence[str]) -> str:
    """Return every class of a scenario; counts of images are the victim's, NaN is empty."""
    before, after = shown.before, shown.after
    trial = shown.repair.judged[0]
    several = len(shown.repair.judged) > 1
    cells = {name: trial.cells[name] for name in (*SCENARIO, *setting_axes)}
    if several:  # which the defence seed tells apart
        cells["defence_seed"] = " ".join(one.cells["defence_seed"] for one in shown.repair.judged)
    rows = []
    for label in range(before.classes):
        row: dict[str, object] = {**cells, "class": label}
        row["wanted_class"] = None if before.wanted[label] < 0 else int(before.wanted[label])
        row["clean_images"] = int(before.clean[label].sum())
        row["triggered_images"] = int(before.triggered[label].sum())
        for metric in METRICS:
            for when, matrices in (("before", before), ("after", after)):
                share = float(matrices.by_class[metric][label])
                row[f"{metric}_{when}"] = None if np.isnan(share) else share
        rows.append(row)
    return csv_text((*cells, *_CSV), rows)


def _cells(matrices: Matrices, images: str) -> dict[tuple[int, int], Cell]:
    shares = matrices.shares(images)
    counts = getattr(matrices, images)
    classes = matrices.classes
    return {
        (int(predicted), classes - 1 - int(true)): Cell(
            share=float(shares[true, predicted]),
            text=f"{100 * shares[true, predicted]:.0f}"
            if classes <= _MOST_WRITTEN and shares[true, predicted] >= 0.005
            else "",
            tip=f"class {true} as class {predicted}: {counts[true, predicted]} of "
            f"{counts[true].sum()} ({100 * shares[true, predicted]:.1f} %)",
        )
        for true, predicted in zip(*counts.nonzero(), strict=True)
    }


def _outline(panel: Panel, matrices: Matrices) -> None:
    """Outline in each row what the attacker wants."""
    for label, wanted in enumerate(matrices.wanted.tolist()):
        if wanted >= 0:
            row = matrices.classes - 1 - label
            low, high = (wanted + 0.04, row + 0.04), (wanted + 0.96, row + 0.96)
            panel.box(low, high, fill="none", stroke=_WANTED, stroke_width=1)


def _row(shown: Repaired, label: int) -> tuple[str, ...]:
    before, after = shown.before.by_class, shown.after.by_class
    change = after["acc"][label] - before["acc"][label]
    return (
        str(label),
        _percent(before["acc"][label]),
        _percent(after["acc"][label]),
        NOTHING if np.isnan(change) else signed(f"{100 * change:+.1f}"),
        _percent(before["asr"][label]),
        _percent(after["asr"][label]),
    )


def _losses(shown: Repaired) -> Shares:
    return shown.before.by_class["acc"] - shown.after.by_class["acc"]


def _largest(values: Shares) -> list[int]:
    """Return the classes that have a value, the largest first; of equals the first class."""
    order = np.argsort(-values, kind="stable")
    return [int(label) for label in order if not np.isnan(values[label])]


def _percent(share: float) -> str:
    return NOTHING if np.isnan(share) else f"{100 * share:.1f}"
