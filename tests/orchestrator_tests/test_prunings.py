"""Decisions in words, and as a table that does not know in which order they came."""

import csv
from pathlib import Path

from orchestrator.scheduler.decisions import (
    COLUMNS,
    Decisions,
    Pruning,
    TrialOutcome,
    sentence,
    write_prunings,
)
from orchestrator.search.pruners import Evidence
from orchestrator.spec.model import Objective
from tests.orchestrator_tests.outcomes import ACROSS, WITHIN, in_order, offer, plan_of


def test_an_abandoned_setting_in_words() -> None:
    decisions = Decisions(plan_of(2, 7, ACROSS))
    best, worse = in_order(decisions._plan)
    for trial in best:
        offer(decisions, trial, 0.9)
    verdicts = [
        verdict
        for trial in worse[:5]
        for verdict in decisions.offer(trial, TrialOutcome(value=0.8, curve=(0.8,)))
    ]
    told = [verdict.pruning for verdict in verdicts]
    (pruning,) = decisions.prunings
    assert told == [None] * 4 + [pruning] + [None] * 2  # the fifth decides, two more follow
    assert sentence(decisions._plan, pruning) == (
        "setting alpha=0.8 abandoned after 5 scenarios as unlikely to be the best of this grid: "
        "worse than alpha=0.7 on 5 of 5, nominal p = 0.031 (mean DER 0.800 against 0.900)"
    )


def test_one_is_singular() -> None:
    plan = plan_of(2, 1, WITHIN)
    evidence = Evidence(
        step=1, value=0.5, reference=0.6, p_value=None, pairs=1, worse=1, against=None
    )
    said = {
        level: sentence(plan, Pruning(level=level, trial=plan.trials[0], evidence=evidence))
        for level in ("curve", "setting")
    }
    assert "worse than 1 of 1 setting there" in said["curve"]
    assert "abandoned after 1 scenario as unlikely" in said["setting"]


def test_a_cut_curve_in_words_and_percent() -> None:
    plan = plan_of(3, 1, WITHIN, objective=Objective.ASR)
    decisions = Decisions(plan)
    first, second, third = (trial for (trial,) in in_order(plan))
    offer(decisions, first, 0.1, 0.5, 0.3, 0.1)
    offer(decisions, second, 0.3, 0.5, 0.4, 0.3)
    (verdict,) = decisions.offer(third, TrialOutcome(curve=(0.5, 0.6)))
    assert verdict.pruning is not None
    assert sentence(plan, verdict.pruning) == (
        f"{third.name} cut after epoch 2: ASR 60.0%, worse than 2 of 2 settings there "
        f"(median 35.0%)"
    )


def test_the_table_is_in_the_plans_order(tmp_path: Path) -> None:
    plan = plan_of(2, 3, WITHIN)
    trials = [trial for trials in in_order(plan) for trial in trials]
    prunings = [
        Pruning(
            level="curve",
            trial=trial,
            evidence=Evidence(step=3, value=0.1 * place, reference=0.9, pairs=2, worse=1),
        )
        for place, trial in enumerate(trials)
    ]
    file = tmp_path / "pruning.csv"
    write_prunings(plan, [prunings[place] for place in (4, 1, 5, 0, 3, 2)], file)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    assert tuple(rows[0]) == COLUMNS
    assert [float(row["value"]) for row in rows] == [0.1 * place for place in range(6)]
    assert {row["against"] for row in rows} == {""}
    assert rows[0]["scenario"] == trials[0].scenario.text
