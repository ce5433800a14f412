"""Sheets of equal panels, drawn as small SVG: no id, no style attribute, no font of its own.

A page may inline any number of these drawings under a policy that forbids inline styles, and
what is drawn in `INK` takes the colour of the text around it. What a mark has to tell stands
in it as ``<title>``, which any viewer of the file shows too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

from orchestrator.reporting.naming import printable

INK = "currentColor"  # of the surrounding text
FONT_SIZE = 9.0  # points
MARKS = ("o", "s", "^", "D", "v", "P", "X")
# Points of a panel around what is drawn: left, bottom, right, top.
Margins = tuple[float, float, float, float]
Point = tuple[float, float]

_ROOT = f'font-family="system-ui, sans-serif" font-size="{FONT_SIZE:g}" stroke-linejoin="round"'
_OUTLINES: dict[str, Sequence[Point]] = {  # of marks, in radii
    "s": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "^": ((0, -1.15), (1.05, 0.8), (-1.05, 0.8)),
    "D": ((0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)),
    "v": ((0, 1.15), (1.05, -0.8), (-1.05, -0.8)),
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
class Drawing:
    """A finished figure.

    Attributes:
        svg: The whole sheet as a file.
        panels: Each panel as an ``<svg>`` element of its own, row by row, to be inlined.
        columns: How many panels stand side by side.
        width: Of a panel, in points.
    """

    svg: str
    panels: tuple[str, ...]
    columns: int
    width: float


@dataclass(frozen=True, kw_only=True)
class Scale:
    """An axis from `low` to `high`; `log` where equal ratios are equally far apart."""

    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Return how far along the axis a value stands, 0 at `low` and 1 at `high`."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = log10(low), log10(high), log10(value)
        return (at - low) / (high - low)


class Panel:
    """One pair of axes; everything is placed in the units of its scales."""

    def __init__(self, box: tuple[float, float, float, float], x: Scale, y: Scale) -> None:
        self.left, self.top, self.width, self.height = box  # points, on the sheet
        self._x, self._y = x, y
        self._parts: list[str] = []

    def at(self, x: float, y: float) -> Point:
        """Return a place on the sheet, in points."""
        return (
            self.left + self.width * self._x.share(x),
            self.top + self.height * (1 - self._y.share(y)),
        )

    def line(self, points: Sequence[Point], *, tip: str = "", **style: object) -> None:
        """Draw a line through points."""
        places = " ".join(_pair(self.at(*point)) for point in points)
        self._add("polyline", {"points": places, "fill": "none", "stroke": INK, **style}, tip)

    def area(self, points: Sequence[Point], **style: object) -> None:
        """Fill what a line through points encloses."""
        self._add("polygon", {"points": " ".join(_pair(self.at(*p)) for p in points), **style})

    def box(self, low: Point, high: Point, *, tip: str = "", **style: object) -> None:
        """Draw a rectangle between two opposite corners."""
        (x0, y1), (x1, y0) = self.at(*low), self.at(*high)
        corner = {"x": _short(x0), "y": _short(y0)}
        size = {"width": _short(x1 - x0), "height": _short(y1 - y0)}
        self._add("rect", {**corner, **size, **style}, tip)

    def mark(
        self, x: float, y: float, shape: str, colour: str, *, size: float = 2.4, tip: str = ""
    ) -> None:
        """Draw a filled mark of a radius of `size` points; ``hollow`` is a ring."""
        place = self.at(x, y)
        style = {"fill": colour}
        if shape == "hollow":
            shape, style = "o", {"fill": "none", "stroke": colour, "stroke-width": "1.1"}
        if shape == "o":
            centre = {"cx": _short(place[0]), "cy": _short(place[1]), "r": _short(size)}
            self._add("circle", {**centre, **style}, tip)
            return
        turns = " ".join(
            _pair((place[0] + size * dx, place[1] + size * dy)) for dx, dy in _OUTLINES[shape]
        )
        self._add("polygon", {"points": turns, **style}, tip)

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
        self._write((across + dx, down + dy), text, anchor, size, colour)

    def title(self, *lines: str) -> None:
        """Write lines above the axes, the first being the title itself."""
        for number, line in enumerate(lines):
            y = self.top - 9 - 12 * (len(lines) - 1 - number)
            size = FONT_SIZE + 1 if number == 0 else FONT_SIZE
            self._write((self.left, y), line, "start", size, INK)

    def labels(self, x: str = "", y: str = "") -> None:
        """Name the axes."""
        if x:
            place = (self.left + self.width / 2, self.top + self.height + 26)
            self._write(place, x, "middle", FONT_SIZE, INK)
        if y:
            across, down = self.left - 34, self.top + self.height / 2
            turn = f"rotate(-90 {_pair((across, down))})"
            self._write((across, down), y, "middle", FONT_SIZE, INK, transform=turn)

    def ticks(self, axis: str, values: Sequence[tuple[float, str]], *, grid: bool = True) -> None:
        """Label values of an axis, ``x`` or ``y``, with lines across the panel."""
        for value, label in values:
            if axis == "x":
                start, end = self.at(value, self._y.low), self.at(value, self._y.high)
                self._write((start[0], start[1] + 11), label, "middle", FONT_SIZE, INK)
            else:
                start, end = self.at(self._x.low, value), self.at(self._x.high, value)
                self._write((start[0] - 5, start[1]), label, "end", FONT_SIZE, INK)
            if grid:
                d = f"M{_pair(start)}L{_pair(end)}"
                faint = {"stroke": INK, "stroke-width": "0.5", "opacity": "0.14"}
                self._add("path", {"d": d, **faint})

    def frame(self, *, left: bool = True) -> None:
        """Draw the axes' own lines, at the bottom and at the left."""
        bottom, right = self.top + self.height, self.left + self.width
        start = f"{_pair((self.left, self.top))}L" if left else ""
        d = f"M{start}{_pair((self.left, bottom))}L{_pair((right, bottom))}"
        self._add("path", {"d": d, "fill": "none", "stroke": INK, "stroke-width": "0.6"})

    def svg(self) -> str:
        """Return what was drawn so far."""
        return f"<g>{''.join(self._parts)}</g>" if self._parts else ""

    def _write(
        self, at: Point, text: str, anchor: str, size: float, colour: str, **more: str
    ) -> None:
        place = {"x": _short(at[0]), "y": _short(at[1] + 0.35 * size)}
        style = {"fill": colour} | ({} if anchor == "start" else {"text-anchor": anchor})
        if size != FONT_SIZE:
            style["font-size"] = _short(size)
        self._add("text", {**place, **style, **more}, text=text)

    def _add(self, tag: str, attributes: dict[str, object], tip: str = "", text: str = "") -> None:
        told = " ".join(
            f'{name.replace("_", "-")}="{escape(str(value))}"' for name, value in attributes.items()
        )
        inside = escape(printable(text), quote=False)
        if tip:
            lines = "\n".join(printable(line) for line in tip.split("\n"))
            inside = f"<title>{escape(lines, quote=False)}</title>"
        self._parts.append(f"<{tag} {told}>{inside}</{tag}>" if inside else f"<{tag} {told}/>")


@dataclass(kw_only=True)
class Sheet:
    """Rows and columns of panels of one size, in points."""

    rows: int
    columns: int
    width: float
    height: float
    _panels: list[tuple[Point, Panel]] = field(default_factory=list)
    _heights: list[float] = field(default_factory=list)

    def panel(self, row: int, column: int, margins: Margins, x: Scale, y: Scale) -> Panel:
        """Return empty axes inside the margins of a panel; call it row by row."""
        left, bottom, right, top = margins
        corner = column * self.width, row * self.height
        size = self.width - left - right, self.height - bottom - top
        panel = Panel((corner[0] + left, corner[1] + top, *size), x, y)
        self._panels.append((corner, panel))
        self._heights.append(self.height)
        return panel

    def crop(self, height: float) -> None:
        """Let the last panel be no higher than `height` where it is inlined."""
        self._heights[-1] = min(height, self.height)

    def finish(self) -> Drawing:
        """Return what was drawn."""
        drawn = [(corner, panel.svg()) for corner, panel in self._panels]
        total = f"{self.columns * self.width:g}", f"{self.rows * self.height:g}"
        head = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total[0]} {total[1]}"'
        whole = f'width="{total[0]}pt" height="{total[1]}pt" {_ROOT}'
        return Drawing(
            svg=f"<svg {head} {whole}>{''.join(svg for _, svg in drawn)}</svg>\n",
            panels=tuple(
                f'<svg viewBox="{x:g} {y:g} {self.width:g} {height:g}" {_ROOT}>{svg}</svg>'
                for ((x, y), svg), height in zip(drawn, self._heights, strict=True)
            ),
            columns=self.columns,
            width=self.width,
        )


def steps(low: float, high: float, most: int = 6) -> list[float]:
    """Return round values from `low` to `high`, equally far apart, about `most` of them."""
    if high <= low:
        return [low]
    rough = (high - low) / (most - 1)
    power = 10.0 ** floor(log10(rough))
    step = power * next(unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * (1 - 1e-9))
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _pair(point: Point) -> str:
    return f"{_short(point[0])} {_short(point[1])}"


def _short(number: float) -> str:
    text = f"{number:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
