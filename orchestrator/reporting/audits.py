"""What audits see in victims, in benign models and in repaired ones."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, compress
from pathlib import Path
from statistics import fmean, median
from typing import Any

from orchestrator.files import csv_text, read_table
from orchestrator.plan.columns import (
    AUDIT_COLUMNS,
    MODELS,
    NO_ATTACK,
    SCENARIO,
    ULRL,
    Family,
    count,
)
from orchestrator.plan.labels import mark_of
from orchestrator.reporting import svg
from orchestrator.reporting.read_folder import ScenarioRow, distinct
from orchestrator.reporting.text import NOTHING, Names, label_of
from orchestrator.search.inference import AurocEstimate, auroc


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """An audit of one model.

    Attributes:
        scenario: Its columns as text.
        samples: The clean samples that it looked at, as text: how many, how they are drawn, and
            the draw; empty where it takes none.
        method: What repaired the model; "" of a victim.
        audit: Name and options.
        failed: Whether it has no result.
        statistic: Of the model; None where it has no result.
        suspects: Classes that its rule flags; None where it has no verdict.
        rank: Place of the true target by its scores; None where there is none.
        first: The most suspect class; None where it has no result or several share the place.
        top: The first class of the highest score.
        bounds: Of a certificate, by row and column of the patch: the share of images that a patch
            there may turn to the most suspect class. Empty of other audits.
    """

    scenario: tuple[str, ...]
    samples: tuple[str, str, str]
    method: str
    audit: tuple[str, str]
    failed: bool
    statistic: float | None
    suspects: tuple[int, ...] | None
    rank: float | None
    first: int | None
    rule: str
    passes: float
    queries: int
    seconds: float
    top: int | None = None
    bounds: Sequence[Sequence[float]] = ()

    @property
    def kind(self) -> "Kind":
        """What makes audits comparable: the audit and its samples but for their draw."""
        return (*self.audit, *self.samples[:2])

    @property
    def benign(self) -> bool:
        """Whether its victim was trained on clean images."""
        return self.scenario[0] == NO_ATTACK

    @property
    def model(self) -> tuple[str, ...]:
        """What names the audited model among those of the same method."""
        return (*self.scenario, *self.samples, self.method)


Kind = tuple[str, str, str, str]  # name and options of an audit, `SAMPLES` but the draw
SAMPLES = ("clean_ratio", "clean_draw", "defence_seed")


def read_audits(path: Path) -> list[AuditRow]:
    """Return the rows of audits.csv; none where there is no such file.

    Raises:
        SpecError: It is no such file.
    """
    if not path.exists():
        return []
    rows = [_row(cells) for cells in read_table(path, (*SCENARIO, *AUDIT_COLUMNS)).rows]
    # A repaired model's row has the samples of its repair, whatever the audit looks at.
    looking = {row.audit for row in rows if not row.method and row.samples[0]}
    return [row if row.audit in looking else replace(row, samples=("", "", "")) for row in rows]


def _row(cells: Any) -> AuditRow:
    done = cells["status"] == "done"
    scores = json.loads(cells["scores"]) if done else []
    top = [place for place, score in enumerate(scores) if score == max(scores)]
    suspects = cells["suspects"]
    return AuditRow(
        scenario=tuple(cells[name] for name in SCENARIO),
        samples=(cells["clean_ratio"], cells.get("clean_draw") or "", cells["defence_seed"]),
        method=_method(cells) if cells["model"] == MODELS[1] else "",
        audit=(cells["audit"], cells["audit_options"]),
        failed=not done,
        statistic=float(cells["statistic"]) if cells["statistic"] else None,
        suspects=tuple(json.loads(suspects)) if suspects else None,
        rank=float(cells["target_rank"]) if cells["target_rank"] else None,
        first=top[0] if len(top) == 1 else None,
        rule=cells["rule"],
        passes=float(cells["passes"] or 0),
        queries=int(cells["queries"] or 0),
        seconds=float(cells["seconds"] or 0),
        top=top[0] if top else None,
        bounds=json.loads(cells["details"]).get("bounds", ()) if cells["details"] else (),
    )


def _method(cells: Mapping[str, str]) -> str:
    return (cells.get("repair") or ULRL) + mark_of(cells)


def audit_tables(rows: Sequence[AuditRow]) -> dict[str, Any] | None:
    """Return the section on audits, in words; None where nothing was audited.

    By clean samples of another number, or drawn in another way, an audit is another one.

    Returns:
        ``audits``: for each audit what it makes of victims and benign models. ``by_attack``: in
        how many victims of each of the ``attacks`` it has the true target first. ``repaired``: for
        each audit and repair method what it makes of the repaired models. ``agreement``: how
        often two audits name the same class. ``note``: what failed.
    """
    if not rows:
        return None
    kinds = distinct(row.kind for row in rows)
    names = _names(kinds)
    found = [row for row in rows if not row.failed]
    own = {kind: [row for row in found if row.kind == kind] for kind in kinds}
    failed = len(rows) - len(found)
    note = f"{count(failed, 'audit')} without a result: failed, skipped or to come."
    attacks = distinct(row.scenario[0] for row in rows if not row.benign)
    return {
        "audits": [(names[kind], *_detection(own[kind])) for kind in kinds],
        "attacks": [label_of(attack) for attack in attacks],
        "by_attack": [(names[kind], *_first_by_attack(own[kind], attacks)) for kind in kinds],
        "repaired": [
            (names[kind], label_of(method), *_after(own[kind], method))
            for kind in kinds
            for method in distinct(r.method for r in rows if r.method)
        ],
        "agreement": [
            (names[one], names[other], *_agreement(own[one], own[other]))
            for one, other in combinations(kinds, 2)
            if one[2:] == other[2:] or "" in (one[2], other[2])
        ],
        "rules": [(names[kind], _rule(own[kind])) for kind in kinds],
        "note": note if failed else "",
    }


def _names(kinds: Sequence[Kind]) -> dict[Kind, str]:
    """Return each audit with its options, and with that of its samples in which kinds differ."""
    values = zip(*(kind[2:] for kind in kinds if kind[2]), strict=True)
    several = [len(set(column)) > 1 for column in values]
    names = {}
    for kind in kinds:
        options = [f"{key}={value}" for key, value in json.loads(kind[1]).items()]
        samples = compress(zip(SAMPLES, kind[2:], strict=False), several)
        options += [f"{label_of(key)}={value}" for key, value in samples if value]
        name = label_of(kind[0])
        names[kind] = f"{name} ({', '.join(options)})" if options else name
    return names


def _rule(rows: Sequence[AuditRow]) -> str:
    if not rows:
        return NOTHING
    if rows[0].suspects is None:
        return f"no verdict: {rows[0].rule}"
    return f"a class is a suspect if {rows[0].rule}"


def _detection(rows: Sequence[AuditRow]) -> tuple[str, ...]:
    """Return what an audit makes of victims and of benign models, and what it takes."""
    own = [row for row in rows if not row.method]
    victims, benign = _split(own)
    ranked = [row.rank for row in victims if row.rank is not None]
    return (
        _models(victims),
        _models(benign),
        _auroc_text(_auroc(victims, benign)),
        _share(ranked, lambda rank: rank == 1),
        f"{median(ranked):g}" if ranked else NOTHING,
        *(_flagged(part) for part in (victims, benign)),
        *_cost(own),
    )


def _first_by_attack(rows: Sequence[AuditRow], attacks: Sequence[str]) -> tuple[str, ...]:
    ranked = [row for row in rows if not row.method and row.rank is not None]
    return tuple(
        _share([r.rank for r in ranked if r.scenario[0] == attack and r.rank], lambda x: x == 1)
        for attack in attacks
    )


def _after(rows: Sequence[AuditRow], method: str) -> tuple[str, ...]:
    """Return what an audit makes of repaired models.

    Of victims first, then of benign models that were repaired too: n, the statistic before and
    after, how many are flagged before and after. Then how well it tells repaired models from
    benign ones that nobody repaired.
    """
    before = {row.model[:-1]: row for row in rows if not row.method}
    cells: list[str] = []
    repaired = [row for row in rows if row.method == method and row.model[:-1] in before]
    for part in _split(repaired):
        former = [before[row.model[:-1]] for row in part]
        flags = tuple(map(_flagged, (former, part)))
        shown = NOTHING if NOTHING in flags else " → ".join(flags)
        cells += [_models(part), _change(former, part), shown]
    attacked, _ = _split(repaired)
    _, benign = _split([row for row in rows if not row.method])
    return (*cells, _auroc_text(_auroc(attacked, benign)))


def _split(rows: Sequence[AuditRow]) -> tuple[list[AuditRow], list[AuditRow]]:
    return [row for row in rows if not row.benign], [row for row in rows if row.benign]


def _models(rows: Sequence[AuditRow]) -> str:
    """Return how many trained models there are, however often each was repaired and audited."""
    return str(len({row.scenario for row in rows}))


def _auroc(victims: Sequence[AuditRow], benign: Sequence[AuditRow]) -> AurocEstimate | None:
    """Compare a statistic of each trained model: audits of one model are no further models."""

    def network(row: AuditRow) -> tuple[str, ...]:
        return row.scenario[2:4]  # with the dataset

    def statistics(rows: Sequence[AuditRow], cell: tuple[str, ...]) -> list[float]:
        models: dict[tuple[str, ...], list[float]] = {}
        for row in rows:
            if network(row) == cell and row.statistic is not None:
                models.setdefault(row.scenario, []).append(row.statistic)
        return [median(values) for values in models.values()]

    cells = distinct(map(network, victims))
    return auroc((statistics(victims, cell), statistics(benign, cell)) for cell in cells)


def _auroc_text(found: AurocEstimate | None) -> str:
    if found is None:
        return NOTHING
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _share(values: Sequence[float], holds: Callable[[float], bool]) -> str:
    return f"{sum(map(holds, values))} of {len(values)}" if values else NOTHING


def _flagged(rows: Sequence[AuditRow]) -> str:
    judged = [row for row in rows if row.suspects is not None]
    return f"{sum(bool(r.suspects) for r in judged)} of {len(judged)}" if judged else NOTHING


def _change(before: Sequence[AuditRow], after: Sequence[AuditRow]) -> str:
    pairs = [
        (one.statistic, other.statistic)
        for one, other in zip(before, after, strict=True)
        if one.statistic is not None and other.statistic is not None
    ]
    if not pairs:
        return NOTHING
    return " → ".join(f"{median(values):.3g}" for values in zip(*pairs, strict=True))


def _cost(rows: Sequence[AuditRow]) -> tuple[str, str, str]:
    if not rows:
        return NOTHING, NOTHING, NOTHING
    queries = fmean(row.queries for row in rows)
    return (
        f"{fmean(row.seconds for row in rows):,.1f}",
        f"{fmean(row.passes for row in rows):,.0f}",
        f"{queries:,.0f}" if queries else NOTHING,
    )


def _agreement(one: Sequence[AuditRow], other: Sequence[AuditRow]) -> tuple[str, str]:
    """Return over how many victims two audits name one class each, and how often the same."""
    tops: tuple[dict[tuple[str, ...], int | None], ...] = ({}, {})
    for rows, found in zip((one, other), tops, strict=True):
        for row in rows:
            if not row.method and not row.benign:
                found.setdefault(row.scenario, row.first)
    shared = [
        (tops[0][place], tops[1][place])
        for place in tops[0].keys() & tops[1].keys()
        if tops[0][place] is not None and tops[1][place] is not None
    ]
    return _share([float(a == b) for a, b in shared], bool), str(len(shared))


MOST_MAPS = 12  # panels of the figure
_WIDE = 190.0  # of a panel, in points


def mapped(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """Return the rows that have a map of bounds."""
    return [row for row in rows if row.bounds]


def draw_maps(rows: Sequence[AuditRow], names: Names) -> svg.SvgFigure:
    """Draw the first `MOST_MAPS` maps, dark at 0 and bright at 1, the largest bound outlined."""
    sheet = svg.SvgCanvas(columns=4, width=_WIDE, height=_WIDE + 26)
    for row in rows[:MOST_MAPS]:
        lines, worst = row.bounds[::-1], max(map(max, row.bounds))  # drawn from the bottom
        first = next(
            (p, c) for p, line in enumerate(lines) for c, b in enumerate(line) if b == worst
        )
        scenario = ScenarioRow(Family(*row.scenario[:-1]), row.scenario[-1])
        title = [names.scenario(scenario), _map_title(row, worst)]
        axes = svg.cell_axis([""] * len(lines[0])), svg.cell_axis([""] * len(lines))
        panel = sheet.panel((8, 8, 8, 38), *axes, title, frame=())
        cells = {
            (column, place): svg.Cell(
                share=bound,
                marked=(place, column) == first,
                tip=f"patch from row {len(lines) - 1 - place}, column {column}: {bound:.2f}",
            )
            for place, line in enumerate(lines)
            for column, bound in enumerate(line)
        }
        svg.draw_cells(panel, cells)
    return sheet.finish()


def _map_title(row: AuditRow, worst: float) -> str:
    model = "benign" if row.benign and not row.method else label_of(row.method) or "victim"
    return f"{model}, to class {row.top}: {worst:.2f}"


def maps_csv(rows: Sequence[AuditRow]) -> str:
    """Return the maps, a line per position."""
    columns = (*SCENARIO, "repair", "audit", "audit_options", "class", "row", "column", "bound")
    lines = [
        dict(
            zip(
                columns,
                (*one.scenario, one.method, *one.audit, one.top, row, column, bound),
                strict=True,
            )
        )
        for one in rows
        for row, bounds in enumerate(one.bounds)
        for column, bound in enumerate(bounds)
    ]
    return csv_text(columns, lines)
