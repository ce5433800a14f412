"""The table that sets a plan's time beside what came of it, on numbers made up here."""

from pathlib import Path

import pytest

from benchmarks.plan_accuracy import asked, read, table
from orchestrator.scheduler.estimate import PlanEstimate, Source

LINES = """stage,key,scenario,seconds,computed
train_victim,a,s,10.0,True
evaluate,b,s,1.0,True
unlearn,c,s,2.0,True
score_neurons,d,s,0.1,True
relearn,e,s,4.0,True
evaluate,f,s,3.0,True
"""


def test_what_is_said_stands_beside_what_was_taken(tmp_path: Path) -> None:
    """A model's evaluation is part of it, at the mean of 2 s; half the time was computing."""
    (tmp_path / "stages.csv").write_text(LINES)
    said = PlanEstimate(
        runs={"train_victim": 1, "unlearn": 1, "relearn": 9},
        cached={},
        relearns=2,
        seconds=12.0,
        stages={"train_victim": 6.0, "unlearn": 2.0, "relearn": 4.0},
        longest=12.0,
        disk=0.0,
        workers=1,
        gpu=0.0,
        sources={Source.TIMED: 1.0},
    )
    taken = read(tmp_path / "stages.csv")
    assert table(said, taken, wall=40.0, share=0.5)[2:] == [
        "| train_victim | 1 | 1 | 6.0 | 12.0 | 6.0 | 1.00 |",
        "| unlearn | 1 | 1 | 2.0 | 2.0 | 1.0 | 2.00 |",
        "| relearn | 2 | 1 | 4.0 | 6.0 | 3.0 | 1.33 |",
        "| all stages | | | 12.0 | 20.0 | 10.0 | 1.20 |",
        "| from command to end | | | 30.0 | 40.0 | 20.0 | 1.50 |",
    ]
    assert table(said, taken, wall=40.0, share=None)[-1] == (
        "| from command to end | | | 30.0 | 40.0 | – | 0.75 |"
    )


@pytest.mark.parametrize("inline", [False, True])
def test_a_plan_is_asked_as_the_command_asks_it(tmp_path: Path, *, inline: bool) -> None:
    said = asked("studies/quickstart.yaml", [f"store={tmp_path / 'store'}"], inline=inline)
    assert (said.runs["relearn"], said.relearns) == (81, 45)
    # BNP's three cuts of a victim share what they cut by; each, and fine-tuning, is a repair.
    stages = (said.runs["repair.statistics"], said.runs["repair.tune"])
    assert stages == (9, 9 * (3 + 1))
    assert sum(said.stages.values()) == pytest.approx(said.seconds)
    assert said.workers == 1 if inline else 1 <= said.workers <= 2
