"""Peak memory of a worker, and workers that fit a GPU: ``python -m benchmarks.bench_memory``.

Each way is a process of its own that trains a victim and then relearns and evaluates a few
times, with test sets of several whole batches. On a CPU the ways are glibc's own habit and ours,
which keeps freed memory (`orchestrator/pipeline/tools.py`): what that holds must not grow from one
trial to the next. On a GPU, what torch reserves there counts, and the context of a process.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import ROOT, clock, options, report, table, the_device
from benchmarks._material import material
from orchestrator.pipeline.tools import keep_memory
from ulrl.clean import draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.relearning import relearn
from ulrl.weight_selection import Suspects

MEGABYTE = 1e6
WAYS = {"memory returned": False, "memory kept": True}


def main(argv: list[str] | None = None) -> None:
    """Print a row per way and the line of JSON."""
    parser = options(__doc__, width=64, trials=3, test=2200)
    parser.add_argument("--worker", choices=list(WAYS), help="be one of the processes")
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.trials, given.test = 1, 2, 40
    if given.worker is not None:
        print(json.dumps(worked(given.width, given.trials, given.test, keep=WAYS[given.worker])))
        return
    numbers = [f"--{name}={getattr(given, name)}" for name in ("width", "trials", "test")]
    found = {way: json.loads(process(["--worker", way, *numbers])) for way in WAYS}
    table(
        ["way", "at start, MB", "peak, MB", "after each trial, MB", "CPU s a trial"],
        [
            [
                way,
                round(one["start"]),
                round(one["peak"]),
                ", ".join(f"{size:.0f}" for size in one["after"]),
                min(one["seconds"]),
            ]
            for way, one in found.items()
        ],
    )
    report("memory", width=given.width, megabytes=found, workers_per_gpu=per_gpu(found))


def process(arguments: list[str]) -> str:
    """Run this file as a worker and return what it tells."""
    command = [sys.executable, "-m", "benchmarks.bench_memory", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def worked(width: int, trials: int, test: int, *, keep: bool) -> dict[str, Any]:
    """Do a worker's work and return the memory it took, in megabytes."""
    torch.set_num_threads(1)
    if keep and not keep_memory():
        raise RuntimeError("this C library cannot be told to keep memory")
    start = memory("VmRSS")
    made = material(width, 256, test, 1, test // 20)
    h = assemble(
        preset_values(Preset.DEFAULT, "cifar10") | {"clean_ratio": 0.5, "relearn_epochs": 1}
    )
    clean = draw_clean_samples(h.clean, made.images, 0)
    after, seconds = [], []
    for _ in range(trials):
        with clock() as taken:
            nobody = Suspects(layers=(), reset_bias=False)
            run = relearn(h.relearn, made.victim, nobody, clean, the_device())
            for _ in run.epochs:
                pass
            evaluate(run.classifier.weights(), made.tests, the_device())
        del run
        after.append(memory("VmRSS"))
        seconds.append(taken.cpu)
    return {
        "start": start,
        "peak": memory("VmHWM"),
        "after": after,
        "seconds": seconds,
        "gpu": gpu_share(),
    }


def memory(name: str) -> float:
    """Return a line of what Linux knows of this process, in megabytes."""
    lines: Iterator[str] = iter(Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024 / MEGABYTE


def gpu_share() -> float | None:
    """Return the megabytes of the GPU that this process takes, its context included."""
    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    now = total - free  # of all processes: the GPU has to be ours
    return (now - torch.cuda.memory_reserved() + torch.cuda.max_memory_reserved()) / MEGABYTE


def per_gpu(found: dict[str, dict[str, Any]]) -> int | None:
    """Return how many workers fit the GPU's memory."""
    if not torch.cuda.is_available():
        return None
    total = torch.cuda.get_device_properties(0).total_memory / MEGABYTE
    return int(total // max(one["gpu"] for one in found.values()))


if __name__ == "__main__":
    main()
