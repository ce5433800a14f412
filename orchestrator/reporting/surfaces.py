"""Surfaces: ACC, ASR and DER over unlearn threshold × reinit ratio, on the report half."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.files import csv_text
from orchestrator.reporting.canvas import Drawing, Sheet
from orchestrator.reporting.figures import title_of
from orchestrator.reporting.heatmap import Cell, cell_scales, draw_cells
from orchestrator.reporting.naming import (
    distinct,
    in_order,
    printable,
    setting_text,
    value_text,
)
from orchestrator.reporting.results import Results, Setting, Trial
from orchestrator.reporting.schema import SCENARIO, STATUSES, SURFACE_AXES, column_of
from orchestrator.reporting.summary import Spread, spread_of

MOST_ROWS = 12  # of surfaces in one figure
METRICS = ("acc", "asr", "der")
_MEASURED = (
    *("acc_before_report", "asr_before_report"),
    *("acc_after_report", "asr_after_report", "der_report"),
)
_LONGEST_HEAD = 32  # characters above a panel
_CELL_WIDTH, _CELL_HEIGHT = 42.0, 30.0  # points
_LEFT, _BOTTOM, _RIGHT, _LINE = 44.0, 34.0, 8.0, 12.0


@dataclass(frozen=True, kw_only=True)
class SurfaceAxes:
    """The values of the two axes in the whole study, so that all surfaces look alike."""

    thresholds: Sequence[str]
    ratios: Sequence[str]


def axes_of(results: Results) -> SurfaceAxes:
    """Return the axes that every surface of a study has."""
    thresholds, ratios = (
        in_order(trial.cells[axis] for trial in results.trials) for axis in SURFACE_AXES
    )
    return SurfaceAxes(thresholds=thresholds, ratios=ratios)


def rest(setting: Setting) -> Setting:
    """Return a setting without the axes of the surface."""
    return tuple((axis, value) for axis, value in setting if axis not in SURFACE_AXES)


def draw_surfaces(
    trials: Sequence[Trial], axes: SurfaceAxes, marked: Collection[Setting]
) -> Drawing:
    """Draw a row of three surfaces per combination of the other axes, up to `MOST_ROWS`.

    Trials of the same setting (from several scenarios) share a cell; a cell shows their
    mean, with colour only if all of them are done.
    """
    rows = distinct(rest(trial.setting) for trial in trials)[:MOST_ROWS]
    heads = [[_head(*pair) for pair in row] for row in rows]
    top = _LINE * (1.5 + max(map(len, heads)))
    across, up = max(3, len(axes.thresholds)), max(3, len(axes.ratios))
    sheet = Sheet(
        rows=len(rows),
        columns=len(METRICS),
        width=_LEFT + across * _CELL_WIDTH + _RIGHT,
        height=_BOTTOM + up * _CELL_HEIGHT + top,
    )
    for number, (row, head) in enumerate(zip(rows, heads, strict=True)):
        shown = [trial for trial in trials if rest(trial.setting) == row]
        for column, metric in enumerate(METRICS):
            scales = cell_scales(len(axes.thresholds), len(axes.ratios))
            panel = sheet.panel(number, column, (_LEFT, _BOTTOM, _RIGHT, top), *scales)
            panel.title(title_of(metric), *head)
            panel.labels(*SURFACE_AXES)
            cells = _cells(shown, axes, metric, marked)
            draw_cells(panel, cells, axes.thresholds, axes.ratios)
    return sheet.finish()


def scenario_csv(trials: Sequence[Trial], results: Results) -> str:
    """Return the trials behind a scenario's surfaces, every cell as in results.csv."""
    columns = (*SCENARIO, *results.setting_axes, "status", "victim_ok", *_MEASURED)
    return csv_text(
        columns,
        (
            {name: trial.cells[name] for name in columns}
            if trial.done
            else {name: trial.cells[name] for name in columns if name not in _AFTER}
            for trial in trials
        ),
    )


def pooled_csv(trials: Sequence[Trial], shared: Mapping[str, str], results: Results) -> str:
    """Return mean, spread and counts of each setting; `shared` is what all trials share."""
    measures = tuple(column_of(metric, "report") for metric in METRICS)
    spreads = tuple(f"{name}_{part}" for name in measures for part in ("mean", "sd"))
    columns = (*shared, *results.varied, *STATUSES, *spreads)
    rows = []
    for setting in distinct(trial.setting for trial in trials):
        group = [trial for trial in trials if trial.setting == setting]
        statuses = Counter(trial.status for trial in group)
        row: dict[str, object] = {**shared, **dict(setting)}
        row |= {status: statuses[status] for status in STATUSES}
        for name in measures:
            found = spread_of((trial for trial in group if trial.done), name)
            row |= {f"{name}_mean": found.mean, f"{name}_sd": found.sd} if found else {}
        rows.append(row)
    return csv_text(columns, rows)


_AFTER = {column_of(metric, "report") for metric in METRICS}


def _head(axis: str, value: str) -> str:
    text = printable(f"{axis}={value_text(value)}")
    return text if len(text) <= _LONGEST_HEAD else f"{text[: _LONGEST_HEAD - 1]}…"


def _cells(
    trials: Sequence[Trial], axes: SurfaceAxes, metric: str, marked: Collection[Setting]
) -> dict[tuple[int, int], Cell]:
    places: dict[tuple[int, int], list[Trial]] = {}
    for trial in trials:
        threshold, ratio = (trial.cells[axis] for axis in SURFACE_AXES)
        place = axes.thresholds.index(threshold), axes.ratios.index(ratio)
        places.setdefault(place, []).append(trial)
    return {
        place: _cell(group, metric, marked=group[0].setting in marked)
        for place, group in places.items()
    }


def _cell(group: Sequence[Trial], metric: str, *, marked: bool) -> Cell:
    found = spread_of((trial for trial in group if trial.done), column_of(metric, "report"))
    statuses = Counter(trial.status for trial in group)
    tip = cell_tip(group, metric, found) if len(group) > 1 else ""
    if found is None:
        worst = next(status for status in ("failed", "pending", "pruned") if statuses[status])
        text = "-" if worst == "pending" else worst
        return Cell(text=text, hatched=worst == "pruned", tip=tip)
    text = number_text(found.mean, metric)
    if found.n == len(group):
        return Cell(share=bright(found.mean, metric), text=text, marked=marked, tip=tip)
    return Cell(
        text=text,
        note=f"{found.n} of {len(group)}",
        hatched=statuses["pruned"] > 0,
        marked=marked,
        tip=tip,
    )


def bright(value: float, metric: str) -> float:
    """Return a place on the colour scale at which brighter is better."""
    return 1 - value if metric == "asr" else value


def number_text(value: float, metric: str) -> str:
    """Return a metric as a figure shows it: percent, or DER with three digits."""
    return f"{value:.3f}" if metric == "der" else f"{100 * value:.1f}"


def cell_tip(group: Sequence[Trial], metric: str, found: Spread | None) -> str:
    """Return what the trials of one setting reach, and how many of them there are."""
    told = [setting_text(group[0].setting)]
    if found is not None:
        spoken = "" if found.sd is None else f" ± {number_text(found.sd, metric)}"
        told.append(
            f"{title_of(metric)}: {number_text(found.mean, metric)}{spoken} (n = {found.n})"
        )
    statuses = Counter(trial.status for trial in group)
    told.append(", ".join(f"{statuses[name]} {name}" for name in STATUSES if statuses[name]))
    return "\n".join(told)
