"""Repair methods beside each other, each at its own best setting."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from orchestrator.errors import SpecError
from orchestrator.files import csv_text
from orchestrator.plan.columns import COST, EDITED, Family, column_of, count, spoken
from orchestrator.plan.labels import DAGGER, option_text
from orchestrator.plan.labels import setting_text as plain_setting_text
from orchestrator.reporting import svg
from orchestrator.reporting.read_folder import DEFAULT, ScenarioRow, TrialRow, distinct
from orchestrator.reporting.summary import (
    BenignRepair,
    Repair,
    Spread,
    Summary,
    benign_repairs,
    is_wreck,
    sound,
    spread_of,
)
from orchestrator.reporting.text import (
    NOTHING,
    Names,
    difference_texts,
    folded,
    label_of,
    listed,
    number_text,
    setting_text,
    signed,
    spread_text,
)
from orchestrator.search.inference import LEVEL, MeanEstimate, estimate, holm


@dataclass(frozen=True, kw_only=True)
class MethodOutcome:
    """What a repair method reaches at its own best setting.

    Attributes:
        method: Its name.
        settings: How many it was given.
        summary: Of its trials alone; ``common`` is its best setting over all scenarios.
        repairs: By that setting, of each scenario that enters a mean and has it done.
        behind: Difference of the objective to the best method's on the report half, over the
            scenarios that both have; None for the best itself, or where there is none.
    """

    method: str
    settings: int
    summary: Summary
    repairs: Mapping[ScenarioRow, Repair]
    behind: MeanEstimate | None

    def mean(self, column: str) -> MeanEstimate | None:
        """Return the mean of a column over scenarios, its interval clustered by attack."""
        values = [repair.numbers[column] for repair in self.repairs.values()]
        attacks = [scenario.family.attack for scenario in self.repairs]
        return estimate(values, attacks) if values else None

    def of(self, family: Family, column: str) -> Spread | None:
        """Return mean and spread of a column over the seeds of one family."""
        found = [repair for scenario, repair in self.repairs.items() if scenario.family == family]
        return spread_of(found, column)

    def plain_mean(self, column: str) -> float | None:
        """Return the mean of a column over those scenarios that have it."""
        found = [r.numbers[column] for r in self.repairs.values() if column in r.numbers]
        return fmean(found) if found else None

    @property
    def is_oracle(self) -> bool:
        """Whether the strength of its cut is chosen by the ASR, as no defence can do."""
        return self.method.endswith(DAGGER)

    @property
    def judged(self) -> list[TrialRow]:
        """The trials by which it is judged."""
        return [trial for repair in self.repairs.values() for trial in repair.judged]

    @property
    def planned(self) -> bool:
        """Whether its passes over the samples are those of the plan; else they were counted."""
        return any(trial.cells.get("passes_planned") == "True" for trial in self.judged)

    @property
    def wrecked(self) -> list[ScenarioRow]:
        """The scenarios whose models it leaves at or below chance on the selection half."""
        return [scenario for scenario, repair in self.repairs.items() if is_wreck(repair)]


def league(parts: Mapping[str, Summary]) -> list[MethodOutcome]:
    """Return what each repair method reaches.

    First are methods that repair most scenarios without wrecking the model, of those the best
    on the selection half: the rule by which settings are chosen. Behind them stand those whose
    strength an oracle chose, which no defence can do.

    Args:
        parts: The summary of each method's trials.
    """
    repairs = {
        method: {o.scenario: o.common for o in sound(part.outcomes) if o.common}
        for method, part in parts.items()
    }

    def rank(method: str) -> tuple[int, float]:
        part = parts[method]
        whole = [repair for repair in repairs[method].values() if not is_wreck(repair)]
        found = spread_of(whole, column_of(part.objective, "selection"))
        if found is None:
            return 0, -inf
        return found.n, -found.mean if part.lowest else found.mean

    order = sorted(parts, key=rank, reverse=True)  # of equals the first in the file
    order.sort(key=lambda method: method.endswith(DAGGER))
    return [
        MethodOutcome(
            method=method,
            settings=len({part.named(t.setting) for o in part.outcomes for t in o.trials}),
            summary=part,
            repairs=repairs[method],
            behind=_behind(repairs[method], repairs[order[0]], part),
        )
        for method, part in ((method, parts[method]) for method in order)
    ]


def _behind(
    own: Mapping[ScenarioRow, Repair], best: Mapping[ScenarioRow, Repair], part: Summary
) -> MeanEstimate | None:
    shared = [scenario for scenario in own if scenario in best]
    if own is best or not shared:
        return None
    column = column_of(part.objective, "report")
    gaps = [own[one].numbers[column] - best[one].numbers[column] for one in shared]
    return estimate(gaps, [one.family.attack for one in shared])


_LEAGUE = ("acc", "asr", "ra", "der")


def league_table(found: Sequence[MethodOutcome], names: Names) -> dict[str, Any]:
    """Return the table of repair methods, in words.

    Returns:
        ``rows``: name, best setting, number of settings, scenarios, ACC, ASR, RA and DER with
        intervals, difference to the first method, wrecked scenarios, seconds and passes of the
        repair. ``edits``: name, parts and share of weights that are newly zero, change of the
        weights; none where no result has them. ``attacks``: a row per
        family: title, details, and for each method DER, then ACC and ASR, then a warning.
        ``methods``: names in the order of the rows. ``note``: which cannot be told apart.
        ``intervals``: what the intervals are.
    """
    objective = found[0].summary.objective
    gaps = [(row, (row.behind, objective)) for row in found if row.behind is not None]
    # An oracle is no rival: it neither adjusts what a method's difference says, nor has a star.
    differences = iter(
        [
            *difference_texts([gap for row, gap in gaps if not row.is_oracle]),
            *(t.rstrip("*") for t in difference_texts([gap for row, gap in gaps if row.is_oracle])),
        ]
    )
    rows = [
        (
            label_of(row.method),
            _own_setting(row),
            f"{row.settings:,}",
            f"{len(row.repairs):,}",
            *(_interval_text(row.mean(column_of(m, "report")), m) for m in _LEAGUE),
            NOTHING if row.behind is None else next(differences),
            _wrecked_text(row),
            _seconds_text(row.plain_mean("repair_seconds")),
            _passes_text(row),
        )
        for row in found
    ]
    edits = [(label_of(row.method), *_edited_texts(row)) for row in found]
    families = distinct(scenario.family for row in found for scenario in row.repairs)
    return {
        "rows": rows,
        "edits": edits if any(set(texts) != {NOTHING} for _, *texts in edits) else [],
        "attacks": [
            (
                label_of(names.attack(family)),
                names.details(family),
                [_league_cell(row, family) for row in found],
            )
            for family in families
        ],
        "methods": [label_of(row.method) for row in found],
        "objective": spoken(objective),
        "intervals": _intervals(found),
        "note": _apart(found),
    }


def _own_setting(
    row: MethodOutcome, text: Callable[[Iterable[tuple[str, str]]], str] = setting_text
) -> str:
    """Return a method's best setting by its axes, or by the options that all its settings give."""
    common = row.summary.common
    if common is None:
        return NOTHING
    given = [(axis, value) for axis, value in common if value != DEFAULT]
    if given:
        return text(given)
    trials = [trial for outcome in row.summary.outcomes for trial in outcome.trials]
    options = [json.loads(trial.cells.get("repair_options") or "{}") for trial in trials]
    fixed = [(n, v) for n, v in options[0].items() if all(one.get(n) == v for one in options)]
    return text((name, option_text(value)) for name, value in fixed) or "defaults"


def _wrecked_text(row: MethodOutcome) -> str:
    if row.wrecked:
        return f"{len(row.wrecked):,} of {len(row.repairs):,}"
    trials = [trial for outcome in row.summary.outcomes for trial in outcome.trials if trial.done]
    own = [trial for outcome in row.summary.outcomes for trial in outcome.trials]
    if all(trial.status == "skipped" for trial in own):
        return "does not apply"
    none_left = not row.repairs and any(trial.wrecked for trial in trials)
    return "by every setting" if none_left else NOTHING


def _seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _passes_text(row: MethodOutcome) -> str:
    passes = row.plain_mean("passes")
    if passes is None:
        return NOTHING
    return f"{'≈' if row.planned else ''}{passes:,.1f}"


def _edited_texts(row: MethodOutcome) -> tuple[str, ...]:
    """Return parts newly zero, and in percent weights newly zero and the change of weights."""
    parts, share, change = (row.plain_mean(name) for name in EDITED)
    return (
        NOTHING if parts is None else f"{parts:,.1f}",
        *(NOTHING if value is None else f"{100 * value:.3g}" for value in (share, change)),
    )


def _league_cell(row: MethodOutcome, family: Family) -> tuple[str, str, str]:
    der, acc, asr = (
        spread_text(row.of(family, column_of(m, "report")), m) for m in ("der", "acc", "asr")
    )
    wrecks = sum(scenario.family == family for scenario in row.wrecked)
    return der, f"{acc} / {asr}", f"{wrecks} wrecked" if wrecks else ""


def league_csv(found: Sequence[MethodOutcome]) -> str:
    """Return the table of repair methods for programs: a row per method."""
    rows = []
    for row in found:
        cells: dict[str, object] = {"method": row.method, "settings": row.settings}
        setting = _own_setting(row, plain_setting_text) if row.summary.common else ""
        cells |= {"setting": setting}
        cells |= {"scenarios": len(row.repairs), "wrecked": len(row.wrecked)}
        for metric in _LEAGUE:
            mean = row.mean(column_of(metric, "report"))
            cells |= _estimated(metric, mean)
        cells |= _estimated("difference", row.behind)
        cells |= {name: row.plain_mean(name) for name in (*COST[:2], *EDITED)}
        rows.append(cells | {"passes_planned": row.planned})
    return csv_text([*rows[0]], rows)


def _estimated(name: str, found: MeanEstimate | None) -> dict[str, object]:
    if found is None:
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _interval_text(found: MeanEstimate | None, metric: str) -> str:
    if found is None:
        return NOTHING
    text = number_text(found.mean, metric)
    if found.low is None or found.high is None:
        return text
    low, high = max(0.0, found.low), min(1.0, found.high)
    return f"{text} ({number_text(low, metric)} to {number_text(high, metric)})"


def _intervals(found: Sequence[MethodOutcome]) -> str:
    """Say what the intervals are, as far as there are any."""
    means = [mean for row in found if (mean := row.mean("der_report")) is not None]
    over = {
        "over the attacks' means" if mean.attacks > 1 else "over scenarios"
        for mean in means
        if mean.low is not None
    }
    if not over:
        return "without intervals, which a single sample has not"
    return (
        f"in brackets Student's 95 % confidence interval {' or '.join(sorted(over))}, cut to [0, 1]"
    )


def _apart(found: Sequence[MethodOutcome]) -> str:
    """Say which methods the scenarios cannot tell from the best one."""
    found = [row for row in found if not row.is_oracle]
    gaps = [row.behind for row in found if row.behind is not None]
    if not gaps:
        return "There is no other method with a result in the same scenarios."
    best, known = label_of(found[0].method), [gap for gap in gaps if gap.p is not None]
    if not known:
        return f"A single scenario cannot tell {best} from another method."
    adjusted = iter(holm([gap.p for gap in known if gap.p is not None]))
    close = [
        label_of(row.method)
        for row in found
        if row.behind is not None and row.behind.p is not None and next(adjusted) > LEVEL
    ]
    sample = known[0].sample.removeprefix("over ")
    if not close:
        return f"{best} is clearly better than every other method (of {sample})."
    return f"These data cannot tell {best} from {listed(close)} (of {sample})."


_EDITS = ("parts", "zeroed_parts", "weights", "zeroed_weights", "moved", "norm")
_CELL = (60.0, 13.0)  # points
_LETTERS = 11  # of a name, that a cell is wide


def read_edits(path: Path, found: Sequence[MethodOutcome]) -> pd.DataFrame:
    """Return what each method changed at its own best setting, a row per layer.

    Returns:
        ``architecture``, ``method``, ``layer`` and ``trials``, over which the other columns are
        means: the numbers of the file, ``zeroed`` (share of the layer's parts) and ``change``
        (norm of the difference over that of the victim's weights). Empty without a file.

    Raises:
        SpecError: The file is there, but is no such table.
    """
    columns = ("trial", "layer", *_EDITS)
    if not path.exists():
        return pd.DataFrame()
    try:
        table = pd.read_parquet(path, columns=list(columns))
        table = table.astype({"trial": int, "layer": str} | dict.fromkeys(_EDITS, float))
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError([f"{path}: cannot be read as a table of edits; {reason}"]) from None
    trials = pd.DataFrame(
        [
            (place, row.method, trial.place, trial.scenario.family.architecture)
            for place, row in enumerate(found)
            for trial in row.judged
        ],
        columns=["rank", "method", "trial", "architecture"],
    )
    own = trials.merge(table.reset_index(names="order"), on="trial")
    own["zeroed"] = (own["zeroed_parts"] / own["parts"]).where(own["parts"] > 0, 0.0)
    own["change"] = (own["moved"] / own["norm"]).where(own["norm"] > 0, 0.0)
    groups = own.groupby(["architecture", "rank", "method", "layer"], sort=False)
    means = groups[[*_EDITS, "zeroed", "change"]].mean()
    means.insert(0, "trials", groups.size())
    means["order"] = groups["order"].min()
    # Layers of one method stand in the network's order, since a trial's rows do.
    return means.reset_index().sort_values(["architecture", "rank", "order"], kind="stable")


def edits_csv(edits: pd.DataFrame) -> str:
    """Return the edits for programs: a row per architecture, method and layer."""
    shown = edits.drop(columns=["rank", "order"])
    rows = [{str(name): value for name, value in row.items()} for row in shown.to_dict("records")]
    return csv_text([*map(str, shown.columns)], rows)


def draw_edits(edits: pd.DataFrame) -> svg.SvgFigure:
    """Draw layers by methods, of one architecture: parts newly zero, and the weights' change."""
    methods, layers = distinct(edits["method"]), distinct(edits["layer"])[::-1]
    heads = [folded(label_of(method), _LETTERS) for method in methods]
    left, (wide, high) = 10 + 5.2 * max(map(len, layers)), _CELL
    below = 24 + svg.LINE * max(map(len, heads))
    sheet = svg.SvgCanvas(
        columns=2, width=left + 12 + wide * len(methods), height=below + 32 + high * len(layers)
    )
    across, up = svg.cell_axis(["\n".join(lines) for lines in heads]), svg.cell_axis(layers)
    for column, title in (
        ("zeroed", "Parts newly zero, % of the layer's"),
        ("change", "Change of the weights, % of their norm"),
    ):
        panel = sheet.panel((left, below, 12, 22), across, up, [title], frame=())
        most = max(float(edits[column].max()), 1e-12)
        cells = {}
        for row in edits.to_dict("records"):
            value = float(row[column])
            text = f"{100 * value:.3g}" if value < 1 else f"{100 * value:,.0f}"
            cells[methods.index(row["method"]), layers.index(row["layer"])] = svg.Cell(
                share=value / most if value else None,
                text=text,
                tip=f"{label_of(str(row['method']))}, {row['layer']}\n"
                f"{row['zeroed_parts']:,.1f} of {row['parts']:,.0f} parts newly zero, weights "
                f"changed by {100 * row['change']:.3g} %\nmean of {count(row['trials'], 'trial')}",
            )
        svg.draw_cells(panel, cells)
    return sheet.finish()


BENIGN_COLUMNS = (
    *("dataset", "architecture", "method", "setting", "best", "models", "trials"),
    *("acc_before", "acc_after", "change", "worst_change"),
    *("flagging_trials", "flagged_mean", "wrecked"),
)
MOST_BENIGN = 40  # rows of the page


def benign_table(summaries: Mapping[str, Summary], names: Names) -> dict[str, Any]:
    """Return the table of what repairs cost benign models, in words and for programs.

    Args:
        summaries: Of each repair method's trials.
        names: Of scenarios.

    Returns:
        ``rows``: title, details, setting, whether it is the best of its method, models, ACC
        before and after, mean and worst change, flagged neurons, wrecked; at most `MOST_BENIGN`
        of them. ``left_out``: how many more there are. ``csv``: all, with `BENIGN_COLUMNS`.
    """
    rows, table = [], []
    for method, summary in summaries.items():
        for one in benign_repairs(summary):
            cells = _benign_cells(one, method)
            table.append(cells)
            setting = setting_text(one.setting)
            if len(summaries) > 1:
                setting = f"{label_of(method)}: {setting}" if one.setting else label_of(method)
            flags = NOTHING
            if cells["flagged_mean"] is not None:
                flags = f"{cells['flagged_mean']:.1f} ({cells['flagging_trials']} of "
                flags += f"{cells['trials']})"
            rows.append(
                {
                    "title": " · ".join(names.details(one.family)),
                    "setting": setting,
                    "best": one.best,
                    "numbers": [
                        str(cells["models"]),
                        spread_text(one.spread("acc_before_report"), "acc"),
                        spread_text(one.spread("acc_after_report"), "acc"),
                        signed(cells["change"], "acc"),
                        signed(cells["worst_change"], "acc"),
                        flags,
                        str(cells["wrecked"] or NOTHING),
                    ],
                }
            )
    shown = sorted(rows, key=lambda row: not row["best"])[:MOST_BENIGN]
    left = len(rows) - len(shown)
    return {"rows": shown, "left_out": left, "csv": csv_text(BENIGN_COLUMNS, table)}


def _benign_cells(one: BenignRepair, method: str) -> dict[str, Any]:
    done = one.done
    changes = [t.numbers["acc_after_report"] - t.numbers["acc_before_report"] for t in done]
    before, after = (one.spread(f"acc_{when}_report") for when in ("before", "after"))
    flagged = [len(trial.flagged) for trial in done if trial.flagged is not None]
    means = [0.0 if found is None else found.mean for found in (before, after)]
    return {
        "dataset": one.family.dataset,
        "architecture": one.family.architecture,
        "method": method,
        "setting": plain_setting_text(one.setting),
        "best": one.best,
        "models": len(one.trials),
        "trials": len(done),
        "acc_before": means[0],
        "acc_after": means[1],
        "change": means[1] - means[0],
        "worst_change": min(changes),
        "flagging_trials": sum(map(bool, flagged)) if flagged else None,
        "flagged_mean": sum(flagged) / len(flagged) if flagged else None,
        "wrecked": sum(trial.wrecked for trial in done),
    }
