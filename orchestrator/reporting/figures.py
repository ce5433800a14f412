"""The figures of repairs: before and after, and one half of the test set against the other."""

from collections.abc import Iterable, Sequence

from orchestrator.reporting.canvas import Drawing, Panel, Scale, Sheet
from orchestrator.reporting.heatmap import Cell, cell_scales, draw_cells
from orchestrator.reporting.naming import Names, distinct, in_order, printable
from orchestrator.reporting.neurons import FlagCount
from orchestrator.reporting.schema import column_of
from orchestrator.reporting.styles import Style, Styles
from orchestrator.reporting.summary import HIGHEST_ASR, Outcome
from orchestrator.reporting.tips import repair_tip

WEAK = "#8c8c8c"  # of a victim that did not take
PERCENT = Scale(low=-3, high=103)  # with room for marks at its ends
FRACTION = Scale(low=-0.03, high=1.03)
_ROW = 20.0  # points that an attack takes in a figure, at least
_LONGEST_LABEL = 22


def draw_before_after(outcomes: Sequence[Outcome], names: Names, styles: Styles) -> Drawing:
    """Draw each scenario's ASR and ACC, from the victim's to the repaired model's."""
    by_attack: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_attack.setdefault(names.attack(outcome.scenario.family), []).append(outcome)
    row = max(_ROW, min(90.0, 4.5 * max(map(len, by_attack.values()))))
    sheet = Sheet(rows=1, columns=2, width=330, height=56 + row * len(by_attack))
    labels = [(float(place), short(attack)) for place, attack in enumerate(by_attack)]
    for column, metric in enumerate(("asr", "acc")):
        down = Scale(low=len(by_attack) - 0.5, high=-0.5)
        panel = sheet.panel(0, column, (room(by_attack), 34, 10, 22), PERCENT, down)
        panel.title(title_of(metric))
        panel.ticks("y", labels)
        metric_ticks(panel, "x", metric)
        panel.frame(left=False)
        if metric == "asr":
            limit = [(100 * HIGHEST_ASR, down.low), (100 * HIGHEST_ASR, down.high)]
            panel.line(limit, stroke_width=0.6, stroke_dasharray="4 3", opacity=0.6)
        for place, (attack, group) in enumerate(by_attack.items()):
            step = 0.7 / len(group)
            for index, outcome in enumerate(group):
                height = place + step * (index - (len(group) - 1) / 2)
                _dumbbell(panel, height, outcome, metric, (styles[attack], names))
    return sheet.finish()


def draw_halves(outcomes: Sequence[Outcome], names: Names, styles: Styles) -> Drawing:
    """Draw what each scenario's best setting reaches on one half against the other."""
    sheet = Sheet(rows=1, columns=4, width=215, height=max(215.0, 40 + 13.0 * len(styles)))
    for column, metric in enumerate(("acc", "asr", "der")):
        scale = scale_of(metric)
        panel = sheet.panel(0, column, (40, 34, 10, 22), scale, scale)
        panel.title(title_of(metric))
        panel.labels("selection half", "report half")
        metric_ticks(panel, "x", metric)
        metric_ticks(panel, "y", metric)
        panel.frame()
        end = factor(metric)
        panel.line([(0, 0), (end, end)], stroke_width=0.6, opacity=0.5)
        for outcome in outcomes:
            if outcome.best is None:
                continue
            x, y = (
                factor(metric) * outcome.best.numbers[column_of(metric, half)]
                for half in ("selection", "report")
            )
            style = styles[names.attack(outcome.scenario.family)]
            tip = f"{names.scenario(outcome.scenario)}\n{x:.4g} → {y:.4g}"
            panel.mark(x, y, style.mark, colour_of(outcome, style), tip=tip)
    legend(sheet, 3, styles)
    return sheet.finish()


def draw_flagged(counts: Sequence[FlagCount]) -> Drawing:
    """Draw the share of trials in which the target's row was flagged."""
    attacks = distinct(count.attack for count in counts)
    thresholds = in_order(count.unlearn_threshold for count in counts)
    attacks.reverse()  # the first attack on top
    sheet = Sheet(
        rows=1,
        columns=1,
        width=room(attacks) + 8 + 52.0 * max(4, len(thresholds)),
        height=60 + 26.0 * len(attacks),
    )
    scales = cell_scales(max(4, len(thresholds)), len(attacks))
    panel = sheet.panel(0, 0, (room(attacks), 34, 8, 22), *scales)
    panel.title("Target's row flagged, % of done trials")
    panel.labels("unlearn_threshold")
    cells = {
        (thresholds.index(count.unlearn_threshold), attacks.index(count.attack)): Cell(
            share=count.target / count.trials,
            text=f"{100 * count.target / count.trials:.1f}",
            tip=f"{count.attack}, unlearn_threshold={count.unlearn_threshold}\n"
            f"{count.trials} done trials: the target's row flagged in {count.target}, another "
            f"in {count.others}, none in {count.nothing}",
        )
        for count in counts
    }
    draw_cells(panel, cells, thresholds, [short(attack) for attack in attacks])
    return sheet.finish()


def legend(sheet: Sheet, column: int, styles: Styles) -> None:
    """Name the attacks' styles in a panel of their own, the last of the first row."""
    room_for = max(1.0, (sheet.height - 32) / 15)  # lines
    down = Scale(low=max(room_for, len(styles)) - 0.5, high=-0.5)
    panel = sheet.panel(0, column, (10, 10, 10, 22), Scale(low=0, high=10), down)
    for place, (attack, style) in enumerate(styles.items()):
        panel.mark(0.4, place, style.mark, style.colour)
        panel.text(0.4, place, attack, dx=9, anchor="start")
    sheet.crop(32 + 15.0 * len(styles))


def metric_ticks(panel: Panel, axis: str, metric: str) -> None:
    """Label a metric's axis from 0 to 1 or 100."""
    end = factor(metric)
    values = [end * place / 5 for place in range(6)]
    panel.ticks(axis, [(value, f"{value:g}" if end > 1 else f"{value:.1f}") for value in values])


def factor(metric: str) -> float:
    """Return what a metric is multiplied by to be shown."""
    return 1.0 if metric == "der" else 100.0


def scale_of(metric: str) -> Scale:
    return FRACTION if metric == "der" else PERCENT


def title_of(metric: str) -> str:
    return "DER" if metric == "der" else f"{metric.upper()}, %"


def colour_of(outcome: Outcome, style: Style) -> str:
    """Return the attack's colour, or grey where the victim did not take."""
    return style.colour if outcome.took else WEAK


def room(labels: Iterable[str]) -> float:
    """Return the points that the longest label takes beside its axis."""
    return 10 + 5.2 * max(len(short(label)) for label in labels)


def short(label: str) -> str:
    text = printable(label)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"


def _dumbbell(
    panel: Panel, height: float, outcome: Outcome, metric: str, look: tuple[Style, Names]
) -> None:
    if outcome.best is None:
        return
    style, names = look
    before = 100 * outcome.victim[f"{metric}_before_report"]
    after = 100 * outcome.best.numbers[f"{metric}_after_report"]
    colour = colour_of(outcome, style)
    tip = repair_tip(outcome.best, names)
    ends = [(before, height), (after, height)]
    panel.line(ends, stroke=colour, stroke_width=0.9, stroke_opacity=0.6, tip=tip)
    panel.mark(before, height, "hollow", colour, size=2.1, tip=tip)
    panel.mark(after, height, style.mark, colour, tip=tip)
