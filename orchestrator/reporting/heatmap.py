"""One heat map: a number in each cell, and what stands where there is none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path as Outline

from orchestrator.reporting.canvas import FONT_SIZE, INK
from orchestrator.reporting.naming import printable, value_text

BRIGHT_IS_HIGH = mpl.colormaps["cividis"]  # reads the same without red or green
BRIGHT_IS_LOW = mpl.colormaps["cividis_r"]
_BLACK_ABOVE = 0.179  # relative luminance at which black and white contrast alike
_GAP = 0.02  # between cells, in cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What a cell shows.

    Attributes:
        share: Place on the colour scale, in [0, 1]; None leaves the cell without colour.
        text: The number, or why there is none.
        note: A second, smaller line.
        hatched: Whether the cell is censored.
        marked: Whether the cell is outlined.
    """

    share: float | None = None
    text: str = ""
    note: str = ""
    hatched: bool = False
    marked: bool = False


def draw_cells(
    axes: Axes,
    cells: Mapping[tuple[int, int], Cell],
    columns: Sequence[str],
    rows: Sequence[str],
    colours: Colormap,
) -> None:
    """Draw cells by (column, row), the first row at the bottom."""
    axes.set(xlim=(0, len(columns)), ylim=(0, len(rows)))
    axes.set_xticks([place + 0.5 for place in range(len(columns))], _labels(columns))
    axes.set_yticks([place + 0.5 for place in range(len(rows))], _labels(rows))
    axes.tick_params(length=0, pad=3)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for (column, row), cell in cells.items():
        _draw(axes, column, row, cell, colours)


def _draw(axes: Axes, column: int, row: int, cell: Cell, colours: Colormap) -> None:
    colour = INK
    if cell.share is not None:
        red, green, blue, _ = fill = colours(cell.share)
        colour = "#000000" if _luminance(red, green, blue) > _BLACK_ABOVE else "#ffffff"
        axes.add_patch(_box(column, row, _GAP, facecolor=fill))
    else:
        axes.add_patch(_box(column, row, 2 * _GAP, fill=False, edgecolor=INK, alpha=0.35, lw=0.5))
    if cell.hatched:
        axes.add_patch(_hatching(column, row))
    if cell.marked:
        axes.add_patch(_box(column, row, 2 * _GAP, fill=False, edgecolor=INK, lw=2))
    middle, lift = column + 0.5, 0.14 if cell.note else 0.0
    size = FONT_SIZE if cell.share is not None else FONT_SIZE - 1.5
    centred: dict[str, Any] = {"ha": "center", "va": "center", "color": colour}
    axes.text(middle, row + 0.5 + lift, printable(cell.text), fontsize=size, **centred)
    if cell.note:
        axes.text(middle, row + 0.3, printable(cell.note), fontsize=FONT_SIZE - 3, **centred)


def _box(column: int, row: int, inset: float, **style: Any) -> Rectangle:
    side = 1 - 2 * inset
    style = {"linewidth": 0, **style} if "lw" not in style else style
    return Rectangle((column + inset, row + inset), side, side, **style)


def _hatching(column: int, row: int) -> PathPatch:
    """Return diagonals across a cell as one path: a pattern would need an id."""
    points: list[tuple[float, float]] = []
    low, high = 2 * _GAP, 1 - 2 * _GAP
    for shift in (-0.66, -0.33, 0.0, 0.33, 0.66):
        start, end = max(low, low - shift), min(high, high - shift)
        points += [(column + start, row + start + shift), (column + end, row + end + shift)]
    codes = [Outline.MOVETO, Outline.LINETO] * (len(points) // 2)
    return PathPatch(Outline(points, codes), fill=False, edgecolor=INK, alpha=0.3, lw=0.6)


def _labels(values: Sequence[str]) -> list[str]:
    return [printable(value_text(value)) for value in values]


def _luminance(red: float, green: float, blue: float) -> float:
    """Return the relative luminance of an sRGB colour, as WCAG defines it."""
    linear = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (red, green, blue)
    )
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
