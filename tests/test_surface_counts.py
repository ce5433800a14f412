"""Counts of what settings share, on victims of which the answer is known."""

import json
from pathlib import Path

import pytest

from benchmarks.surface_counts import main

STUDY = """\
name: counts
grid:
  attack: [badnets, blended]
  dataset: digits
  architecture: {{name: preact_resnet18, width: 1}}
  clean_ratio: 0.1
  unlearn_epochs: 2
  relearn_epochs: 7
  z_threshold: {z}
victim: {{epochs: 1}}
prune: none
store: {folder}/store
mlflow: {{uri: "sqlite:///{folder}/mlflow.db"}}
"""


def counted(folder: Path, capsys: pytest.CaptureFixture[str], *, z: float) -> dict[str, list[str]]:
    """Return the cells of each row, by its attack."""
    file = folder / "grid.yaml"
    file.write_text(STUDY.format(z=z, folder=folder), encoding="utf-8")
    assert main([str(file)]) == 0
    *rows, line = capsys.readouterr().out.splitlines()[2:]
    assert json.loads(line)["settings"] == 300
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {name: rest for name, *rest in cells}


def test_without_suspects_a_seed_has_one_relearning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither ratios nor alphas matter then: 3 seeds, of up to 2 + 7 epochs each."""
    table = counted(tmp_path, capsys, z=1000)
    assert list(table) == ["badnets", "blended", "all"]
    for name, victims in (("badnets", "1"), ("blended", "1"), ("all", "2")):
        count, relearnings, epochs, alone, times = table[name]
        assert (count, relearnings) == (victims, "3 (3–3)")
        shared, unshared = (float(text.partition(" ")[0]) for text in (epochs, alone))
        assert 3 * (1 + 7) <= shared <= 3 * (2 + 7)
        assert 300 * (1 + 7) <= unshared <= 300 * (2 + 7)
        # Each victim's own quotient: an ascent is cut short alike on both sides, or not at all.
        assert 80 <= float(times.partition(" ")[0]) <= 100


def test_suspects_tell_settings_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With one set of suspects at all thresholds 4 alphas × 5 ratios are left of each seed."""
    relearnings = counted(tmp_path, capsys, z=0.1)["all"][1]
    least, most = (float(text) for text in relearnings.partition("(")[2].strip(")").split("–"))
    assert 3 * 5 * 4 <= least <= most < 300


def test_a_mistake_in_the_study_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("name: counts\ngrid: {attack: badnet, dataset: digits}\n", encoding="utf-8")
    assert main([str(file)]) == 2
    assert "badnet" in capsys.readouterr().err
