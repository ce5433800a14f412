"""What the driver's machine did while a study worked, for MLflow's page of system metrics.

Workers of a cluster elsewhere are not in it: Ray's dashboard has those.
"""

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import psutil

from orchestrator.store.study_folder import whole_lines
from orchestrator.tracking.bulk_insert import SYSTEM

EVERY = 15.0  # seconds between two readings
MOST = 500  # points of a curve; of more, every other is left out


class SystemMetrics:
    """Reads the machine's load in a thread of its own while it is entered.

    Readings are kept in a file, so that a study's later starts add to them.
    """

    def __init__(self, file: Path, every: float = EVERY) -> None:
        self._file, self._every = file, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="gauges", daemon=True)

    def __enter__(self) -> Self:
        whole_lines(self._file)  # a line torn by a kill is cut off
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _read(self) -> None:
        psutil.cpu_percent()  # which tells the load since it was last asked
        while True:
            last = self._over.wait(self._every)
            try:
                with self._file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([int(time.time()), reading()]) + "\n")
            except (OSError, psutil.Error):
                return  # a full disk is told of where results are written
            if last:
                return


def reading() -> dict[str, float]:
    """Return the load now, by MLflow's names where it has one: percents and MB."""
    memory = psutil.virtual_memory()
    read = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "driver_memory_megabytes": psutil.Process(os.getpid()).memory_info().rss / 1e6,
    }
    return {name: round(value, 1) for name, value in {**read, **_gpus()}.items()}


def curves_of(file: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return all readings as curves, whose steps are seconds since 1970; damaged ones are left."""
    found: dict[str, list[tuple[int, float]]] = {}
    for second, read in _readings(file):
        for name, value in read.items():
            found.setdefault(f"{SYSTEM}{name}", []).append((second, float(value)))
    return {name: _thinned(points) for name, points in found.items()}


def _readings(file: Path) -> list[tuple[int, Mapping[str, float]]]:
    readings = {}
    for line in whole_lines(file):
        try:
            second, read = json.loads(line)
            readings[int(second)] = {str(name): float(value) for name, value in read.items()}
        except (ValueError, TypeError, AttributeError):
            continue
    return sorted(readings.items())


def _thinned(points: list[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    step = -(-len(points) // MOST)
    return tuple(points[::step])


def _gpus() -> dict[str, float]:
    """Return load and memory of each GPU; the driver itself must not touch CUDA for that."""
    if shutil.which("nvidia-smi") is None:
        return {}
    fields = "index,utilization.gpu,memory.used"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(  # noqa: S603 - our own words
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout
        read = {}
        for line in told.splitlines():
            number, load, memory = (part.strip() for part in line.split(","))
            read[f"gpu_{number}_utilization_percentage"] = float(load)
            read[f"gpu_{number}_memory_usage_megabytes"] = float(memory)
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}
    return read
