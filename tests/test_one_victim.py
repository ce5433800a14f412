"""The benchmark of one victim trains what a study trains, and says so."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.one_victim import main
from ulrl.shapes import shapes


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Put back torch's threads, of which the benchmark takes one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_it_tells_of_a_victim_and_its_repairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = shapes(400, 100, 0)
    file = tmp_path / "shapes.npz"
    np.savez(
        file,
        train_images=drawn.train_images.permute(0, 2, 3, 1).numpy(),
        train_labels=drawn.train_labels.numpy(),
        test_images=drawn.test_images.permute(0, 2, 3, 1).numpy(),
        test_labels=drawn.test_labels.numpy(),
    )
    given = [
        str(file),
        "--width",
        "4",
        "--epochs",
        "3",
        "--batch-size",
        "20",
        "--defence-seeds",
        "2",
    ]
    main(given)
    *printed, line = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert "epochs=3, batch_size=20" in printed[0]
    assert told["changes"] == {"epochs": 3, "batch_size": 20}
    assert told["acc"] > 0.2  # ten classes
    assert told["repaired_acc"]["n"] == told["repaired_asr"]["n"] == 2
    rows = [row for row in printed if row.startswith("| repaired")]
    assert len(rows) == 2
