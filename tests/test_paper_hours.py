"""The paper's grid in GPU-hours: what was measured, times what a plan counts."""

import json
from pathlib import Path

import pytest

from benchmarks._material import PREPROCESSING
from benchmarks.paper_hours import MODELS, main
from orchestrator.plan.cost_model import StageShape, on_gpu, size_of
from ulrl.models import ARCHITECTURES
from ulrl.precision import Precision

ROOT = Path(__file__).resolve().parents[1]
SPEEDS = ROOT / "benchmarks" / "results" / "h200-speeds.json"


def hours(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    """Return the last column of the printed table of stages."""
    main([str(file)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    stages = rows[next(number for number, row in enumerate(rows) if row[0] == "stage") + 2 :]
    return {row[0]: float(row[-1]) for row in stages}


def test_it_is_what_the_documents_say(capsys: pytest.CaptureFixture[str]) -> None:
    found = hours(SPEEDS, capsys)
    total = found.pop("all")
    assert total == pytest.approx(sum(found.values()), rel=0.01)
    for page in ("README.md", "docs/performance.md", "benchmarks/results/2026-11-26-h200.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert f"{total:.1f}" in text, page


def test_all_that_was_measured_was_timed_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = json.loads(SPEEDS.read_text(encoding="utf-8"))
    assert len(told["speeds"]) == 2 * sum(map(len, MODELS.values()))
    assert all(speed["timed"] for speed in told["speeds"])
    before = hours(SPEEDS, capsys)["all"]
    for speed in told["speeds"]:
        speed["train"] *= 2
        speed["test"] *= 2
    twice = tmp_path / "twice.json"
    twice.write_text(json.dumps(told), encoding="utf-8")
    assert hours(twice, capsys)["all"] == pytest.approx(2 * before, rel=0.02)


def test_a_plan_without_a_gpu_is_near_what_one_measured() -> None:
    """By arithmetic alone: within 30 %, or 40 % where launches decide, which vary so much."""
    told = json.loads(SPEEDS.read_text(encoding="utf-8"))
    for row in told["speeds"]:
        kind = StageShape(
            architecture=ARCHITECTURES[row["architecture"]](),
            classes=row["classes"],
            channels=3,
            side=row["side"],
            preprocessing=PREPROCESSING,
            batch=told["batch"],
            precision=Precision.AUTO,
            replayed=row["replayed"],
        )
        found = on_gpu(kind, size_of(kind.architecture, kind.classes, 3, kind.side))
        apart = 0.3 if row["replayed"] else 0.4
        assert found.train == pytest.approx(row["train"], rel=apart), row
        assert found.test == pytest.approx(row["test"], rel=0.3), row
