"""Every benchmark runs to its end on something tiny: its results are checked, never its seconds."""

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.markdown_tables import cells_of

ROOT = Path(__file__).resolve().parents[1]
NAMES = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("bench_*.py")
    if "options(__doc__" in path.read_text(encoding="utf-8")  # it has --quick
)
FACTS = {"benchmark", "device", "cores", "threads", "load", "python", "torch", "commit"}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Put back torch's threads, of which benchmarks take what they measure."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def quick(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the line of JSON of a benchmark's smoke test."""
    importlib.import_module(f"benchmarks.{name}").main(["--quick"])
    told = capsys.readouterr().out.splitlines()
    assert any(line.startswith("|---") for line in told), "no table"
    found: dict[str, Any] = json.loads(told[-1])
    return found


def test_there_are_benchmarks() -> None:
    assert len(NAMES) >= 6


@pytest.mark.parametrize("name", [name for name in NAMES if name != "bench_surface"])
def test_a_benchmark_runs_and_tells_where(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = quick(name, capsys)
    assert found.keys() > FACTS
    assert found["benchmark"] == name.removeprefix("bench_")


def test_a_surface_of_300_settings_is_executed_once_per_distinct_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Counted by what each relearning is, independently of the keys of the store."""
    found = quick("bench_surface", capsys)
    assert found.keys() > FACTS
    assert found["settings"] == 5 * 5 * 4 * 3
    assert found["shared_relearnings"] == found["distinct_relearnings"]
    assert found["unshared_relearnings"] == 300
    assert found["shared_ascents"] == 3  # one per defence seed
    assert found["unshared_ascents"] == 300
    assert 2 * found["shared_epochs"] <= found["unshared_epochs"]
    settings, relearnings = found["collapsed_at_ratio_1"]
    assert settings == 60
    assert 3 <= relearnings < settings
    assert sum(found["flagged"]) == 300
    assert sum(found["flagged"][1:]) > 0, "without suspects there is little to tell apart"


def test_what_a_pass_costs_besides_its_images_is_told_apart() -> None:
    """256 images take 10 s and 128 take 6: 4 s for 128 of them, and 2 s whatever their number."""
    units = importlib.import_module("benchmarks.bench_units")
    (piece,) = units._lines([10.0], 256, [6.0], 128)
    assert (piece.each, piece.fixed) == (4 / 128, 2.0)
    assert piece.of(0) == 2.0
    assert piece.of(384) == 14.0


def test_the_table_of_finders_counts_what_was_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.finders_table import main

    head = (
        "attack,target_label,status,victim_ok,finder,named_suspects,flagged,target_rank,"
        "acc_before_report,acc_after_report,asr_after_report,ra_after_report,repair_seconds"
    )
    rows = (
        'sig,3,done,True,ascent,,"[3, 5]",1,0.7,0.6,0.01,0.4,2.0',
        'sig,3,done,True,ascent,,"[5]",6,0.7,0.6,0.99,0.0,4.0',  # another row
        'sig,3,done,True,ascent,,"[]",1,0.7,0.7,0.99,0.0,3.0',  # first, but not flagged
        'sig,3,done,False,ascent,,"[3]",1,0.2,0.2,0.01,0.1,3.0',  # a weak victim
        'sig,3,done,True,ascent,target,"[3]",6,0.7,0.65,0.0,0.25,3.0',
        'none,,done,True,ascent,,"[4]",,0.7,0.5,,,3.0',
        'none,,done,True,ascent,,"[]",,0.7,0.7,,,3.0',
        "sig,3,failed,True,ascent,,,,,,,,",
    )
    (tmp_path / "results.csv").write_text("\n".join((head, *rows)))
    main([str(tmp_path)])
    lines = cells_of(capsys.readouterr().out)
    assert lines[0][:4] == ["finder", "named_suspects", "found: sig", "found: all"]
    assert lines[1] == [
        *("ascent", "–", "1/3", "1/3", "1", "1/3", "6.7", "1/2", "0.5", "10.0", "3.0"),
    ]
    assert lines[2] == [
        *("ascent", "target †", "–", "–", "–", "1/1", "5.0", "–", "–", "–", "3.0"),
    ]

    assert lines[3] == ["finder", "named_suspects", "removed: sig", "RA of these"]
    assert lines[4] == ["ascent", "–", "1/3", "40 to 40"]
    assert lines[5] == ["ascent", "target †", "1/1", "25 to 25"]


@pytest.mark.parametrize(
    "name", ["attacks", "audits", "axes", "finders", "layers", "methods", "victims"]
)
def test_a_table_of_no_study_is_refused_in_one_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", [name, str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{name}_table").main()
    *_, error = capsys.readouterr().err.splitlines()
    assert error.endswith(f"{tmp_path} has no results.csv; run the study first")
