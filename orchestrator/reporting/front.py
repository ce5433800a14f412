"""What can be had at once: accuracy against attack success, every trial and every setting."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor
from statistics import fmean

from orchestrator.reporting.canvas import INK, Drawing, Panel, Point, Scale, Sheet, steps
from orchestrator.reporting.figures import (
    PERCENT,
    WEAK,
    legend,
    metric_ticks,
)
from orchestrator.reporting.naming import Names, setting_text
from orchestrator.reporting.results import Setting, Trial
from orchestrator.reporting.styles import Styles
from orchestrator.reporting.summary import Outcome, sound
from orchestrator.reporting.tips import repair_tip

ASR, ACC = "asr_after_report", "acc_after_report"


@dataclass(frozen=True, kw_only=True)
class SettingPoint:
    """A setting's means over the scenarios whose victim took, if it is done in all of them.

    Attributes:
        best: Whether no other setting has both a lower ASR and a higher ACC.
    """

    setting: Setting
    asr: float
    acc: float
    scenarios: int
    best: bool


def front(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials that no other beats in ASR and ACC at once, by ASR."""
    found: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.numbers[ASR], -t.numbers[ACC])):
        if not found or trial.numbers[ACC] > found[-1].numbers[ACC]:
            found.append(trial)
    return found


def setting_points(outcomes: Sequence[Outcome]) -> list[SettingPoint]:
    """Return the settings' points, by ASR."""
    counted = [outcome for outcome in sound(outcomes) if outcome.best]
    groups: dict[Setting, list[Trial]] = {}
    for outcome in counted:
        for trial in outcome.trials:
            if trial.done:
                groups.setdefault(trial.setting, []).append(trial)
    means = sorted(
        (
            (fmean(t.numbers[ASR] for t in group), -fmean(t.numbers[ACC] for t in group), setting)
            for setting, group in groups.items()
            if len(group) == len(counted)
        ),
        key=lambda mean: mean[:2],
    )
    found: list[SettingPoint] = []
    highest = -1.0
    for asr, negative, setting in means:
        best = -negative > highest
        highest = max(highest, -negative)
        found.append(
            SettingPoint(setting=setting, asr=asr, acc=-negative, scenarios=len(counted), best=best)
        )
    return found


def draw_front(outcomes: Sequence[Outcome], names: Names, styles: Styles) -> Drawing:
    """Draw every done trial, and beside it every setting's mean; lines join what is unbeaten."""
    sheet = Sheet(rows=1, columns=3, width=330, height=300)
    panels = []
    done = [trial for outcome in outcomes for trial in outcome.trials if trial.done]
    lowest = 10 * floor(10 * min(trial.numbers[ACC] for trial in done) - 0.1)
    up = Scale(low=max(PERCENT.low, float(lowest)), high=PERCENT.high)
    for column, title in enumerate(("Every trial", "Every setting, mean over scenarios")):
        panel = sheet.panel(0, column, (42, 36, 12, 24), PERCENT, up)
        panel.title(title)
        panel.labels("ASR, %", "ACC, %")
        metric_ticks(panel, "x", "asr")
        panel.ticks("y", [(value, f"{value:g}") for value in steps(up.low, 100)])
        panel.frame()
        panels.append(panel)
    every, means = panels
    took = {id(trial) for outcome in sound(outcomes) for trial in outcome.trials if trial.done}
    for trial in sorted(done, key=lambda trial: id(trial) in took):
        style = styles[names.attack(trial.scenario.family)]
        colour = style.colour if trial.victim_ok else WEAK
        every.mark(*_place(trial), style.mark, colour, tip=repair_tip(trial, names))
    _join(every, [_place(t) for t in front(t for t in done if id(t) in took)])
    points = setting_points(outcomes)
    _join(means, [(100 * p.asr, 100 * p.acc) for p in points if p.best])
    for point in points:
        tip = (
            f"{setting_text(point.setting)}\nACC {100 * point.acc:.1f} %, "
            f"ASR {100 * point.asr:.1f} % (n = {point.scenarios})"
        )
        means.mark(100 * point.asr, 100 * point.acc, "o", INK, size=3.2, tip=tip)
    legend(sheet, 2, styles)
    return sheet.finish()


def _join(panel: Panel, points: Sequence[Point]) -> None:
    panel.line(points, stroke_width=1, stroke_dasharray="3 2", pointer_events="none")


def _place(trial: Trial) -> tuple[float, float]:
    return 100 * trial.numbers[ASR], 100 * trial.numbers[ACC]
