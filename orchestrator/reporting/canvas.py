"""Sheets of equal panels, drawn by matplotlib and cleaned into small SVG without ids.

A page may inline any number of these drawings: they hold no id, no style sheet and no
font, and what is drawn in `INK` takes the colour of the text around it.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK = "#010203"  # stands for the colour of the surrounding text
FONT_SIZE = 9.0  # points
# Points of a panel around what is drawn: left, bottom, right, top.
Margins = tuple[float, float, float, float]

_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_DECIMALS = re.compile(r"\d+\.\d+")
_INHERITED = {"font-family": "system-ui, sans-serif", "stroke-linejoin": "round"}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "ulrl",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # matplotlib's own: the layout is the same anywhere
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 1,
    "axes.linewidth": 0.6,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
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


@contextmanager
def drawing_settings() -> Iterator[None]:
    """Give matplotlib the report's settings for a while."""
    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():  # type: ignore[arg-type]
        # The reader's fonts draw the text, so what DejaVu lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


class Sheet:
    """Rows and columns of panels of one size, in points."""

    def __init__(self, *, rows: int, columns: int, width: float, height: float) -> None:
        self._rows, self._columns = rows, columns
        self._width, self._height = width, height
        self._figure = Figure(figsize=(columns * width / 72, rows * height / 72))
        FigureCanvasSVG(self._figure)
        self._boxes: list[tuple[float, float]] = []

    def panel(self, row: int, column: int, margins: Margins) -> Axes:
        """Return empty axes inside the margins of a panel; call it row by row."""
        left, bottom, right, top = margins
        x, y = column * self._width, row * self._height  # the panel's top left corner
        total_width, total_height = self._columns * self._width, self._rows * self._height
        axes = self._figure.add_axes(
            (
                (x + left) / total_width,
                1 - (y + self._height - bottom) / total_height,
                (self._width - left - right) / total_width,
                (self._height - bottom - top) / total_height,
            )
        )
        axes.patch.set_visible(False)
        axes.set_gid(f"panel-{len(self._boxes)}")
        self._boxes.append((x, y))
        return axes

    def finish(self) -> Drawing:
        """Return what was drawn."""
        self._figure.patch.set_visible(False)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        self._figure.savefig(file, format="svg", metadata=nothing)
        root = ET.fromstring(file.getvalue())  # noqa: S314 - matplotlib wrote it a line ago
        panels = {group.get("id"): group for group in root.iter(f"{_SVG}g")}
        _clean(root)
        total = f"{self._columns * self._width:g} {self._rows * self._height:g}"
        size = f"{self._width:g} {self._height:g}"
        return Drawing(
            svg=_document(total, root),
            panels=tuple(
                _inline(f"{x:g} {y:g} {size}", panels[f"panel-{index}"])
                for index, (x, y) in enumerate(self._boxes)
            ),
            columns=self._columns,
            width=self._width,
        )


def _document(size: str, drawn: ET.Element) -> str:
    """Return an SVG file."""
    width, height = size.split()
    root = ET.Element("svg", {"xmlns": _SVG[1:-1], "viewBox": f"0 0 {size}", **_INHERITED})
    root.attrib |= {"width": f"{width}pt", "height": f"{height}pt"}
    root.extend(drawn)
    return ET.tostring(root, encoding="unicode") + "\n"


def _inline(box: str, drawn: ET.Element) -> str:
    """Return an ``<svg>`` for HTML, where caption and title stand beside it."""
    root = ET.Element("svg", {"viewBox": box, **_INHERITED})
    root.extend(drawn)
    return ET.tostring(root, encoding="unicode")


def _clean(root: ET.Element) -> None:
    """Leave of matplotlib's SVG what is seen, in place."""
    shapes = {shape.get("id"): shape for shape in root.iter(f"{_SVG}path")}
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.text = element.text if element.tag == "text" else None
        element.tail = None
        if element.tag == "use":
            _become_path(element, shapes[element.attrib[_HREF][1:]])
        for name in ("id", "clip-path"):
            element.attrib.pop(name, None)
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, _DECIMALS.sub(_shorter, " ".join(element.attrib[name].split())))
        if "style" in element.attrib:
            style = element.attrib["style"].replace(INK, "currentColor")
            element.set("style", re.sub(r"font-family: [^;]*;? ?", "", style))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    _flatten(root)


def _shorter(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def _become_path(use: ET.Element, shape: ET.Element) -> None:
    """Turn a reference to a marker into the marker itself, so that no id is needed."""
    use.tag = "path"
    style = use.get("style", shape.get("style", ""))
    place = f"translate({use.attrib.pop('x')} {use.attrib.pop('y')})"
    del use.attrib[_HREF]
    use.attrib |= {"d": shape.attrib["d"], "style": style, "transform": place}


def _flatten(parent: ET.Element) -> None:
    """Remove definitions below `parent`, and the walls of groups that say nothing."""
    kept: list[ET.Element] = []
    for child in parent:
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            kept.extend(child)
        elif child.tag not in {"defs", "metadata"}:
            kept.append(child)
    parent[:] = kept
