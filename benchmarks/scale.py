"""A study on many GPUs in simulated time: ``python -m benchmarks.scale --gpus 1 8 64 512``.

The scheduler is the real one, with the real store, decisions and results; only the work is not
done: a stage takes the seconds below, which no clock waits for. It says how well a study fills
machines that nobody has at hand, and what the driver itself costs.

The seconds are synthetic, of one GPU: a victim of 100 epochs on 50,000 images of 32 pixels, and
what an ascent and a relearning of the defender's 500 take beside it.
"""

import argparse
import heapq
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from orchestrator.catalogue import Catalogue
from orchestrator.spec import load_study
from orchestrator.work import AscentItem, HelperItem, Item, TrialItem, VictimItem
from tests.orchestrator_tests.simulation import Desk, Workers

VICTIM = {"preact_resnet18": 240.0, "vgg19_bn": 180.0, "vit_b_16": 2400.0}  # seconds
PIXELS = {"cifar10": 1.0, "cifar100": 1.0, "gtsrb": 0.8, "tiny_imagenet": 6.0}
ASCENT, RELEARN = 0.02, 0.03  # of the victim's seconds
BETWEEN = 0.02  # seconds from one item to the next on a worker


class Simulation:
    """So many workers that take items from the scheduler, in simulated time."""

    def __init__(self, desk: Desk, gpus: int) -> None:
        self._desk = desk
        self._gpus = gpus
        self._makers = Workers()
        self._catalogue = Catalogue(desk.plan)
        self._own: dict[int, float] = defaultdict(float)
        self._shared: dict[int, float] = defaultdict(float)
        self._last: dict[int, float] = defaultdict(float)
        self.work = 0.0
        self.makespan = 0.0
        self.counts: dict[str, int] = defaultdict(int)

    @property
    def critical_path(self) -> float:
        """The longest chain of items that had to wait for each other."""
        chains = (self._own, self._shared, self._last)
        return max(sum(part[number] for part in chains) for number in self._own)

    def run(self) -> None:
        """Do the whole study."""
        conductor, now = self._desk.conductor, 0.0
        conductor.open()
        events: list[tuple[float, int, Item]] = []
        number = 0
        while not conductor.complete:
            while len(events) < self._gpus and (item := conductor.next_item()) is not None:
                seconds = self._seconds(item)
                self.work += seconds
                self.counts[type(item).__name__] += 1
                self._lengthen(item, seconds)
                number += 1
                heapq.heappush(events, (now + seconds + BETWEEN, number, item))
            now, _, item = heapq.heappop(events)
            steps = self._makers.steps(self._desk, item)
            while True:
                try:
                    next(steps)
                except StopIteration as end:
                    conductor.finished(item, end.value)
                    break
        self.makespan = now

    def _seconds(self, item: Item) -> float:
        scenario = item.scenario
        whole = VICTIM[scenario.architecture.name] * PIXELS[scenario.dataset.name]
        if isinstance(item, HelperItem):
            recipe = self._desk.plan.study.victim.config(scenario.dataset.name)
            return whole * item.helper.cost(recipe) / recipe.epochs
        if isinstance(item, VictimItem):
            return whole
        if isinstance(item, AscentItem):
            return whole * ASCENT
        key = self._desk.conductor.scores[item.trial.number].relearn_key
        return 0.0 if self._desk.store.peek("relearn", key) else whole * RELEARN

    def _lengthen(self, item: Item, seconds: float) -> None:
        """Note how long a scenario's items keep each other waiting.

        Relearnings wait for phase 1 but not for each other, so only the longest counts.
        """
        number = item.scenario.number
        if isinstance(item, TrialItem):
            self._last[number] = max(self._last[number], seconds)
        elif isinstance(item, HelperItem):
            for scenario in self._desk.plan.scenarios:
                if item in self._catalogue.helpers_of(scenario):
                    self._shared[scenario.number] += seconds
        else:
            self._own[number] += seconds


def main() -> None:
    """Print a line for each number of GPUs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=Path("studies/paper.yaml"))
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64, 512])
    given = parser.parse_args()
    print(
        "| GPUs | makespan, h | work, GPU-h | efficiency | bound, h | makespan / bound | driver |"
    )
    print("|" + "---|" * 7)
    for gpus in given.gpus:
        print(line(given.study, gpus), flush=True)


def line(path: Path, gpus: int) -> str:
    """Return a row of the table.

    The bound is what no scheduler can beat: the work spread evenly, or the longest chain.
    """
    overrides = [f"store=memory://scale-{gpus}", "prune=none", "mlflow.uri=sqlite:///nowhere.db"]
    study = load_study(str(path), overrides)
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(study, Path(folder))
        simulation = Simulation(desk, gpus)
        started = time.perf_counter()
        simulation.run()
        driver = time.perf_counter() - started
        trials = len(desk.plan.trials)
        if desk.statuses().count("done") < trials:
            raise RuntimeError("the simulated study is not complete")
    bound = max(simulation.critical_path, simulation.work / gpus)
    hours = [seconds / 3600 for seconds in (simulation.makespan, simulation.work, bound)]
    efficiency = simulation.work / gpus / simulation.makespan
    return (
        f"| {gpus} | {hours[0]:.2f} | {hours[1]:.1f} | {100 * efficiency:.1f} % | {hours[2]:.2f} "
        f"| {simulation.makespan / bound:.3f} | {1000 * driver / trials:.1f} ms a trial |"
    )


if __name__ == "__main__":
    main()
