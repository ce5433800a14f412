"""The five commands as they are installed: names, version, completion, examples."""

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from orchestrator.cli.examples import examples
from orchestrator.spec.load import load_study
from orchestrator.study import main
from orchestrator.terminal import Parser

COMMANDS = ("ulrl-study", "ulrl-report", "ulrl-export", "ulrl-store", "ulrl-gallery")


def test_each_command_is_installed_and_calls_what_its_module_is() -> None:
    found = {one.name: one for one in entry_points(group="console_scripts")}
    for name in COMMANDS:
        module, _, function = found[name].value.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function))


@pytest.mark.parametrize("called", ["/somewhere/ulrl-study", "/somewhere/study.py"])
def test_the_help_names_the_command_as_it_was_called(
    called: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    name = Path(called).name
    wanted = name if name in COMMANDS else "python -m orchestrator.study"
    parser = Parser("orchestrator.study", "ulrl-study", "Run a study.")
    assert parser.format_help().startswith(f"usage: {wanted} ")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == "ulrl-orchestrator 0.1.0\n"


def test_bash_takes_the_completion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "--example" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_examples_are_written_once_and_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "quickstart" in examples()
    assert main(["--example", "quickstart"]) == 0
    assert capsys.readouterr().out == "quickstart.yaml\n"
    assert load_study("quickstart.yaml").name == "quickstart"
    assert main(["--example", "quickstart"]) == 2
    assert main(["--example", "quikstart"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "command line: --example: quickstart.yaml is here already",
        "command line: --example: no example is called 'quikstart'; did you mean 'quickstart'?",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart.yaml"]


def test_a_command_line_has_a_file_or_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("command line: one of the arguments GRID.yaml")
