"""Predictions class by class: confusion matrices, ACC and ASR of each class."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import METRICS, MODELS, SCENARIO
from orchestrator.reporting.read_results import StudyResults
from orchestrator.reporting.summary import Repair, Summary
from orchestrator.reporting.svg import (
    Cell,
    Panel,
    SvgCanvas,
    SvgFigure,
    cell_scales,
    colour_at,
    draw_cells,
)
from orchestrator.reporting.text import NOTHING, signed

FILE = "confusion.parquet"  # in the study's folder
WHEN = dict(zip(MODELS, ("before", "after"), strict=True))  # in the columns of results.csv
_WHOLE = ("trial", "true_class", "wanted_class", "predicted_class", "count")
_COLUMNS = (*_WHOLE, "model", "half", "images")
_LARGEST = 100_000  # classes; more would be no file of this program's

Counts: TypeAlias = NDArray[np.int64]
Shares: TypeAlias = NDArray[np.float64]
Key: TypeAlias = tuple[int, str]  # row of results.csv from 0, one of `MODELS`


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrices:
    """Predictions of one model, or of several together.

    Attributes:
        clean: Of clean images by class, ``[classes, classes]``: true in rows, predicted in columns.
        triggered: Of triggered images, by the class that they are of without the trigger.
        wanted: The class that the attacker wants for images of each; -1 where none is triggered.
    """

    clean: Counts
    triggered: Counts
    wanted: Counts

    @property
    def classes(self) -> int:
        return len(self.wanted)

    @cached_property
    def by_class(self) -> Mapping[str, Shares]:
        """ACC, ASR and RA by the class of the image; NaN where a class has none."""
        return {
            "acc": _divided(self.clean.diagonal(), self.clean),
            "asr": _divided(self._as_wanted, self.triggered),
            "ra": _divided(self.triggered.diagonal(), self.triggered),
        }

    @property
    def metrics(self) -> Mapping[str, float]:
        """ACC, ASR and RA of all classes together; NaN without images."""
        clean, triggered = (max(int(m.sum()), 0) or np.nan for m in (self.clean, self.triggered))
        return {
            "acc": float(self.clean.trace() / clean),
            "asr": float(self._as_wanted.sum() / triggered),
            "ra": float(self.triggered.trace() / triggered),
        }

    @property
    def _as_wanted(self) -> Counts:
        hits: Counts = self.triggered[np.arange(self.classes), self.wanted]  # 0 where it is -1
        return hits

    def shares(self, images: str) -> Shares:
        """Return a matrix with rows that sum to 1, those without images to 0."""
        matrix: Counts = getattr(self, images)
        shares: Shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        return shares


def added(several: Sequence[Matrices]) -> Matrices:
    """Return the predictions of several models on the same images together."""
    return Matrices(
        clean=np.sum([one.clean for one in several], axis=0),
        triggered=np.sum([one.triggered for one in several], axis=0),
        wanted=several[0].wanted,
    )


def read_confusions(
    path: Path, results: StudyResults, groups: Collection[Collection[Key]]
) -> list[list[Matrices] | None]:
    """Return the matrices of groups of models, each group of one number of classes.

    Args:
        path: Of the file; there need be none.
        results: Whose rows the file's trials are.
        groups: Which models; a group that the file lacks one of is None.

    Raises:
        SpecError: The file is there, but is no such table, or is not of these results.
    """
    if not path.exists() or not groups:
        return [None for _ in groups]
    cells = _read(path, {key for group in groups for key in group})
    found: list[list[Matrices] | None] = []
    for group in groups:
        own = [cells.get(key) for key in group]
        parts = [one for one in own if one is not None]
        if len(parts) < len(own):
            found.append(None)
            continue
        classes = 1 + max(int(part[name].max()) for part in parts for name in _WHOLE[1:4])
        matrices = [_matrices(part, classes) for part in parts]
        for key, one in zip(group, matrices, strict=True):
            _check(path, results, key, one)
        found.append(matrices)
    return found


def _read(path: Path, keys: Collection[Key]) -> dict[Key, Mapping[str, Any]]:
    """Return the columns of the cells on the report half of each model."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    trials = sorted({trial for trial, _ in keys})
    try:
        schema = pq.read_schema(path)
        if missing := [name for name in _COLUMNS if name not in schema.names]:
            raise SpecError([f"{path}: lacks the column {missing[0]}"])
        filters = [("trial", "in", trials), ("half", "=", "report")]
        table = pq.read_table(path, columns=list(_COLUMNS), filters=filters)
        words = {name: np.array(table[name].to_pylist(), object) for name in ("model", "images")}
        whole = {n: table[n].cast(pa.int64()).fill_null(-1).to_numpy() for n in _WHOLE}
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError([f"{path}: cannot be read as a table of counts; {reason}"]) from None
    for name in _WHOLE[1:]:
        low = -1 if name == "wanted_class" else 0  # which clean images have none of
        high = np.iinfo(np.int64).max if name == "count" else _LARGEST
        if not low <= whole[name].min(initial=low) <= whole[name].max(initial=low) <= high:
            raise SpecError([f"{path}: {name}: is missing or out of range somewhere"])
    found: dict[Key, Mapping[str, Any]] = {}
    for trial, model in keys:
        own = (whole["trial"] == trial) & (words["model"] == model)
        if own.any():
            columns = {name: values[own] for name, values in whole.items()}
            found[trial, model] = {**columns, "images": words["images"][own]}
    return found


def _matrices(cells: Mapping[str, Any], classes: int) -> Matrices:
    made = {}
    wanted = np.full(classes, -1)
    for images in ("clean", "triggered"):
        own = cells["images"] == images
        true, predicted = cells["true_class"][own], cells["predicted_class"][own]
        made[images] = np.zeros((classes, classes), np.int64)
        np.add.at(made[images], (true, predicted), cells["count"][own])
        if images == "triggered":
            wanted[true] = cells["wanted_class"][own]
    return Matrices(**made, wanted=wanted)


def _check(path: Path, results: StudyResults, key: Key, found: Matrices) -> None:
    """Refuse counts of other models than those of the results: rows may have moved."""
    number, model = key
    for metric in METRICS:
        column = f"{metric}_{WHEN[model]}_report"
        said = results.trials[number].numbers.get(column, np.nan)
        counted = found.metrics[metric]
        if not abs(said - counted) < 1e-9:
            text = (
                f"{path}: trial {number}, {model}: its counts make {column} {counted:.6g}, and "
                f"results.csv has {said:.6g}; run the study's command again"
            )
            raise SpecError([text])


def _divided(hits: Counts, matrix: Counts) -> Shares:
    total = matrix.sum(axis=1)
    return np.where(total > 0, hits / np.maximum(total, 1), np.nan)


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


def keys_of(repair: Repair, results: StudyResults) -> list[Key]:
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


def draw_classes(shown: Repaired) -> SvgFigure | None:
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
    sheet = SvgCanvas(
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
