"""The end of a study on the terminal: what worked, in one table."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.decisions import Status
from orchestrator.plan import Plan, Setting


def best_setting(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> Setting | None:
    """Return the setting with the best mean objective on the selection half.

    Only settings whose every trial is done compete; if there is none, all that have a
    result do.
    """
    objective = plan.study.objective
    column = "der_selection" if objective == "der" else f"{objective}_after_selection"
    values: dict[int, list[float | None]] = defaultdict(list)
    for trial, row in zip(plan.trials, rows, strict=True):
        values[trial.setting.number].append(row[column])
    means = {
        number: fmean(v for v in column_values if v is not None)
        for number, column_values in values.items()
        if any(v is not None for v in column_values)
    }
    whole = {number for number in means if None not in values[number]}
    candidates = sorted(whole or means)
    if not candidates:
        return None
    sign = 1 if objective.maximise else -1
    return plan.settings[max(candidates, key=lambda number: (sign * means[number], -number))]


def print_summary(
    console: Console,
    plan: Plan,
    rows: Sequence[Mapping[str, Any]],
    statuses: Counter[Status],
) -> None:
    """Print the counts, the best setting, and what it does to each kind of scenario."""
    counts = ", ".join(f"{statuses[s]} {s}" for s in Status if statuses[s])
    console.print(f"\n{len(rows)} trials: {counts}")
    setting = best_setting(plan, rows)
    if setting is None:
        return
    console.print(
        f"best setting by mean {plan.study.objective.upper()} on the selection half: "
        f"[bold]{setting.text}[/]; below, victim → repaired on the report half in percent, "
        f"mean ± sd over n seeds"
    )
    families: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trial, row in zip(plan.trials, rows, strict=True):
        if trial.setting.number == setting.number and row["status"] == "done":
            families[plan.family_of(trial.scenario)].append(row)
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("scenario", min_width=9, overflow="fold")
    for name in ("n", "ACC", "ASR", "RA", "DER"):
        table.add_column(name, justify="right", no_wrap=True)
    for family, members in families.items():
        weak = sum(row["victim_ok"] is False for row in members)
        table.add_row(
            family + (f" [yellow]({weak} weak)[/]" if weak else ""),
            str(len(members)),
            _change(members, "acc"),
            _change(members, "asr"),
            f"{100 * fmean(row['ra_after_report'] for row in members):.1f}",
            _spread([row["der_report"] for row in members], "{:.3f}"),
        )
    console.print(table)


def _change(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    before = 100 * fmean(row[f"{metric}_before_report"] for row in rows)
    after = [100 * row[f"{metric}_after_report"] for row in rows]
    return f"{before:.1f} → {_spread(after, '{:.1f}')}"


def _spread(values: Sequence[float], form: str) -> str:
    mean = form.format(fmean(values))
    return f"{mean} ±{form.format(stdev(values))}" if len(values) > 1 else mean
