"""The figures that look at the whole study; surfaces have a module of their own."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from orchestrator.reporting.canvas import INK, Drawing, Sheet
from orchestrator.reporting.heatmap import BRIGHT_IS_HIGH, Cell, draw_cells
from orchestrator.reporting.naming import Names, distinct, in_order, printable
from orchestrator.reporting.neurons import FlagCount
from orchestrator.reporting.summary import HIGHEST_ASR, Outcome, column_of

# Okabe and Ito's colours that show on white and on black; with the marks they make 42 pairs.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_MARKS = ("o", "s", "^", "D", "v", "P", "X")
_ROW = 20.0  # points that an attack takes in a figure, at least
_LONGEST_LABEL = 22
_PERCENT = (-3, 103)  # the scale, with room for marks at its ends


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an attack looks."""

    colour: str
    mark: str


Styles = Mapping[str, Style]  # by the attack's name


def attack_styles(attacks: Iterable[str]) -> Styles:
    """Return each attack's style, the same in every figure."""
    return {
        attack: Style(colour=_COLOURS[place % len(_COLOURS)], mark=_MARKS[place % len(_MARKS)])
        for place, attack in enumerate(distinct(attacks))
    }


def draw_before_after(outcomes: Sequence[Outcome], names: Names, styles: Styles) -> Drawing:
    """Draw each scenario's ASR and ACC, from the victim's to the repaired model's."""
    by_attack: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_attack.setdefault(names.attack(outcome.scenario.family), []).append(outcome)
    row = max(_ROW, min(90.0, 4.5 * max(map(len, by_attack.values()))))
    sheet = Sheet(rows=1, columns=2, width=330, height=56 + row * len(by_attack))
    for column, metric in enumerate(("asr", "acc")):
        axes = sheet.panel(0, column, (_room(by_attack), 34, 10, 22))
        axes.set_title(f"{metric.upper()}, %", loc="left")
        axes.set(xlim=_PERCENT, ylim=(len(by_attack) - 0.5, -0.5))
        axes.set_yticks(range(len(by_attack)), [_short(attack) for attack in by_attack])
        _calm(axes)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if metric == "asr":
            axes.axvline(100 * HIGHEST_ASR, color=INK, lw=0.6, ls=(0, (4, 3)), alpha=0.6)
        for place, (attack, group) in enumerate(by_attack.items()):
            step = 0.7 / len(group)
            for index, outcome in enumerate(group):
                height = place + step * (index - (len(group) - 1) / 2)
                _dumbbell(axes, height, outcome, metric, styles[attack])
    return sheet.finish()


def draw_halves(outcomes: Sequence[Outcome], names: Names, styles: Styles) -> Drawing:
    """Draw what each scenario's best setting reaches on one half against the other."""
    sheet = Sheet(rows=1, columns=4, width=215, height=max(215.0, 40 + 13.0 * len(styles)))
    for column, metric in enumerate(("acc", "asr", "der")):
        axes = sheet.panel(0, column, (40, 34, 10, 22))
        scale = 1 if metric == "der" else 100
        limits = (-0.03 * scale, 1.03 * scale)
        axes.set_title("DER" if metric == "der" else f"{metric.upper()}, %", loc="left")
        axes.set(xlim=limits, ylim=limits, xlabel="selection half", ylabel="report half")
        axes.plot((0, scale), (0, scale), color=INK, lw=0.6, alpha=0.5)
        _calm(axes)
        for outcome in outcomes:
            if outcome.best is None:
                continue
            x, y = (
                scale * outcome.best.numbers[column_of(metric, half)]
                for half in ("selection", "report")
            )
            style = styles[names.attack(outcome.scenario.family)]
            axes.plot(x, y, style.mark, color=_colour(outcome, style), ms=4.5, mew=0)
    _legend(sheet.panel(0, 3, (10, 10, 10, 22)), styles)
    return sheet.finish()


def draw_flagged(counts: Sequence[FlagCount]) -> Drawing:
    """Draw the share of trials in which the target's row was flagged."""
    attacks = distinct(count.attack for count in counts)
    thresholds = in_order(count.unlearn_threshold for count in counts)
    attacks.reverse()  # the first attack on top
    sheet = Sheet(
        rows=1,
        columns=1,
        width=_room(attacks) + 8 + 52.0 * max(4, len(thresholds)),
        height=60 + 26.0 * len(attacks),
    )
    axes = sheet.panel(0, 0, (_room(attacks), 34, 8, 22))
    axes.set_title("Target's row flagged, % of done trials", loc="left")
    axes.set(xlabel="unlearn_threshold")
    cells = {
        (thresholds.index(count.unlearn_threshold), attacks.index(count.attack)): Cell(
            share=count.target / count.trials, text=f"{100 * count.target / count.trials:.1f}"
        )
        for count in counts
    }
    rows = [_short(attack) for attack in attacks]
    draw_cells(axes, cells, thresholds, rows, BRIGHT_IS_HIGH)
    return sheet.finish()


def _dumbbell(axes: Axes, height: float, outcome: Outcome, metric: str, style: Style) -> None:
    if outcome.best is None:
        return
    before = 100 * outcome.victim[f"{metric}_before_report"]
    after = 100 * outcome.best.numbers[f"{metric}_after_report"]
    colour = _colour(outcome, style)
    axes.plot((before, after), (height, height), color=colour, lw=0.9, alpha=0.6)
    axes.plot(before, height, "o", color=colour, ms=4, mew=0.9, fillstyle="none")
    axes.plot(after, height, style.mark, color=colour, ms=4.5, mew=0)


def _colour(outcome: Outcome, style: Style) -> str:
    """Return the attack's colour, or grey where the victim did not take."""
    return style.colour if outcome.took else "#8c8c8c"


def _calm(axes: Axes) -> None:
    """Leave of a frame what the eye needs."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(visible=True, color=INK, alpha=0.12, lw=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(width=0.6, length=3)


def _legend(axes: Axes, styles: Styles) -> None:
    axes.set_axis_off()
    axes.set(xlim=(0, 10), ylim=(max(12, len(styles)) - 0.5, -0.5))
    for place, (attack, style) in enumerate(styles.items()):
        axes.plot(0.4, place, style.mark, color=style.colour, ms=4.5, mew=0)
        axes.text(1.1, place, printable(attack), va="center")


def _room(labels: Iterable[str]) -> float:
    """Return the points that the longest label takes beside its axis."""
    return 10 + 5.2 * max(len(_short(label)) for label in labels)


def _short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
