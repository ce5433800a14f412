"""The pieces of a ULRL trial at full size, and whole trials worked out from them.

``-m benchmarks.bench_units``: a training step and a test, as the official loop's structure does
them and as ours does, for the published PreAct-ResNet18. A whole trial on CIFAR-10 (4 + 20
epochs on 500 samples, 19,000 test images) takes hours on two cores; here it is arithmetic on
what was measured, and said to be. Ours runs as in a worker of a study, which keeps memory.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from benchmarks._material import few, material, whole
from benchmarks._official import OfficialLoop
from benchmarks._worker import Acts, WorkerProcess
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.metrics import measure
from ulrl.models import Weights, restore
from ulrl.poisoning import TestHalf

COUNT = 128  # images of a batch
GEMM = 2048  # side of the matrices behind the machine's own rate
OURS = {"ours, official": 2, "ours, default": 1}  # passes of a step that update BatchNorm
FLOP = 3.33e9  # of training on one image at width 64, a multiply-add being two


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    parser = options(__doc__, width=64, rounds=3, threads=1, workers=4)
    given = parser.parse_args(argv)
    if the_device().type == "cuda":
        parser.exit(0, "a GPU needs no working out: bench_trial runs whole trials\n")
    if given.quick:
        given.width, given.rounds, given.workers = 2, 1, 0
    torch.set_num_threads(given.threads)
    clocks, counts = timed(given.width, given.rounds, given.workers, given.threads)
    told = pieces(clocks, counts)
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
        [
            *("contender", "training, CPU ms/image", "test, CPU ms/image", "besides, CPU s/epoch"),
            *("4 + 20 epochs", "ratio"),
        ],
        [
            [
                name,
                spread([1000 * piece.each for piece in trained]),
                spread([1000 * piece.each for piece in tested]),
                spread([t.fixed + e.fixed for t, e in zip(trained, tested, strict=True)]),
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
        milliseconds_an_image={
            slug(name): [1000 * median(piece.each for piece in some) for some in parts[:2]]
            for name, parts in told.items()
        },
        **{f"ratio_{slug(name)}": summary(f) for name, f in factors.items()},
    )


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a pass over some images takes, in CPU seconds.

    Attributes:
        each: For each image.
        fixed: Whatever their number: starting loader workers, drawing plots.
    """

    each: float
    fixed: float = 0.0

    def of(self, count: int) -> float:
        """Return the seconds of a pass."""
        return self.fixed + count * self.each


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Test images, and those of passes with half as many batches, which are also ours."""

    tests: int
    half: int


def timed(
    width: int, rounds: int, workers: int, threads: int
) -> tuple[Mapping[str, list[Clock]], Counts]:
    """Return the clocks of every piece, and how many images were in them."""
    made = material(width, 4 * COUNT, 2 * COUNT, 1, COUNT)
    h = assemble(preset_values(Preset.OFFICIAL, "cifar10") | {"clean_ratio": 0.5})
    drawn = draw_clean_samples(h.clean, made.images, 0)
    two, one = (first(drawn, steps * COUNT) for steps in (2, 1))
    tests = whole(made.tests)
    half = few(tests, COUNT)
    with (
        tempfile.TemporaryDirectory() as folder,
        WorkerProcess(threads, ours, made.victim, one.samples, half) as ourselves,
    ):
        loop, small = (
            OfficialLoop(h, made.victim, c, t, Path(folder), workers=workers, device=the_device())
            for c, t in ((two, tests), (one, half))
        )
        loop.unlearn(1)
        small.unlearn(1)
        network = restore(made.victim, the_device()).network
        contenders: dict[str, Callable[[], object]] = {
            "epoch": lambda: loop.relearn(1),
            "tests": lambda: loop.tested(network),
            "epoch of half": lambda: small.relearn(1),
            "tests of half": lambda: small.tested(network),
            **{name: ourselves.act(name) for name in (*OURS, "our tests")},
            "products": _products,
            "products, 1×1": _products_by_convolution,
        }
        clocks = in_turn(contenders, rounds)
    counts = Counts(tests=images_in(tests), half=images_in(half))
    return clocks, counts


def first(clean: CleanSamples, count: int) -> CleanSamples:
    """Return the first of the defender's samples."""
    some = Samples(images=clean.samples.images[:count], labels=clean.samples.labels[:count])
    return replace(clean, samples=some)


def images_in(tests: TestHalf) -> int:
    """Return how many images are tested."""
    return len(tests.clean) + len(tests.triggered)


def ours(victim: Weights, samples: Samples, tests: TestHalf) -> Acts:
    """Return our pieces, as they are done where this is called."""
    classifier = restore(victim, the_device())

    def epoch(updates: int) -> None:
        config = SGDConfig(
            epochs=1, batch_size=COUNT, rate=lambda _: 0.005, batchnorm_updates=updates
        )
        sources = Sources.of(0, "relearn")
        for _ in train(classifier, samples, cross_entropy, config, sources):
            pass

    def test() -> None:
        measure(classifier.predict, tests)

    return {**{name: partial(epoch, updates) for name, updates in OURS.items()}, "our tests": test}


def pieces(
    clocks: Mapping[str, list[Clock]], counts: Counts
) -> dict[str, tuple[list[Piece], list[Piece], Callable[[Piece, Piece], float]]]:
    """Return training and test of each contender, in each round, and what makes a whole of them.

    The official side's passes are timed with two whole batches and with one, since a good part
    of so short a pass does not grow with its images.
    """
    cpu = {name: [taken.cpu for taken in some] for name, some in clocks.items()}

    def training(kind: str) -> list[float]:
        pairs = zip(cpu[f"epoch{kind}"], cpu[f"tests{kind}"], strict=True)
        return [both - tests for both, tests in pairs]

    theirs = _lines(training(""), 2 * COUNT, training(" of half"), COUNT)
    official = _lines(cpu["tests"], counts.tests, cpu["tests of half"], counts.half)
    our_tests = [Piece(each=seconds / counts.half) for seconds in cpu["our tests"]]
    return {
        "official structure": (theirs, official, _official_whole),
        "ours, official preset": (_each(cpu["ours, official"]), our_tests, _our_whole),
        "ours, default preset": (_each(cpu["ours, default"]), our_tests, _our_whole),
    }


def _lines(many: list[float], count: int, few: list[float], fewer: int) -> list[Piece]:
    """Return what two passes of different length say of each image and of what is besides."""
    each = [(long - short) / (count - fewer) for long, short in zip(many, few, strict=True)]
    return [
        Piece(each=one, fixed=short - fewer * one) for one, short in zip(each, few, strict=True)
    ]


def _each(seconds: list[float]) -> list[Piece]:
    return [Piece(each=one / COUNT) for one in seconds]


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


def _official_whole(training: Piece, test: Piece) -> float:
    """CPU seconds of 24 epochs on 500 samples with a test of 19,000 images after each."""
    return 24 * (training.of(500) + test.of(19_000))


def _our_whole(training: Piece, test: Piece) -> float:
    """The same with 256 + 230 images after each and the whole once."""
    return 24 * (training.of(500) + test.of(486)) + test.of(19_000)


if __name__ == "__main__":
    main()
