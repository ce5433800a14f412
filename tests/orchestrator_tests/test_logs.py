"""A log for each trial: what it says, when it stays and when it goes."""

from pathlib import Path
from random import Random

from orchestrator.cli.logs import TrialLogs
from orchestrator.spec.model import Prune, Study
from tests.orchestrator_tests.simulation import Desk, Workers
from tests.orchestrator_tests.small_studies import BADNETS, MEDIAN, choice, small_study


def study_of(
    store: str, alphas: tuple[float, ...] = (0.5, 0.7), prune: Prune | None = None
) -> Study:
    return small_study(
        store=f"memory://{store}",
        attacks=[choice(BADNETS)],
        settings={"alpha": alphas},
        grid={"seeds": (0, 1, 2)},
        few={"relearn_epochs": (3,)},
        prune=prune,
    )


def run(study: Study, folder: Path, crew: Workers | None = None) -> Desk:
    desk = Desk(study, folder)
    desk.watch(TrialLogs(desk.folder, desk.scheduler))
    (crew or Workers(Random(1), 2)).run(desk)
    return desk


def log(desk: Desk, name: str) -> str:
    return (desk.folder.logs / f"{name}.log").read_text(encoding="utf-8")


def test_a_done_trial_tells_all(tmp_path: Path) -> None:
    desk = run(study_of(str(tmp_path)), tmp_path)
    trial = desk.plan.trials[2]
    row = desk.results.row(trial)
    text = log(desk, trial.name)
    assert f"scenario  {trial.scenario.text}\nsetting   {trial.setting.text}\n" in text
    assert "\n          it ended in class 0, predicted for 90 of 100 clean samples\n" in text
    assert "wreck" not in text
    assert f"selection ACC {row['acc_after_selection']:.1%}" in text
    assert f"report    ACC {row['acc_after_report']:.1%}" in text
    for stage in ("unlearn", "score_neurons", "relearn", "evaluate"):
        assert f" {stage} " in text
    assert [line.split()[0] for line in text.splitlines() if "%" in line][:3] == ["1", "2", "3"]
    assert text.endswith("outcome   done\n")
    assert len(list(desk.folder.logs.glob("trial-*.log"))) == 6
    assert "selection ACC" in log(desk, "victim-0000")


def test_a_failure_leaves_its_traceback_and_a_retry_starts_afresh(tmp_path: Path) -> None:
    crew = Workers(Random(1), 2, failing={"trial-00003"})
    desk = run(study_of(str(tmp_path)), tmp_path, crew)
    text = log(desk, "trial-00003")
    assert "failed    RuntimeError: it cannot be done\n\nwhere\n" in text  # the traceback
    assert text.endswith("outcome   failed\n")
    again = run(study_of(str(tmp_path)), tmp_path)
    text = log(again, "trial-00003")
    assert "it cannot be done" not in text
    assert text.endswith("outcome   done\n")


def test_a_second_start_leaves_logs_alone(tmp_path: Path) -> None:
    desk = run(study_of(str(tmp_path)), tmp_path)
    before = {path: path.read_bytes() for path in desk.folder.logs.glob("*.log")}
    run(study_of(str(tmp_path)), tmp_path)
    assert {path: path.read_bytes() for path in desk.folder.logs.glob("*.log")} == before


def test_another_grid_begins_anew_and_tells_of_stored_results(tmp_path: Path) -> None:
    """Trial 1 was alpha=0.7; in the changed grid it is another."""
    run(study_of(str(tmp_path)), tmp_path)
    desk = run(study_of(str(tmp_path), alphas=(0.5, 0.6, 0.7)), tmp_path)
    assert "alpha=0.6" in log(desk, "trial-00001")
    stored = log(desk, "trial-00002")
    assert "setting   alpha=0.7\nfrom the store\n" in stored
    assert stored.endswith("outcome   done\n")


def test_a_cut_trial_says_why(tmp_path: Path) -> None:
    study = study_of(str(tmp_path), alphas=(0.3, 0.5, 0.7, 0.9), prune=Prune(curve=MEDIAN))
    desk = run(study, tmp_path)
    cut = [p.trial for p in desk.scheduler.decisions.prunings]
    assert cut
    texts = [log(desk, trial.name) for trial in cut]
    assert all("\ndecision  " in text and " cut after epoch " in text for text in texts)
    assert all(text.endswith("outcome   pruned\n") for text in texts)
