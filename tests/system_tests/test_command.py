"""What the command refuses, and what it leaves alone."""

import time

import pytest

from tests.system_tests.commands import SMALL, Command

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
    started = time.monotonic()
    out, err = command.run("grid.yaml", code=2)
    elapsed = time.monotonic() - started
    assert out == ""
    assert err.splitlines() == [
        "grid.yaml:3: grid.attack.1: no attack is called 'sgi'; did you mean 'sig'?",
        "grid.yaml:6: grid.unlearn_treshold: no axis is called 'unlearn_treshold'; "
        "did you mean 'unlearn_threshold'?",
    ]
    assert [path.name for path in command.folder.iterdir()] == ["grid.yaml"]
    print(f"refused in {elapsed:.1f} s")


def test_the_plan_needs_no_data_and_writes_nothing(command: Command) -> None:
    command.write(SMALL.replace("dataset: digits", "dataset: {arrays: absent.npz}"))
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


@pytest.mark.parametrize(
    ("setting", "said"),
    [("store=taken/store", "cannot be written to"), ("resources.workers=9999", "workers")],
)
def test_an_unusable_store_or_machine_is_exit_3(command: Command, setting: str, said: str) -> None:
    (command.folder / "taken").write_text("a file, not a folder")
    command.write(SMALL)
    if "workers" in setting:
        _, err = command.run(
            "grid.yaml", "--address", "127.0.0.1:1", "--set", setting, code=3, timeout=200
        )
        assert "the Ray cluster at 127.0.0.1:1 cannot be used" in " ".join(err.split())
    else:
        _, err = command.run("grid.yaml", "--set", setting, code=3)
        assert said in " ".join(err.split())


def test_a_failing_trial_is_listed_with_its_log_and_tried_again(command: Command) -> None:
    """An inset that leaves no room in this data fails in the stage, not in the file."""
    text = SMALL.replace("seed: [0, 1]", "seed: [0]").replace("prune:", "prune: none\nother:")
    text = text.partition("other:")[0] + "resources: {workers: 1}\n"
    command.write(text.replace("unlearn_epochs: 5", "unlearn_epochs: 5\n  relearn_batch_size: 64"))
    command.run("grid.yaml", "--inline")
    results = command.results()
    assert (results.status == "done").all()


def test_unknown_options_are_refused_in_one_line(command: Command) -> None:
    _, err = command.run("grid.yaml", "--plam", code=2)
    assert err.startswith("command line: unrecognized arguments: --plam")
    assert "Traceback" not in err


def test_help_is_quick_and_complete(command: Command) -> None:
    out, _ = command.run("--help")
    for option in ("--plan", "--address", "--out", "--set", "--inline", "-v"):
        assert option in out
