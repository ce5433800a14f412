"""Workers side by side on one device: ``python -m benchmarks.bench_packing``.

Up to 8 processes, each of which relearns and evaluates one victim again and again as a
worker of a study does. What counts is trials a minute of all together. On a GPU nvidia-smi tells
besides how much of the time it computed, and the memory.
"""

import multiprocessing
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks._common import options, report, table, the_device
from benchmarks._material import Material, material
from orchestrator.allocator import keep_memory
from ulrl.clean import draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.metrics import measure
from ulrl.relearning import relearn
from ulrl.resetting import Suspects

NOBODY = Suspects(layers=(), reset_bias=False)


@dataclass(kw_only=True)
class Packed:
    """What so many workers did together."""

    workers: int
    trials: int = 0
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)  # percent, by sample
    megabytes: list[float] = field(default_factory=list)

    @property
    def per_minute(self) -> float:
        return 60 * self.trials / self.seconds

    def told(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "workers": self.workers,
            "trials_per_minute": round(self.per_minute, 1),
            "busy_percent": round(mean(self.busy), 1) if self.busy else None,
            "megabytes": max(self.megabytes, default=None),
        }


def main(argv: list[str] | None = None) -> None:
    """Print a row per number of workers and the line of JSON."""
    gpu = the_device().type == "cuda"
    sizes = {"width": 64, "samples": 500} if gpu else {"width": 8, "samples": 64}
    parser = options(__doc__, **sizes, relearn=20, seconds=10 if gpu else 20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8] if gpu else [1, 2])
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.samples, given.relearn, given.workers, given.seconds = (
            1,
            16,
            1,
            [1, 2],
            1,
        )
    tests = 20 * given.samples  # 10,000 for 500
    made = material(given.width, max(1000, given.samples), tests, 1, tests // 40)
    with tempfile.TemporaryDirectory() as folder:
        torch.save((made, given.samples, given.relearn), Path(folder, "made.pt"))
        rows = [packed(number, given.seconds, Path(folder)) for number in given.workers]
    alone = rows[0].per_minute
    table(
        [
            "workers",
            "trials a minute",
            "times the first row",
            "GPU busy, %",
            "GPU memory, MB",
        ],
        [
            [
                row.workers,
                row.per_minute,
                row.per_minute / alone,
                mean(row.busy) if row.busy else "–",
                max(row.megabytes, default="–"),
            ]
            for row in rows
        ],
    )
    report(
        "packing",
        width=given.width,
        samples=given.samples,
        tests=tests,
        relearn=given.relearn,
        seconds=given.seconds,
        packed=[row.told() for row in rows],
    )


def packed(number: int, seconds: float, folder: Path) -> Packed:
    """Let so many processes work for so long."""
    context = multiprocessing.get_context("spawn")
    ready, start, answers = context.Barrier(number + 1), context.Event(), context.Queue()
    processes = [
        context.Process(target=work, args=(folder, seconds, ready, start, answers))
        for _ in range(number)
    ]
    for process in processes:
        process.start()
    try:
        ready.wait(300)
        found = Packed(workers=number)
        with watched(found):
            start.set()
            done = [answers.get(timeout=300) for _ in processes]
    finally:
        for process in processes:
            process.join(60)
            process.kill()
    found.trials = sum(trials for trials, _ in done)
    found.seconds = mean(taken for _, taken in done)
    return found


def work(folder: Path, seconds: float, ready: Any, start: Any, answers: Any) -> None:
    """Be a worker: tell how many trials were done, and the seconds until the last ended."""
    torch.set_num_threads(1)
    if the_device().type == "cpu":
        keep_memory()
    made, samples, epochs = torch.load(folder / "made.pt", weights_only=False)
    for _ in range(2):
        trial(made, samples, epochs)
    ready.wait(300)
    start.wait()
    began = time.perf_counter()
    for done in count(1):
        trial(made, samples, epochs)
        taken = time.perf_counter() - began
        if taken >= seconds:
            answers.put((done, taken))
            return


def trial(made: Material, samples: int, epochs: int) -> None:
    """Relearn and evaluate."""
    ratio = samples / len(made.images.train_labels)
    given = {"clean_ratio": ratio, "relearn_epochs": epochs}
    h = assemble(preset_values(Preset.DEFAULT, "cifar10") | given)
    clean = draw_clean_samples(h.clean, made.images, 0)
    run = relearn(h.relearn, made.victim, NOBODY, clean, the_device())
    for _ in run.epochs:
        measure(run.classifier.predict, made.tests.monitor)
    evaluate(run.classifier.weights(), made.tests, the_device())


@contextmanager
def watched(found: Packed) -> Iterator[None]:
    """Note what nvidia-smi says meanwhile."""
    if the_device().type == "cpu":
        yield
        return
    ask = [
        "nvidia-smi",
        "-i",
        "0",
        "--query-gpu=utilization.gpu,memory.used",
        "--format=csv,noheader,nounits",
    ]
    with subprocess.Popen([*ask, "-lms", "200"], stdout=subprocess.PIPE, text=True) as smi:

        def note() -> None:
            for line in smi.stdout or ():
                busy, megabytes = line.split(",")[:2]
                found.busy.append(float(busy))
                found.megabytes.append(float(megabytes))

        listener = threading.Thread(target=note)
        listener.start()
        try:
            yield
        finally:
            smi.terminate()
            listener.join()


if __name__ == "__main__":
    main()
