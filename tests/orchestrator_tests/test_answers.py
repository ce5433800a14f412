"""What a pruner said is asked once: a resume decides the same, and a doubt is asked again."""

from pathlib import Path
from random import Random

import pytest
from optuna.pruners import WilcoxonPruner

from orchestrator.plan.plan import Plan
from orchestrator.scheduler.decisions import Decisions, TrialOutcome
from orchestrator.search.answers import PrunerAnswers, PrunerHistory
from tests.orchestrator_tests.outcomes import ACROSS, plan_of

SETTINGS, SCENARIOS = 6, 8


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that grows by one entry whenever Optuna's pruner is asked."""
    calls: list[int] = []
    prune = WilcoxonPruner.prune

    def counted(self: WilcoxonPruner, study: object, trial: object) -> bool:
        calls.append(1)
        return prune(self, study, trial)  # type: ignore[arg-type]

    monkeypatch.setattr(WilcoxonPruner, "prune", counted)
    return calls


def values_of(plan: Plan, seed: int = 0) -> dict[int, float]:
    """Return what each trial reaches: settings differ, so that some are abandoned."""
    source = Random(seed)
    return {
        trial.number: trial.setting.number % 3 / 10 + source.random() / 20 for trial in plan.trials
    }


def decide(plan: Plan, values: dict[int, float], file: Path | None) -> list[str]:
    """Return each verdict and each act of pruning, after keeping the answers."""
    decisions = Decisions(plan, file)
    for trial in decisions.order:
        decisions.offer(trial, TrialOutcome(value=values[trial.number]))
    decisions.save()
    verdicts = [repr(decisions.verdict(trial)) for trial in plan.trials]
    return verdicts + [repr(pruning.evidence) for pruning in decisions.prunings]


def test_a_resume_asks_nothing_and_decides_the_same(tmp_path: Path, asked: list[int]) -> None:
    plan, file = plan_of(SETTINGS, SCENARIOS, ACROSS), tmp_path / "answers"
    values = values_of(plan)
    without = decide(plan, values, None)
    assert any("pruned" in verdict for verdict in without)
    asked.clear()
    assert decide(plan, values, file) == without
    first = len(asked)
    assert first > SETTINGS
    content = file.read_bytes()
    assert decide(plan, values, file) == without
    assert len(asked) == first
    assert file.read_bytes() == content


def answered(plan: Plan, values: dict[int, float]) -> tuple[int, int]:
    """Return the first and the last trial that the pruner was asked of."""
    decisions = Decisions(plan)
    for trial in decisions.order:
        decisions.offer(trial, TrialOutcome(value=values[trial.number]))
    done = [t.number for t in decisions.order if "done" in repr(decisions.verdict(t))]
    return done[0], done[-1]


@pytest.mark.parametrize("damage", ["flipped", "torn", "other versions", "no text"])
def test_answers_that_are_not_what_was_written_are_asked_again(
    damage: str, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, file = plan_of(SETTINGS, SCENARIOS, ACROSS), tmp_path / "answers"
    values = values_of(plan)
    wanted = decide(plan, values, file)
    first, content = len(asked), file.read_bytes()
    assert b"true" in content
    if damage == "flipped":
        file.write_bytes(content.replace(b"false", b"true", 1))
    elif damage == "torn":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "no text":
        file.write_bytes(b"\xff\xfe\n\n")
    else:
        monkeypatch.setattr("orchestrator.search.answers.version", lambda name: f"{name} 0")
    assert decide(plan, values, file) == wanted
    assert len(asked) == 2 * first


def test_what_was_told_otherwise_is_asked_from_there_on(tmp_path: Path, asked: list[int]) -> None:
    plan, file = plan_of(SETTINGS, SCENARIOS, ACROSS), tmp_path / "answers"
    values = values_of(plan)
    decide(plan, values, file)
    count = len(asked)
    first, last = answered(plan, values)
    for changed, most in ((last, 1), (first, count)):
        other = {**values, changed: values[changed] + 2**-50}
        wanted = decide(plan, other, None)
        asked.clear()
        assert decide(plan, other, file) == wanted
        assert 1 <= len(asked) <= most
        assert len(asked) >= most - SCENARIOS
        decide(plan, values, file)


def test_only_what_this_start_needed_is_kept(tmp_path: Path) -> None:
    plan, file = plan_of(SETTINGS, SCENARIOS, ACROSS), tmp_path / "answers"
    decide(plan, values_of(plan), file)
    size = file.stat().st_size
    for seed in (1, 2, 3):
        decide(plan, values_of(plan, seed), file)
    assert file.stat().st_size < 2 * size


def test_all_that_was_told_is_told_apart(tmp_path: Path) -> None:
    events = [("begin", 1), ("report", 1, 2, 0.5), ("finish", 1, None)]
    told = PrunerHistory("wilcoxon")
    digests = [told.digest]
    for event in events:
        told.add(*event)
        digests.append(told.digest)
    assert len(set(digests)) == len(digests)
    other = PrunerHistory("wilcoxon")
    for event in (events[0], events[2], events[1]):
        other.add(*event)
    assert other.digest != told.digest
    assert PrunerAnswers(tmp_path / "absent").get(told) is None
