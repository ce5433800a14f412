"""One heat map: a number in each cell, and what stands where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.reporting.canvas import FONT_SIZE, INK, Panel, Point, Scale
from orchestrator.reporting.naming import value_text

# Cividis (Nunez, Anderton, Renslow 2018), tenth by tenth: it reads the same without red or green.
CIVIDIS = (
    *("#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78"),
    *("#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838"),
)
_BLACK_ABOVE = 0.179  # relative luminance at which black and white contrast alike
_GAP = 0.02  # between cells, in cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows.

    Attributes:
        share: Place on the colour scale, in [0, 1]; None leaves the cell without colour.
        text: The number, or why there is none.
        note: A second, smaller line.
        tip: What is told of it when it is pointed at.
        hatched: Whether the cell is censored.
        marked: Whether the cell is outlined.
    """

    share: float | None = None
    text: str = ""
    note: str = ""
    tip: str = ""
    hatched: bool = False
    marked: bool = False


def cell_scales(columns: int, rows: int) -> tuple[Scale, Scale]:
    """Return the scales of a heat map with so many cells."""
    return Scale(low=0, high=columns), Scale(low=0, high=rows)


def draw_cells(
    panel: Panel,
    cells: Mapping[tuple[int, int], Cell],
    columns: Sequence[str],
    rows: Sequence[str],
) -> None:
    """Draw cells by (column, row), the first row at the bottom."""
    for axis, values in (("x", columns), ("y", rows)):
        labels = [(place + 0.5, value_text(value)) for place, value in enumerate(values)]
        panel.ticks(axis, labels, grid=False)
    for (column, row), cell in cells.items():
        _draw(panel, column, row, cell)


def colour_at(share: float) -> str:
    """Return the colour of a place on the scale, dark at 0 and bright at 1."""
    place = min(1.0, max(0.0, share)) * (len(CIVIDIS) - 1)
    index = min(int(place), len(CIVIDIS) - 2)
    low, high = (_parts(colour) for colour in CIVIDIS[index : index + 2])
    mixed = (a + (b - a) * (place - index) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def _draw(panel: Panel, column: int, row: int, cell: Cell) -> None:
    colour = INK
    if cell.share is not None:
        fill = colour_at(cell.share)
        colour = "#000" if _luminance(fill) > _BLACK_ABOVE else "#fff"
        panel.box(*_corners(column, row, _GAP), fill=fill, tip=cell.tip)
    else:
        panel.box(
            *_corners(column, row, 2 * _GAP),
            tip=cell.tip,
            fill="none",
            pointer_events="all",
            stroke=INK,
            stroke_opacity=0.35,
            stroke_width=0.5,
        )
    if cell.hatched:
        _hatch(panel, column, row)
    if cell.marked:
        panel.box(*_corners(column, row, 2 * _GAP), fill="none", stroke=INK, stroke_width=2)
    size = FONT_SIZE if cell.share is not None else FONT_SIZE - 1.5
    lift = 4.0 if cell.note else 0.0
    middle = column + 0.5, row + 0.5
    panel.text(*middle, cell.text, dy=-lift, size=size, colour=colour)
    if cell.note:
        panel.text(*middle, cell.note, dy=6, size=FONT_SIZE - 3, colour=colour)


def _corners(column: int, row: int, inset: float) -> tuple[Point, Point]:
    return (column + inset, row + inset), (column + 1 - inset, row + 1 - inset)


def _hatch(panel: Panel, column: int, row: int) -> None:
    """Draw diagonals across a cell: a pattern would need an id."""
    low, high = 2 * _GAP, 1 - 2 * _GAP
    for shift in (-0.66, -0.33, 0.0, 0.33, 0.66):
        start, end = max(low, low - shift), min(high, high - shift)
        ends = [(column + start, row + start + shift), (column + end, row + end + shift)]
        panel.line(ends, stroke_width=0.6, opacity=0.3)


def _parts(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[place : place + 2], 16) for place in (1, 3, 5))


def _luminance(colour: str) -> float:
    """Return the relative luminance of an sRGB colour, as WCAG defines it."""
    linear = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in _parts(colour))
    )
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
