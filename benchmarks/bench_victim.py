"""One victim, ours against the structure of BackdoorBench's loop: ``-m benchmarks.bench_victim``.

BackdoorBench's side: PIL pictures through loader workers, stamped before augmentation, float32,
SGD at 0.01 with a cosine, all test pictures after every epoch: its recipe of 100 epochs, scaled
down. Ours: the fast recipe of 20, scaled down alike, everything in memory, one test at the end.
Both start from the same weights and train on the same poisoned set. Time is to the end of each
recipe, and what both reach stands beside it. On so few images the scaled recipe may be too short,
so a third row is time to equal: ours of 1, 2, 3 or 5 times the epochs, the first whose victim has
at least the ACC and the ASR of the other side's.
"""

import tempfile
from dataclasses import dataclass, field
from math import cos, pi
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from benchmarks._common import (
    Clock,
    clock,
    options,
    ratios,
    report,
    spread,
    summary,
    table,
    the_device,
)
from benchmarks._material import POISON, model_spec, whole
from benchmarks._official import BATCH, Pictures, in_batches, save_png, share_right
from ulrl.augmentation import draw_views
from ulrl.metrics import Metrics, measure
from ulrl.models import initialise
from ulrl.poisoning import TestHalf, make_test_sets, poison_training_set
from ulrl.randomness import generator
from ulrl.shapes import shapes
from ulrl.supervised import VictimConfig
from ulrl.victim import train_victim

CPU = torch.device("cpu")
THEIRS, OURS, EQUAL = "BackdoorBench's structure", "ours", "ours, until as good"
LONGER = (1, 2, 3, 5)  # times the epochs, until ACC and ASR are no less


@dataclass
class Side:
    """What one contender reached in each round, and when."""

    clocks: list[Clock] = field(default_factory=list)
    reached: list[Metrics] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def add(self, epochs: int, found: tuple[Clock, Metrics]) -> None:
        self.epochs.append(epochs)
        self.clocks.append(found[0])
        self.reached.append(found[1])


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    parser = options(__doc__, width=8, training=1000, epochs=4, rounds=3, workers=4)
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.training, given.epochs, given.rounds, given.workers = 1, 60, 1, 1, 0
    torch.set_num_threads(1)
    sides = {THEIRS: Side(), OURS: Side(), EQUAL: Side()}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(given.rounds):
            arena = Arena(given.width, given.training, seed, Path(folder), given.workers)
            sides[THEIRS].add(5 * given.epochs, arena.per_picture(5 * given.epochs))
            wanted = sides[THEIRS].reached[-1]
            for times in LONGER:
                epochs = times * given.epochs
                found = arena.ours(epochs)
                if times == 1:
                    sides[OURS].add(epochs, found)
                if found[1].acc >= wanted.acc and found[1].asr >= wanted.asr:
                    break
            sides[EQUAL].add(epochs, found)
    slow = sides[THEIRS].clocks
    table(
        ["contender", "epochs", "ACC %", "ASR %", "CPU s", "wall s", "CPU ratio"],
        [
            [
                name,
                spread(side.epochs),
                spread([100 * metrics.acc for metrics in side.reached]),
                spread([100 * metrics.asr for metrics in side.reached]),
                spread([taken.cpu for taken in side.clocks]),
                spread([taken.wall for taken in side.clocks]),
                spread(ratios(slow, side.clocks, "cpu")),
            ]
            for name, side in sides.items()
        ],
    )
    pairs = list(zip(sides[OURS].reached, sides[THEIRS].reached, strict=True))
    later = list(zip(sides[EQUAL].reached, sides[THEIRS].reached, strict=True))
    report(
        "victim",
        width=given.width,
        training=given.training,
        epochs=[5 * given.epochs, given.epochs],
        workers=given.workers,
        acc_gain=summary([ours.acc - theirs.acc for ours, theirs in pairs]),
        asr_gain=summary([ours.asr - theirs.asr for ours, theirs in pairs]),
        cpu_ratio=summary(ratios(slow, sides[OURS].clocks, "cpu")),
        wall_ratio=summary(ratios(slow, sides[OURS].clocks, "wall")),
        cpu_ratio_per_epoch=summary([r / 5 for r in ratios(slow, sides[OURS].clocks, "cpu")]),
        equal_epochs=sides[EQUAL].epochs,
        equal_acc_gain=summary([ours.acc - theirs.acc for ours, theirs in later]),
        equal_asr_gain=summary([ours.asr - theirs.asr for ours, theirs in later]),
        equal_cpu_ratio=summary(ratios(slow, sides[EQUAL].clocks, "cpu")),
        equal_wall_ratio=summary(ratios(slow, sides[EQUAL].clocks, "wall")),
    )


class Arena:
    """One poisoned set, from which both train a victim."""

    def __init__(self, width: int, training: int, seed: int, folder: Path, workers: int) -> None:
        self._seed, self._folder, self._workers = seed, folder, workers
        self._model_spec = model_spec(width)
        self._images = shapes(training, training // 5, seed)
        self._poisoned = poison_training_set(POISON, self._images, seed)
        self._tests: TestHalf = whole(make_test_sets(POISON, self._images, seed))

    def ours(self, epochs: int) -> tuple[Clock, Metrics]:
        """Train as a study does, and test once."""
        recipe = VictimConfig(epochs=epochs, batch_size=min(128, len(self._poisoned.labels)))
        with clock() as taken:
            run = train_victim(
                recipe, self._model_spec, POISON, self._images, self._seed, the_device()
            )
            for _ in run.epochs:
                pass
            reached = measure(run.classifier.predict, self._tests)
        return taken, reached

    def per_picture(self, epochs: int) -> tuple[Clock, Metrics]:
        """Train picture by picture, and test all of them after every epoch."""
        device, preprocessing = the_device(), self._model_spec.preprocessing
        with clock() as taken:
            classifier = initialise(
                self._model_spec, generator(self._seed, "victim", "weights"), device
            )
            network = classifier.network.to(memory_format=torch.contiguous_format)
            tests, workers = self._tests, self._workers
            training, sound, triggered = (
                Pictures(save_png(images, self._folder, name), labels, preprocessing)
                for name, images, labels in (
                    ("train", self._poisoned.images, self._poisoned.labels),
                    ("test", tests.clean, tests.clean_labels),
                    ("triggered", tests.triggered, tests.target_labels),
                )
            )
            optimiser = torch.optim.SGD(
                network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
            )
            source = generator(self._seed, "per picture")
            for epoch in range(epochs):
                for group in optimiser.param_groups:
                    group["lr"] = 0.01 * (1 + cos(pi * epoch / epochs)) / 2
                network.train()
                training.views = draw_views(len(training), preprocessing, source, CPU)
                order = torch.randperm(len(training), generator=source).tolist()
                for inputs, labels in in_batches(training, BATCH, workers, order):
                    loss = cross_entropy(network(inputs.to(device)), labels.to(device))
                    optimiser.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                acc, asr = (
                    share_right(network, part, device, workers) for part in (sound, triggered)
                )
        return taken, Metrics(acc=acc, asr=asr, ra=0.0)


if __name__ == "__main__":
    main()
