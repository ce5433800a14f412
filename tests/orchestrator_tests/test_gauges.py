"""Readings of the machine: taken while work goes on, kept over starts, thinned."""

import json
import os
import time
from pathlib import Path

import pytest

from orchestrator.tracking import system_metrics
from orchestrator.tracking.system_metrics import SystemMetrics, curves_of, reading


def test_readings_are_taken_and_kept_over_starts(tmp_path: Path) -> None:
    file = tmp_path / "system.jsonl"
    before = int(time.time())
    with SystemMetrics(file, every=0.02):
        time.sleep(0.3)
    first = curves_of(file)
    assert {"system/cpu_utilization_percentage", "system/driver_memory_megabytes"} <= set(first)
    for points in first.values():
        seconds = [second for second, _ in points]
        assert seconds == sorted(set(seconds))
        assert before <= seconds[0] <= seconds[-1] <= time.time()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    last = first["system/driver_memory_megabytes"][-1][1]
    assert last == pytest.approx(resident / 1e6, rel=0.2)
    file.write_text(json.dumps([1, {"cpu": 5.0}]) + "\n" + file.read_text() + "[2, tor")
    with SystemMetrics(file, every=60):
        pass
    again = curves_of(file)
    assert again["system/cpu"] == ((1, 5.0),)
    assert set(first["system/driver_memory_megabytes"]) - set(
        again["system/driver_memory_megabytes"]
    ) <= {first["system/driver_memory_megabytes"][-1]}


def test_no_readings_are_no_curves_and_many_are_thinned(tmp_path: Path) -> None:
    file = tmp_path / "system.jsonl"
    assert curves_of(file) == {}
    lines = [json.dumps([second, {"cpu": second}]) for second in range(1700)]
    file.write_text("\n".join([*lines, "[3]", "{}", '[4, {"cpu": "x"}]', "5"]) + "\n")
    points = curves_of(file)["system/cpu"]
    assert points[:2] == ((0, 0.0), (4, 4.0))
    assert len(points) <= system_metrics.MOST


def test_gpus_are_read_where_there_are_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, 97, 1024'\necho '1, 3, 2'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    read = reading()
    assert (read["gpu_0_utilization_percentage"], read["gpu_1_memory_usage_megabytes"]) == (97, 2)
    program.write_text("#!/bin/sh\necho 'no devices were found'\n")
    assert not [name for name in reading() if name.startswith("gpu")]
