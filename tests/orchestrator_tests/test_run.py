"""The order in which a start of a study comes to its end."""

from io import StringIO
from pathlib import Path
from unittest.mock import Mock

import pytest
from rich.console import Console

from orchestrator.cli.run import run_study
from orchestrator.errors import ResourceError
from orchestrator.executor.base import Executor
from orchestrator.spec.load import load_study
from orchestrator.terminal import Interrupts

STUDY = """\
name: short
grid: {attack: badnets, dataset: digits, architecture: preact_resnet18, clean_ratio: 0.05}
"""


def test_a_cluster_is_left_before_anything_is_concluded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it went: a cluster that dies while the report is written would end the process."""
    monkeypatch.chdir(tmp_path)
    Path("grid.yaml").write_text(STUDY)
    written: list[bool] = []
    results = tmp_path / "out/results.csv"
    monkeypatch.setattr(Executor, "run", Mock(side_effect=ResourceError("the cluster is gone")))
    monkeypatch.setattr(Executor, "leave", lambda _: written.append(results.exists()))
    with pytest.raises(ResourceError, match="the cluster is gone"):
        run_study(
            load_study("grid.yaml", []),
            tmp_path / "out",
            Console(file=StringIO()),
            Interrupts(),
            address=None,
            inline=True,
            verbose=False,
        )
    assert not written[0]
    assert results.exists()
