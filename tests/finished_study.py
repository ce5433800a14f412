"""A small study that is run to its end, for tables that read a study's folder."""

from pathlib import Path

from orchestrator.study import main

STUDY = """\
name: small
grid:
  attack: {attack}
  dataset: {{name: digits, size: {size}}}
  architecture: {{name: preact_resnet18, width: 1}}
  seed: [0, 1]
  defence_seed: {draws}
  clean_ratio: 0.05
  unlearn_epochs: 1
  relearn_epochs: 1
victim: {{epochs: 1, batch_size: 64, min_acc: 0, min_asr: 0}}
prune: none
mlflow: none
store: store
"""


def finished_study(attack: str, *, size: int, draws: str = "0") -> Path:
    """Run a study of two seeds in the current folder, and return its folder of results."""
    Path("grid.yaml").write_text(STUDY.format(attack=attack, size=size, draws=draws))
    assert main(["grid.yaml", "--inline"]) == 0
    return Path("runs/small").absolute()
