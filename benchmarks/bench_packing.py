"""Workers side by side on one device: ``python -m benchmarks.bench_packing``.

Up to 8 processes, each of which relearns and evaluates one victim again and again as a
worker of a study does. What counts is trials a minute of all together. On a GPU nvidia-smi tells
besides how much of the time it computed, and the memory.
"""

import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

from benchmarks._common import Clock, options, report, table, the_device
from benchmarks._material import Material, material
from benchmarks._worker import Acts, WorkerProcess
from ulrl.clean import draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.metrics import measure
from ulrl.relearning import relearn
from ulrl.weight_selection import Suspects

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
        given.width, given.samples, given.relearn, given.seconds = 1, 16, 1, 1
        given.workers = [1, 2]
    tests = 20 * given.samples  # 10,000 for 500
    made = material(given.width, max(1000, given.samples), tests, 1, tests // 40)
    work = (made, given.samples, given.relearn, given.seconds)
    rows = [packed(number, work) for number in given.workers]
    alone = rows[0].per_minute
    table(
        ["workers", "trials a minute", "times the first row", "GPU busy, %", "GPU memory, MB"],
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


def packed(number: int, work: tuple[Material, int, int, int]) -> Packed:
    """Let so many workers work at once, each as `acts` says."""
    found = Packed(workers=number)
    with ExitStack() as stack, ThreadPoolExecutor(number) as pool:
        workers = [stack.enter_context(WorkerProcess(1, acts, *work)) for _ in range(number)]

        def all_do(act: str) -> list[Clock]:
            return list(pool.map(lambda worker: worker.act(act)(), workers))

        all_do("warm up")
        with watched(found):
            clocks = all_do("trials")
    found.trials = sum(worker.results["trials"] for worker in workers)
    found.seconds = mean(taken.wall for taken in clocks)
    return found


def acts(made: Material, samples: int, epochs: int, seconds: int) -> Acts:
    """Return what a worker does: trials for so long, whose number it tells."""

    def warm_up() -> None:
        for _ in range(2):
            trial(made, samples, epochs)

    def trials() -> int:
        done, until = 0, time.perf_counter() + seconds
        while time.perf_counter() < until:
            trial(made, samples, epochs)
            done += 1
        return done

    return {"warm up": warm_up, "trials": trials}


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
    ask = ["nvidia-smi", "--id=0", "--query-gpu=utilization.gpu,memory.used", "--loop-ms=200"]
    ask.append("--format=csv,noheader,nounits")
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) as smi:

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
