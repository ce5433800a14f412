"""A plan refuses what the run would refuse for its files, in the same words, and writes nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.study import main
from tests.orchestrator_tests.test_address import STUDY

UNTRAINED = re.sub("^victim:.*\n", "", STUDY, flags=re.MULTILINE)
ZOO = "victim: {import: zoo}\n"


def file_at(name: str) -> Callable[[], None]:
    """Return what puts a file there."""

    def put() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("not ours\n")

    return put


def dangling() -> None:
    """Put a link there whose target is not."""
    Path("gone").symlink_to("nowhere")


def nothing() -> None:
    """Put nothing there."""


# What lies in the working directory, the study's end, further words, and what is said.
REFUSED: list[tuple[Callable[[], None], str, list[str], str]] = [
    (nothing, "", ["--set", "name=store"], "runs/store is the store; name another study folder"),
    (file_at("table.csv"), "", ["--out", "table.csv"], "cannot be written to ("),
    (file_at("runs/tiny/logs"), "", [], "runs/tiny/logs is a file); name another"),
    (dangling, "", ["--out", "gone"], "gone is a link to nothing"),
    (nothing, "store: st\n", ["--out", "st/victims"], "st/victims is inside the store"),
    (file_at("s"), "store: s/a/b\n", [], "s is a file); name another with store:"),
    (file_at("runs/tiny/stages.csv"), "", [], "stages.csv is not this program's: its first line"),
    (file_at("zoo/model.safetensors"), ZOO, [], "victim.import: "),
]


def tree() -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} | {
        p: b"" for p in Path().rglob("*") if p.is_dir()
    }


@pytest.mark.parametrize(("prepare", "end", "words", "said"), REFUSED)
def test_a_plan_refuses_what_its_run_refuses(
    prepare: Callable[[], None],
    end: str,
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text((UNTRAINED if end == ZOO else STUDY) + end)
    prepare()
    before = tree()
    found = []
    for kind in ("--plan", "--inline"):
        code = main(["grid.yaml", kind, *words])
        told = capfd.readouterr()
        found.append((code, told.err))
        assert told.out == ""
        assert tree() == before
    assert found[0] == found[1]
    assert found[0][0] in (2, 3)
    assert said in found[0][1]


def test_a_plan_needs_no_file_of_a_victim(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(UNTRAINED + ZOO)
    assert main(["grid.yaml", "--plan"]) == 0
    assert "1 scenario" in capfd.readouterr().out
    assert main(["grid.yaml", "--inline"]) == 2


def test_a_plan_says_what_data_a_run_would_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = "name: s\ngrid:\n  attack: badnets\n  dataset: [digits, {folder: mine}]\n"
    text += "  architecture: {name: preact_resnet18, width: 1}\n"
    (tmp_path / "grid.yaml").write_text(text)
    missing = f"grid.yaml:4: grid.dataset.1: {tmp_path}/mine is not there; folder: names one with "
    assert main(["grid.yaml", "--plan"]) == 0
    assert f"\na run would be refused: {missing}" in capsys.readouterr().out
    assert main(["grid.yaml", "--inline"]) == 2
    assert capsys.readouterr().err.startswith(missing)
