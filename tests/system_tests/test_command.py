"""What the command refuses, and what it leaves alone."""

import resource
import shutil
from pathlib import Path

import pytest

from tests.system_tests.commands import SMALL, TINY, Command

WRONG = """\
name: wrong
grid:
  attack: [badnets, sgi]
  dataset: digits
  architecture: preact_resnet18
  unlearn_treshold: [0.1]
"""


def test_a_wrong_file_is_refused_at_once_and_nothing_is_written(command: Command) -> None:
    command.write(WRONG)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out, err = command.run("grid.yaml", code=2)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert out == ""
    assert err.splitlines() == [
        "grid.yaml:3: grid.attack.1: no attack is called 'sgi'; did you mean 'sig'?",
        ("grid.yaml:6: grid.unlearn_treshold: unknown key; did you mean 'unlearn_threshold'?"),
    ]
    assert [path.name for path in command.folder.iterdir()] == ["grid.yaml"]
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert seconds < 8, "2 s of CPU on an idle machine, nearly all of it torch's import"


def test_the_plan_needs_no_data_and_writes_nothing(command: Command) -> None:
    command.write(
        SMALL.replace("dataset: {name: digits, size: 8}", "dataset: {arrays: absent.npz}")
    )
    out, err = command.run("grid.yaml", "--plan")
    assert "4 scenarios × 8 settings = 32 trials" in out
    assert err == ""
    assert [path.name for path in command.folder.iterdir()] == ["grid.yaml"]
    _, err = command.run("grid.yaml", code=2)
    assert "absent.npz" in err
    assert [path.name for path in command.folder.iterdir()] == ["grid.yaml"]


def test_a_held_study_is_left_to_its_driver(command: Command) -> None:
    command.write(SMALL)
    holder = command.start("grid.yaml", "--inline")
    try:
        command.wait_for_stages(1)
        _, err = command.run("grid.yaml", code=3)
        assert f"is held by process {holder.pid} on " in " ".join(err.split())
    finally:
        holder.kill()
        holder.communicate()


def test_a_store_that_cannot_be_written_to_is_exit_3(command: Command) -> None:
    (command.folder / "taken").write_text("a file, not a folder")
    command.write(SMALL)
    out, err = command.run("grid.yaml", "--set", "store=taken/store", code=3)
    assert out == ""
    assert err.startswith(f"error: the store {command.folder}/taken/store cannot be written to (")


def test_a_cluster_that_is_not_there_is_exit_3(command: Command) -> None:
    command.write(SMALL)
    _, err = command.run("grid.yaml", "--address", "127.0.0.1:1", code=3)
    assert err == (
        "error: the Ray cluster at 127.0.0.1:1 cannot be used ([Errno 111] Connection refused)\n"
    )


def test_a_request_that_would_wait_for_ever_is_exit_3(command: Command) -> None:
    command.write(SMALL)
    _, err = command.run("grid.yaml", "--set", "resources.gpu=1", code=3)
    assert err.startswith("error: resources asks for 2 workers of 1 CPU and 1 GPU; this Ray has 2")


FAILING = """\
name: failing
grid:
  attack: badnets
  dataset: {name: digits, size: 8}
  architecture: {name: preact_resnet18, width: 2}
  clean_ratio: 0.0502                # 65 images
  relearn_batch_size: [1, 65]        # a batch of one cannot pass BatchNorm at 1×1
  unlearn_batch_size: 65
  unlearn_epochs: 2
  relearn_epochs: 2
victim: {epochs: 1, min_acc: 0, min_asr: 0}
resources: {workers: 1}
mlflow: {log_models: none}
"""


@pytest.mark.usefixtures("tables")
def test_a_failing_trial_is_listed_with_its_log_and_tried_again(command: Command) -> None:
    command.write(FAILING)
    for how in ("--inline", "-v"):
        out, _ = command.run("grid.yaml", how, code=1)
        results = command.results("failing")
        assert list(results.status) == ["failed", "done"]
        assert results.error[0].startswith(
            "ValueError: batches of 1 are too small for this network"
        )
        after = [name for name in results.columns if "_after_" in name or name.startswith("der_")]
        after += ["flagged", "target_z", "stop_epoch", "threshold_reached", "seconds"]
        assert results.loc[0, after].isna().all()
        assert results.victim_ok.all()
        log = "runs/failing/logs/trial-00000.log"
        assert f"see {log}" in " ".join(out.split())
        assert "Traceback" not in out
        text = (command.folder / log).read_text()
        assert "Traceback" in text
        assert "relearn_batch_size=1" in text
    report = (command.folder / "runs/failing/report.html").read_text()
    assert "batches of 1 are too small for this network" in report


def test_a_place_as_batch_jobs_have_it(tmp_path: Path, made_tables: Path) -> None:
    """No home, a temporary folder of a long and odd name, a full disk for a log in ASCII."""
    temporary = tmp_path / f"ü{'l' * 140}"
    temporary.mkdir()
    (tmp_path / "runs").mkdir()
    shutil.copy(made_tables, tmp_path / "runs")
    variables = {"HOME": "/proc", "TMPDIR": str(temporary), "PYTHONIOENCODING": "ascii"}
    with Command(tmp_path, **variables) as command, Path("/dev/full").open("w") as full:
        command.write(TINY)
        process = command.start("grid.yaml", stdout=full)
        _, err = command.end(process)
        assert "report   runs/small/report.html" in err.splitlines()
        assert r"best setting by mean DER" in err
        assert (command.results().status == "done").all()
    assert list(temporary.iterdir()) == []


def test_unknown_options_are_refused_in_one_line(command: Command) -> None:
    _, err = command.run("grid.yaml", "--plam", code=2)
    assert err.startswith("command line: unrecognized arguments: --plam")
    assert "Traceback" not in err


def test_help_is_quick_and_complete(command: Command) -> None:
    out, _ = command.run("--help")
    for option in ("--plan", "--address", "--out", "--set", "--inline", "-v"):
        assert option in out
