"""SVG: drawing, axes, heat maps and their styles.

A page may inline any number of these drawings under a policy that forbids inline styles, and
what is drawn in `INK` takes the colour of the text around it. A tip stands in its mark as
``<title>``, which any viewer of the file shows too.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from html import escape
from math import ceil, cos, floor, log10, pi, prod, sin
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from orchestrator.reporting.read_folder import StudyResults, distinct, in_order
from orchestrator.reporting.text import label_of, printable, value_text

INK = "currentColor"  # of the surrounding text
FONT_SIZE = 9.0  # points
LINE = 10.0
SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # in matplotlib's letters
MARKS = (*SHAPES, *(f"open {shape}" for shape in SHAPES[1:]))  # an open o is a victim
# Points of a panel around what is drawn: left, bottom, right, top.
Margins = tuple[float, float, float, float]
Point = tuple[float, float]

_LETTERS = "system-ui, sans-serif"
_ROOT = f'font-family="{_LETTERS}" font-size="{FONT_SIZE:g}" stroke-linejoin="round"'
_OUTLINES: dict[str, Sequence[Point]] = {  # of marks, in radii
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.15), (1.05, 0.8), (-1.05, 0.8)),
    "D": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "v": ((0, 1.15), (1.05, -0.8), (-1.05, -0.8)),
    "<": ((-1.15, 0), (0.8, -1.05), (0.8, 1.05)),
    ">": ((1.15, 0), (-0.8, 1.05), (-0.8, -1.05)),
    "*": tuple((r * sin(n * pi / 5), -r * cos(n * pi / 5)) for n, r in enumerate(5 * (1.45, 0.6))),
    "P": (
        *((-0.4, -1.1), (0.4, -1.1), (0.4, -0.4), (1.1, -0.4), (1.1, 0.4), (0.4, 0.4)),
        *((0.4, 1.1), (-0.4, 1.1), (-0.4, 0.4), (-1.1, 0.4), (-1.1, -0.4), (-0.4, -0.4)),
    ),
    "X": (
        *((-1.1, -0.55), (-0.55, -1.1), (0, -0.55), (0.55, -1.1), (1.1, -0.55), (0.55, 0)),
        *((1.1, 0.55), (0.55, 1.1), (0, 0.55), (-0.55, 1.1), (-1.1, 0.55), (-0.55, 0)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class SvgFigure:
    """A finished figure."""

    svg: str  # the whole sheet as a file
    panels: tuple[str, ...]  # each as an ``<svg>`` element of its own, row by row, to be inlined
    columns: int  # of panels
    width: float  # of a panel, in points


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`; `log` where equal ratios are equally far apart.

    Labels stand at `ticks`, with lines across the panel if `grid`. Below the panel a label may have
    line breaks, with `LINE` points from one line to the next.
    """

    low: float
    high: float
    ticks: Sequence[tuple[float, str]] = ()
    label: str = ""
    log: bool = False
    grid: bool = True

    def share(self, value: float) -> float:
        """Return how far along the axis a value stands, 0 at `low` and 1 at `high`."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(value)
        return (at - low) / (high - low)


class Panel:
    """A pair of axes; everything is placed in their units.

    Args:
        box: Left, top, width and height on the sheet, in points.
        x: The horizontal axis.
        y: The vertical axis.
        title: Lines above the axes.
        frame: Which of the axes' own lines are drawn: ``left``, ``bottom``.
    """

    def __init__(
        self, box: Margins, x: Axis, y: Axis, title: Sequence[str], frame: Collection[str]
    ) -> None:
        self._left, self._top, self._width, self._height = box
        self._x, self._y = x, y
        self._parts: list[str] = []
        for number, line in enumerate(title):
            height = self._top - 9 - 12 * (len(title) - 1 - number)
            size = FONT_SIZE + 1 if number == 0 else FONT_SIZE
            self._write((self._left, height), line, "start", size)
        right, bottom = self._left + self._width, self._top + self._height
        if x.label:
            self._write((self._left + self._width / 2, bottom + 26), x.label)
        if y.label:
            place = self._left - 34, self._top + self._height / 2
            self._write(place, y.label, transform=f"rotate(-90 {_pair(place)})")
        for value, label in x.ticks:
            start, end = self.at(value, y.low), self.at(value, y.high)
            for number, text in enumerate(label.split("\n")):
                self._write((start[0], start[1] + 11 + LINE * number), text)
            self._grid(start, end, drawn=x.grid)
        for value, label in y.ticks:
            start, end = self.at(x.low, value), self.at(x.high, value)
            self._write((start[0] - 5, start[1]), label, "end")
            self._grid(start, end, drawn=y.grid)
        if frame:
            first = f"{_pair((self._left, self._top))}L" if "left" in frame else ""
            d = f"M{first}{_pair((self._left, bottom))}L{_pair((right, bottom))}"
            self._add("path", {"d": d, "fill": "none", "stroke": INK, "stroke-width": "0.6"})

    def at(self, x: float, y: float) -> Point:
        """Return a place on the sheet, in points."""
        across, up = self._x.share(x), self._y.share(y)
        return self._left + self._width * across, self._top + self._height * (1 - up)

    def line(self, points: Iterable[Point], *, tip: str = "", **style: object) -> None:
        """Draw a line through points."""
        places = " ".join(_pair(self.at(*point)) for point in points)
        self._add("polyline", {"points": places, "fill": "none", "stroke": INK, **style}, tip)

    def area(self, points: Iterable[Point], **style: object) -> None:
        """Fill what a line through points encloses."""
        self._add("polygon", {"points": " ".join(_pair(self.at(*p)) for p in points), **style})

    def box(self, low: Point, high: Point, *, tip: str = "", **style: object) -> None:
        """Draw a rectangle between two opposite corners."""
        (x0, y1), (x1, y0) = self.at(*low), self.at(*high)
        numbers = dict(zip(("x", "y", "width", "height"), (x0, y0, x1 - x0, y1 - y0), strict=True))
        self._add("rect", {**{name: _short(n) for name, n in numbers.items()}, **style}, tip)

    def mark(
        self, x: float, y: float, shape: str, colour: str, *, size: float = 2.4, tip: str = ""
    ) -> None:
        """Draw a filled mark of a radius of `size` points, or the outline of an ``open`` one."""
        across, down = self.at(x, y)
        style = {"fill": colour}
        if shape.startswith("open "):
            shape = shape.removeprefix("open ")
            style = {"fill": "none", "stroke": colour, "stroke-width": "0.9"}
        if shape == "o":
            centre = {"cx": _short(across), "cy": _short(down), "r": _short(size)}
            self._add("circle", {**centre, **style}, tip)
            return
        turns = (_pair((across + size * dx, down + size * dy)) for dx, dy in _OUTLINES[shape])
        self._add("polygon", {"points": " ".join(turns), **style}, tip)

    def text(  # noqa: PLR0913 - where, what and how
        self,
        x: float,
        y: float,
        text: str,
        *,
        dx: float = 0,
        dy: float = 0,
        anchor: str = "middle",
        size: float = FONT_SIZE,
        colour: str = INK,
    ) -> None:
        """Write a line; its middle stands at the place moved by `dx`, `dy` points (down)."""
        across, down = self.at(x, y)
        self._write((across + dx, down + dy), text, anchor, size, fill=colour)

    def svg(self) -> str:
        """Return what was drawn so far."""
        return f"<g>{''.join(self._parts)}</g>" if self._parts else ""

    def _grid(self, start: Point, end: Point, *, drawn: bool) -> None:
        if drawn:
            faint = {"stroke": INK, "stroke-width": "0.5", "opacity": "0.14"}
            self._add("path", {"d": f"M{_pair(start)}L{_pair(end)}", **faint})

    def _write(
        self, at: Point, text: str, anchor: str = "middle", size: float = FONT_SIZE, **more: str
    ) -> None:
        place = {"x": _short(at[0]), "y": _short(at[1] + 0.35 * size)}
        style = {"fill": INK} | ({} if anchor == "start" else {"text-anchor": anchor})
        if size != FONT_SIZE:
            style["font-size"] = _short(size)
        self._add("text", {**place, **style, **more}, text=text)

    def _add(self, tag: str, attributes: dict[str, object], tip: str = "", text: str = "") -> None:
        head = " ".join(
            f'{name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items()
        )
        inside = escape(printable(text), quote=False)
        if tip:
            lines = "\n".join(printable(line) for line in tip.split("\n"))
            inside = f"<title>{escape(lines, quote=False)}</title>"
        self._parts.append(f"<{tag} {head}>{inside}</{tag}>" if inside else f"<{tag} {head}/>")


@dataclass(kw_only=True)
class SvgCanvas:
    """Panels of one size, in points, in so many columns."""

    columns: int
    width: float
    height: float
    _panels: list[tuple[Point, Panel]] = field(default_factory=list)
    _heights: list[float] = field(default_factory=list)

    def panel(
        self,
        margins: Margins,
        x: Axis,
        y: Axis,
        title: Sequence[str] = (),
        frame: Collection[str] = ("left", "bottom"),
    ) -> Panel:
        """Return the next panel, row by row: its axes inside the margins."""
        left, bottom, right, top = margins
        row, column = divmod(len(self._panels), self.columns)
        corner = column * self.width, row * self.height
        size = self.width - left - right, self.height - bottom - top
        panel = Panel((corner[0] + left, corner[1] + top, *size), x, y, title, frame)
        self._panels.append((corner, panel))
        self._heights.append(self.height)
        return panel

    def crop(self, height: float) -> None:
        """Let the last panel be no higher than `height` where it is inlined."""
        self._heights[-1] = min(height, self.height)

    def finish(self) -> SvgFigure:
        """Return what was drawn."""
        drawn = [(corner, panel.svg()) for corner, panel in self._panels]
        rows = ceil(len(drawn) / self.columns)
        total = f"{self.columns * self.width:g}", f"{rows * self.height:g}"
        head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}"'
        whole = f'width="{total[0]}pt" height="{total[1]}pt" {_ROOT}'
        return SvgFigure(
            svg=f"<svg {head} {whole}>{''.join(svg for _, svg in drawn)}</svg>\n",
            panels=tuple(
                f'<svg viewBox="{x:g} {y:g} {self.width:g} {height:g}" {_ROOT}>{svg}</svg>'
                for ((x, y), svg), height in zip(drawn, self._heights, strict=True)
            ),
            columns=self.columns,
            width=self.width,
        )


def as_pdf(svg: str) -> bytes:
    """Return a whole sheet as PDF, black on no ground, with its letters in it; always the same."""
    from fpdf import FPDF  # which takes a second to import
    from fpdf.svg import SVGObject
    from matplotlib import get_data_path

    drawing = SVGObject(svg.replace(INK, "#000").replace(_LETTERS, "dejavu"))
    *_, width, height = drawing.viewbox or (0.0, 0.0)
    pdf = FPDF(unit="pt", format=(width, height))
    pdf.creation_date = datetime.fromtimestamp(0, UTC)
    pdf.add_font("dejavu", fname=Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf")
    pdf.set_font("dejavu", size=FONT_SIZE)
    pdf.set_margin(0)
    pdf.set_auto_page_break(auto=False)
    pdf.add_page()
    drawing.draw_to_page(pdf)
    return bytes(pdf.output())


def steps(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values from `low` to `high`, equally far apart, about `most` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10.0 ** floor(log10(rough))
    step = power * next(unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * (1 - 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def decades(low: float, high: float, most: int = 5) -> list[float]:
    """Return powers of ten from `low` to `high`, about `most`; their 2 and 5 fold if too few."""
    powers = range(floor(log10(low)), ceil(log10(high)) + 1)
    fine = [float(f"{times}e{power}") for power in powers for times in (1, 2, 5)]
    inside = [mark for mark in fine if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
    tens = [mark for mark in fine[::3] if mark in inside]
    if len(tens) < 2:
        return inside or [low, high]
    return tens[:: ceil(len(tens) / most)]


def _pair(point: Point) -> str:
    return f"{_short(point[0])} {_short(point[1])}"


def _short(number: float) -> str:
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


# Okabe and Ito's colours that show on white and on black; then colours that are as far from those
# and from each other as a search found, for any sight: CIELAB distances of 14 and more.
COLOURS = (
    *("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"),
    *("#870fff", "#785a2d", "#b4b478", "#a569ff", "#5a6978", "#872dc3", "#d20fb4", "#96b4d2"),
    *("#ff7896", "#f0004b", "#a5005a", "#964b00", "#872d87", "#9687f0", "#784bf0", "#c3a54b"),
)
DASHES = ("", "6 3", "2 2.5", "8 3 2 3", "1 3", "10 4", "4 2 1 2")
KNOWN = (  # never to be reordered: the place is the look; other names have places after these
    *("badnets", "blended", "sig", "lc", "lf", "ssba", "trojannn", "input_aware", "wanet"),
    *("bpp", "lira", "blind", "refool", "ctrl", "ftrojan", "adaptive_blend", "adaptive_patch"),
    *("tact", "poison_ink"),
)


@dataclass(frozen=True)
class Style:
    """How an attack looks."""

    colour: str
    mark: str
    dash: str

    def line(self) -> dict[str, str]:
        """Return how its line is drawn."""
        return {"stroke": self.colour, **({"stroke_dasharray": self.dash} if self.dash else {})}


Styles = Mapping[str, Style]  # by the attack's name


def attack_styles(attacks: Iterable[str]) -> Styles:
    """Return each attack's style, which its name alone decides.

    Variants of an attack, told apart by options in brackets, share its colour. Only where two
    variants, or two attacks that are not of this project, would look the same does one of
    them look otherwise than elsewhere.
    """
    shown = distinct(attacks)
    places: dict[str, int] = {}
    for attack in sorted(shown, key=lambda name: (name not in KNOWN, name)):
        free = [place for place in _candidates(attack) if place not in places.values()]
        places[attack] = (free or _candidates(attack))[0]
    return {attack: _STYLES[places[attack]] for attack in shown}


def _style(colour: int, turn: int) -> Style:
    """Return a colour's style, another one at every turn; those of the first are unlike in grey."""
    mark = MARKS[(colour + turn) % len(MARKS)]
    return Style(COLOURS[colour], mark, DASHES[(colour // 6 + turn) % len(DASHES)])


_STYLES = [_style(n % len(COLOURS), n // len(COLOURS)) for n in range(len(COLOURS) * len(DASHES))]


def _candidates(attack: str) -> list[int]:
    """Return the styles an attack may have, the best first: a variant's have its colour."""
    name = attack.partition("(")[0]
    others = list(range(len(KNOWN), len(_STYLES)))
    free = [place for place in others if place % len(COLOURS) >= len(KNOWN)]
    own = KNOWN.index(name) if name in KNOWN else free[crc32(name.encode()) % len(free)]
    best = [own]
    if attack != name:
        best = [place for place in others if (place - own) % len(COLOURS) == 0]
        best = _ring(best, best[crc32(attack.encode()) % len(best)])
    return [*best, *_ring(others, own), *range(len(KNOWN))]


def _ring(places: list[int], first: int) -> list[int]:
    """Return places in a ring that begins at the first one."""
    return [p for p in places if p >= first] + [p for p in places if p < first]


_MOST_VALUES = 20  # of an axis that a person would type
_LOG_ABOVE = 30.0  # largest by smallest value beyond which an axis is drawn by ratios


@dataclass(frozen=True, kw_only=True)
class SettingAxis:
    """One axis of the settings."""

    name: str
    values: Sequence[str]  # numbers by size
    log: bool = False  # whether the study searches it on a logarithmic scale

    @cached_property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(map(_is_number, self.values))

    def scale(self) -> Axis:
        """Return an axis for all values, words being places from 0, labelled with its name."""
        if not self.numeric:
            words = [(float(place), value_text(word)) for place, word in enumerate(self.values)]
            return Axis(-0.5, len(self.values) - 0.5, words, label_of(self.name))
        low, high = float(self.values[0]), float(self.values[-1])
        log = low > 0 and (self.log or high / low > _LOG_ABOVE)
        marks = decades(low, high) if log else steps(low, high, 5)
        if all(float(value).is_integer() for value in self.values):
            marks = [mark for mark in marks if mark.is_integer()]
        ticks = [(mark, f"{mark:g}") for mark in marks]
        if log:
            stretch = (high / low) ** 0.04
            return Axis(low / stretch, high * stretch, ticks, label_of(self.name), log=True)
        margin = 0.04 * (high - low) or 0.5
        return Axis(low - margin, high + margin, ticks, label_of(self.name))

    def place(self, value: str) -> float:
        """Return where a value stands on the scale."""
        return float(value) if self.numeric else float(self.values.index(value))


def setting_axes(
    results: StudyResults, log_axes: Collection[str] = frozenset()
) -> list[SettingAxis]:
    """Return the axes with several values in the whole study; `log_axes` are logarithmic."""
    values = {
        name: in_order(trial.setting[place][1] for trial in results.trials)
        for place, name in enumerate(results.varied)
    }
    return [
        SettingAxis(name=name, values=found, log=name in log_axes)
        for name, found in values.items()
        if len(found) > 1
    ]


def is_grid(results: StudyResults) -> bool:
    """Whether most combinations of the axes' values are settings: else they were sampled."""
    sizes = [len(axis.values) for axis in setting_axes(results)]
    settings = len({trial.setting for trial in results.trials})
    return max(sizes, default=0) <= _MOST_VALUES and 2 * settings >= prod(sizes)


def _is_number(text: str) -> bool:
    try:
        return abs(float(text)) < float("inf")
    except ValueError:
        return False


# Cividis (Nunez, Anderton, Renslow 2018), tenth by tenth: it reads the same without red or green.
CIVIDIS = (
    *("#00224e", "#083370", "#35456c", "#4f576c", "#666970", "#7d7c78"),
    *("#948e77", "#aea371", "#c8b866", "#e5cf52", "#fee838"),
)
_BLACK_ABOVE = 0.4658  # share from which black contrasts more than white, by WCAG's luminance
_GAP = 0.02  # between cells, in cells


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The content of a cell of a heat map."""

    share: float | None = None  # on the colour scale, in [0, 1]; None is without colour
    text: str = ""  # the number, or why there is none
    note: str = ""  # a second, smaller line
    tip: str = ""
    hatched: bool = False  # censored
    marked: bool = False  # outlined


def cell_axis(labels: Sequence[str], label: str = "", fewest: int = 0) -> Axis:
    """Return the axis of a heat map with labelled columns or rows, with room for `fewest`."""
    ticks = [(place + 0.5, value_text(text)) for place, text in enumerate(labels)]
    return Axis(0, max(fewest, len(labels)), ticks, label_of(label), grid=False)


def draw_cells(panel: Panel, cells: Mapping[tuple[int, int], Cell]) -> None:
    """Draw cells by (column, row), the first row at the bottom."""
    for (column, row), cell in cells.items():
        inner, middle = _corners(column, row, 2 * _GAP), (column + 0.5, row + 0.5)
        colour, size = INK, FONT_SIZE
        if cell.share is not None:
            colour = "#000" if cell.share > _BLACK_ABOVE else "#fff"
            panel.box(*_corners(column, row, _GAP), fill=colour_at(cell.share), tip=cell.tip)
        else:
            edge: dict[str, Any] = {"stroke": INK, "stroke_opacity": 0.35, "stroke_width": 0.5}
            panel.box(*inner, tip=cell.tip, fill="none", pointer_events="all", **edge)
            size -= 1.5
        if cell.hatched:
            _hatch(panel, column, row)
        if cell.marked:
            panel.box(*inner, fill="none", stroke=INK, stroke_width=2)
        lift = 4.0 if cell.note else 0.0
        panel.text(*middle, cell.text, dy=-lift, size=size, colour=colour)
        if cell.note:
            panel.text(*middle, cell.note, dy=6, size=FONT_SIZE - 3, colour=colour)


_CHANNELS = np.array([[int(colour[n : n + 2], 16) for colour in CIVIDIS] for n in (1, 3, 5)])
_TENTHS = np.linspace(0, 1, len(CIVIDIS))


def colour_at(share: float) -> str:
    """Return the colour of a place on the scale, dark at 0 and bright at 1."""
    return "#" + "".join(f"{round(np.interp(share, _TENTHS, part)):02x}" for part in _CHANNELS)


def _corners(column: int, row: int, inset: float) -> tuple[Point, Point]:
    return (column + inset, row + inset), (column + 1 - inset, row + 1 - inset)


def _hatch(panel: Panel, column: int, row: int) -> None:
    """Draw diagonals across a cell: a pattern would need an id."""
    low, high = 2 * _GAP, 1 - 2 * _GAP
    for shift in (-0.66, -0.33, 0.0, 0.33, 0.66):
        start, end = max(low, low - shift), min(high, high - shift)
        ends = [(column + start, row + start + shift), (column + end, row + end + shift)]
        panel.line(ends, stroke_width=0.6, opacity=0.3)
