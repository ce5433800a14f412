"""What all benchmarks share: clocks, contenders in turn, a table, one line of JSON.

Other work on a machine moves wall time; CPU time, of the process and of the children it has
waited for, moves less; ratios of contenders that take turns in one run move least. So each
contender is run once per round, and what is told is the median over rounds of the ratio.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ROOT = Path(__file__).resolve().parents[1]


def study_folder(text: str) -> Path:
    """Return the folder of a finished study, which an argument names.

    Raises:
        ArgumentTypeError: It has no results.
    """
    folder = Path(text)
    if not (folder / "results.csv").is_file():
        raise argparse.ArgumentTypeError(f"{text} has no results.csv; run the study first")
    return folder


@dataclass
class Clock:
    """Seconds that something took."""

    wall: float = 0.0
    cpu: float = 0.0  # of this process and of children that have ended


@contextmanager
def clock() -> Iterator[Clock]:
    """Measure the block; on a GPU, until the device has done all it was given."""
    taken = Clock()
    _wait()
    wall, cpu = time.perf_counter(), _cpu()
    yield taken
    _wait()
    taken.wall, taken.cpu = time.perf_counter() - wall, _cpu() - cpu


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _cpu() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def in_turn(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Clock]]:
    """Run every contender once per round and return its clocks.

    One that runs in another process returns its clock itself.
    """
    clocks: dict[str, list[Clock]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            with clock() as taken:
                told = run()
            clocks[name].append(told if isinstance(told, Clock) else taken)
    return clocks


def summary(values: Sequence[float], digits: int = 4) -> dict[str, float | int]:
    """Return n, median and spread (the smallest and largest) of some values."""
    return {
        "n": len(values),
        "median": round(median(values), digits),
        "low": round(min(values), digits),
        "high": round(max(values), digits),
    }


def ratios(slow: Sequence[Clock], fast: Sequence[Clock], clock_of: str) -> list[float]:
    """Return how many times faster one contender was in each round, by ``wall`` or ``cpu``."""
    pairs = zip(slow, fast, strict=True)
    return [getattr(one, clock_of) / getattr(other, clock_of) for one, other in pairs]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table in Markdown; floats to three digits."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cells = (f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    print(markdown(heads, rows))


def spread(values: Sequence[float]) -> str:
    """Return a median with the smallest and largest value, for a table."""
    told = summary(values)
    return f"{told['median']:.3g} ({told['low']:.3g}–{told['high']:.3g})"


def slug(name: str) -> str:
    """Return a contender's name as a key of the line of JSON."""
    return "_".join(name.replace(",", " ").replace(":", " ").split())


def report(benchmark: str, **results: Any) -> None:
    """Print the one line of JSON: where and with what it ran, and what came out."""
    print(json.dumps({"benchmark": benchmark, **environment(), **results}, allow_nan=False))


def environment() -> dict[str, Any]:
    """Return device, versions, commit and load of this run."""
    import torch

    return {
        "device": device_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def the_device() -> "torch.device":
    """Return where a benchmark computes: the GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache
def device_name() -> str:
    """Return the GPU's name, or the CPU's as Linux tells it."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@lru_cache
def commit() -> str:
    """Return the commit that runs, with a plus where files were changed since."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def options(doc: str | None, **numbers: int) -> argparse.ArgumentParser:
    """Return a parser with ``--quick`` and an option for each of some whole numbers."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test: seconds, no figure")
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    return parser
