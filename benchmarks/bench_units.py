"""The pieces of a ULRL trial at full size, and whole trials worked out from them.

``-m benchmarks.bench_units``: a training step and a test, as the official loop's structure does
them and as ours does, for the published PreAct-ResNet18. A whole trial on CIFAR-10 (4 + 20
epochs on 500 samples, 19,000 test images) takes hours on two cores; here it is arithmetic on
what was measured, and said to be. Ours runs as in a worker of a study, which keeps memory.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch.nn.functional import cross_entropy

from benchmarks._common import (
    Clock,
    in_turn,
    options,
    ratios,
    report,
    slug,
    spread,
    summary,
    table,
    the_device,
)
from benchmarks._material import material, whole
from benchmarks._official import OfficialLoop
from benchmarks._worker import Acts, WorkerProcess
from ulrl.clean import draw_clean_samples
from ulrl.fitting import Samples, Schedule, Sources, train
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.metrics import measure
from ulrl.models import Weights, restore
from ulrl.poisoning import TestHalf
from ulrl.sgd import SGD

COUNT = 128  # training images: one step
TESTS = 120  # clean test images
GEMM = 2048  # side of the matrices behind the machine's own rate
OURS = {"ours, official": 2, "ours, default": 1}  # passes of a step that update BatchNorm
FLOP = 3.33e9  # of training on one image at width 64, a multiply-add being two


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    given = options(__doc__, width=64, rounds=3, threads=1, workers=4).parse_args(argv)
    if given.quick:
        given.width, given.rounds, given.workers = 2, 1, 0
    torch.set_num_threads(given.threads)
    clocks, images = timed(given.width, given.rounds, given.workers, given.threads)
    told = pieces(clocks, images)
    wholes = {
        name: [work_out(t, e) for t, e in zip(trained, tested, strict=True)]
        for name, (trained, tested, work_out) in told.items()
    }
    slow = [Clock(cpu=value) for value in wholes["official structure"]]
    factors = {
        name: ratios(slow, [Clock(cpu=value) for value in values], "cpu")
        for name, values in wholes.items()
    }
    table(
        ["contender", "training, CPU ms/image", "test, CPU ms/image", "4 + 20 epochs", "ratio"],
        [
            [
                name,
                spread([1000 * value for value in trained]),
                spread([1000 * value for value in tested]),
                f"{median(wholes[name]):.0f} CPU s, worked out",
                spread(factors[name]),
            ]
            for name, (trained, tested, _) in told.items()
        ],
    )
    share = shares(clocks, given.width)
    print(f"training reaches {spread(share)} of the rate of matrix products, best of two kinds")
    report(
        "units",
        width=given.width,
        worked_out=True,
        share_of_products=summary(share),
        **{f"ratio_{slug(name)}": summary(f) for name, f in factors.items()},
    )


def timed(
    width: int, rounds: int, workers: int, threads: int
) -> tuple[Mapping[str, list[Clock]], int]:
    """Return the clocks of every piece, and the number of test images."""
    made = material(width, 2 * COUNT, TESTS, 1, TESTS // 2)
    h = assemble(preset_values(Preset.OFFICIAL, "cifar10") | {"clean_ratio": 0.5})
    clean = draw_clean_samples(h.clean, made.images, 0)
    tests = whole(made.tests)
    with (
        tempfile.TemporaryDirectory() as folder,
        WorkerProcess(threads, ours, made.victim, clean.samples, tests) as ourselves,
    ):
        loop = OfficialLoop(
            h, made.victim, clean, tests, Path(folder), workers=workers, device=the_device()
        )
        loop.unlearn(1)
        network = restore(made.victim, the_device()).network
        contenders: dict[str, Callable[[], object]] = {
            "epoch": lambda: loop.relearn(1),
            "tests": lambda: loop.tested(network),
            **{name: ourselves.act(name) for name in (*OURS, "our tests")},
            "products": _products,
            "products, 1×1": _products_by_convolution,
        }
        clocks = in_turn(contenders, rounds)
    return clocks, len(tests.clean) + len(tests.triggered)


def ours(victim: Weights, samples: Samples, tests: TestHalf) -> Acts:
    """Return our pieces, as they are done where this is called."""
    classifier = restore(victim, the_device())
    optimiser = SGD(classifier.network, lr=0.005, momentum=0.9, weight_decay=0)

    def epoch(updates: int) -> None:
        schedule = Schedule(
            epochs=1, batch_size=COUNT, rate=lambda _: 0.005, batchnorm_updates=updates
        )
        sources = Sources.of(0, "relearn")
        for _ in train(classifier, samples, optimiser, cross_entropy, schedule, sources):
            pass

    def test() -> None:
        measure(classifier.predict, tests)

    return {**{name: partial(epoch, updates) for name, updates in OURS.items()}, "our tests": test}


def pieces(
    clocks: Mapping[str, list[Clock]], images: int
) -> dict[str, tuple[list[float], list[float], Callable[[float, float], float]]]:
    """Return CPU seconds per image of training and of a test, and what makes a whole of them."""
    cpu = {name: [taken.cpu for taken in some] for name, some in clocks.items()}
    theirs = [both - tests for both, tests in zip(cpu["epoch"], cpu["tests"], strict=True)]
    official = [seconds / images for seconds in cpu["tests"]]
    ours = [seconds / images for seconds in cpu["our tests"]]
    return {
        "official structure": ([s / COUNT for s in theirs], official, _official_whole),
        "ours, official preset": ([s / COUNT for s in cpu["ours, official"]], ours, _our_whole),
        "ours, default preset": ([s / COUNT for s in cpu["ours, default"]], ours, _our_whole),
    }


def shares(clocks: Mapping[str, list[Clock]], width: int) -> list[float]:
    """Return the share of the machine's rate that training reaches, in each round."""
    work = FLOP * (width / 64) ** 2 * COUNT
    kinds = (clocks["products"], clocks["products, 1×1"], clocks["ours, default"])
    return [
        (work / trained.cpu) / (_PRODUCT / min(one.cpu, other.cpu))
        for one, other, trained in zip(*kinds, strict=True)
    ]


_PRODUCT = 2.0 * GEMM**3  # FLOP of one


def _products() -> None:
    """One matrix product by torch's BLAS."""
    a = torch.ones(GEMM, GEMM, device=the_device())
    a @ a


def _products_by_convolution() -> None:
    """The same product by the library that computes convolutions."""
    a = torch.ones(1, GEMM, 32, GEMM // 32, device=the_device())
    a = a.contiguous(memory_format=torch.channels_last)
    torch.nn.functional.conv2d(a, torch.ones(GEMM, GEMM, 1, 1, device=a.device))


def _official_whole(training: float, test: float) -> float:
    """CPU seconds of 24 epochs on 500 samples with a test of 19,000 images after each."""
    return 24 * (500 * training + 19_000 * test)


def _our_whole(training: float, test: float) -> float:
    """The same with 256 + 230 images after each and the whole once."""
    return 24 * (500 * training + 486 * test) + 19_000 * test


if __name__ == "__main__":
    main()
