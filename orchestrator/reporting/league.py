"""Repair methods beside each other, each at its own best setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from orchestrator.files import csv_text
from orchestrator.plan.columns import Family, column_of, spoken
from orchestrator.plan.labels import setting_text as plain_setting_text
from orchestrator.reporting.read_folder import ScenarioRow, distinct
from orchestrator.reporting.summary import Repair, Spread, Summary, is_wreck, sound, spread_of
from orchestrator.reporting.text import (
    NOTHING,
    Names,
    difference_texts,
    label_of,
    listed,
    number_text,
    setting_text,
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

    @property
    def wrecked(self) -> list[ScenarioRow]:
        """The scenarios whose models it leaves at or below chance on the selection half."""
        return [scenario for scenario, repair in self.repairs.items() if is_wreck(repair)]


def league(parts: Mapping[str, Summary]) -> list[MethodOutcome]:
    """Return what each repair method reaches.

    First are methods that repair most scenarios without wrecking the model, of those the best
    on the selection half: the rule by which settings are chosen.

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
    return [
        MethodOutcome(
            method=method,
            settings=len({t.setting for o in parts[method].outcomes for t in o.trials}),
            summary=parts[method],
            repairs=repairs[method],
            behind=_behind(repairs[method], repairs[order[0]], parts[method]),
        )
        for method in order
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
        intervals, difference to the first method, wrecked scenarios. ``attacks``: a row per
        family: title, details, and for each method DER, then ACC and ASR, then a warning.
        ``methods``: names in the order of the rows. ``note``: which cannot be told apart.
    """
    objective = found[0].summary.objective
    gaps = [(row.behind, objective) for row in found if row.behind is not None]
    differences = iter(difference_texts(gaps))
    rows = [
        (
            label_of(row.method),
            setting_text(row.summary.common) if row.summary.common else NOTHING,
            f"{row.settings:,}",
            f"{len(row.repairs):,}",
            *(_interval_text(row.mean(column_of(m, "report")), m) for m in _LEAGUE),
            NOTHING if row.behind is None else next(differences),
            _wrecked_text(row),
        )
        for row in found
    ]
    families = distinct(scenario.family for row in found for scenario in row.repairs)
    return {
        "rows": rows,
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
        "note": _apart(found),
    }


def _wrecked_text(row: MethodOutcome) -> str:
    if row.wrecked:
        return f"{len(row.wrecked):,} of {len(row.repairs):,}"
    trials = [trial for outcome in row.summary.outcomes for trial in outcome.trials if trial.done]
    none_left = not row.repairs and any(trial.wrecked for trial in trials)
    return "by every setting" if none_left else NOTHING


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
        cells |= {"setting": plain_setting_text(row.summary.common or ())}
        cells |= {"scenarios": len(row.repairs), "wrecked": len(row.wrecked)}
        for metric in _LEAGUE:
            mean = row.mean(column_of(metric, "report"))
            cells |= _estimated(metric, mean)
        rows.append(cells | _estimated("difference", row.behind))
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


def _apart(found: Sequence[MethodOutcome]) -> str:
    """Say which methods the scenarios cannot tell from the best one."""
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
