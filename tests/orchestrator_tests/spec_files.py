"""Study files for tests: written to the working folder, and read back."""

from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.load import load_study
from orchestrator.spec.model import Study

SMALL = """\
name: s
grid:
  attack: badnets
  dataset: digits
  architecture: preact_resnet18
"""


def load(text: str, *overrides: str) -> Study:
    """Return the study of a file of that text."""
    Path("grid.yaml").write_text(text, encoding="utf-8")
    return load_study("grid.yaml", overrides)


def mistakes(text: str, *overrides: str) -> list[str]:
    """Return the mistakes of a file of that text, without the file's name."""
    with pytest.raises(SpecError) as caught:
        load(text, *overrides)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return [line.removeprefix("grid.yaml:") for line in caught.value.lines]
