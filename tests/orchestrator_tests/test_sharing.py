"""What trials share, in words: planned, and in the end."""

from pathlib import Path
from random import Random

from orchestrator.cli.plan import planned
from orchestrator.cli.summary import shared
from tests.orchestrator_tests.pruned_studies import study_of
from tests.orchestrator_tests.simulation import Desk, Workers


def test_a_plan_says_what_is_shared() -> None:
    counts = {"train_victim": 144, "unlearn": 144, "relearn": 3600, "train_helper": 1}
    assert planned(3600, counts) == (
        "3,600 trials → 1 helper, 144 victims, 144 ascents, at most 3,600 relearns"
    )


def test_the_end_says_what_was_distinct_and_what_was_run(tmp_path: Path, store: str) -> None:
    """Reinit ratios agree everywhere, thresholds in three of six scenarios: 3·3 + 3·6 relearns."""
    rest = "72 trials → 6 victims, 6 ascents, 27 relearns; run now: "
    desk = Desk(study_of("nobody", store), tmp_path)
    Workers(Random(1), 3).run(desk)
    assert (
        shared(desk.scheduler, desk.folder, desk.keys) == f"{rest}6 victims, 6 ascents, 27 relearns"
    )
    again = Desk(study_of("nobody", store), tmp_path)
    Workers().run(again)
    assert shared(again.scheduler, again.folder, again.keys) == f"{rest}–"


def test_what_ran_ahead_of_a_decision_was_run_but_nothing_rests_on_it(
    tmp_path: Path, store: str
) -> None:
    desk = Desk(study_of("settings", store), tmp_path)
    crew = Workers(Random(2), 5)
    crew.run(desk)
    done = {
        desk.scheduler.scores[trial.number].relearn_key
        for trial, status in zip(desk.plan.trials, desk.statuses(), strict=True)
        if status == "done"
    }
    ran = sum(1 for stage, _ in crew.executed if stage == "relearn")
    text = shared(desk.scheduler, desk.folder, desk.keys)
    assert f"{len(done)} relearns; run now: " in text
    assert text.endswith(f"{ran} relearns")
    assert ran > len(done)
