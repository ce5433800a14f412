"""Training steps, launched one by one and replayed, and tests: ``-m benchmarks.bench_steps``.

Each network trains twice on the same draws: as a training in which an attack may have a hand, whose
kernels are launched one by one, and as one that a GPU records once and replays (`ulrl/replay.py`).
Both must end with the same bits. Beside them stand the machine's own matrix products. On a CPU
nothing is replayed, and the two are one.
"""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks._common import clock, options, report, spread, summary, table, the_device
from benchmarks._material import PREPROCESSING
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.models import ARCHITECTURES, ModelSpec, initialise
from ulrl.precision import Precision
from ulrl.randomness import generator
from ulrl.training_hooks import NO_HOOKS, TrainingHooks

SIDE = 32
FLOP = {"preact_resnet18": 3.33e9, "vgg19_bn": 3.10e9, "vit_b_16": 101e9}  # of training, full width
NARROW: dict[str, dict[str, Any]] = {
    "preact_resnet18": {"width": 8},
    "vgg19_bn": {"width": 8},
    "vit_b_16": {"size": 32, "patch": 8, "width": 64, "depth": 2, "heads": 2},
}
CASES = (
    ("preact_resnet18", 128, Precision.BF16),
    ("preact_resnet18", 128, Precision.FP16),
    ("preact_resnet18", 128, Precision.FP32),
    ("preact_resnet18", 512, Precision.BF16),
    ("preact_resnet18", 1024, Precision.BF16),
    ("vgg19_bn", 128, Precision.BF16),
    ("vit_b_16", 128, Precision.BF16),
    ("vit_b_16", 512, Precision.BF16),
)
PRODUCT = 8192  # side of the matrices behind a GPU's own rate


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained.

    Attributes:
        steps: Of an epoch; there are four, of which the last three count.
    """

    name: str
    batch: int
    precision: Precision
    steps: int
    narrow: bool

    @property
    def model_spec(self) -> ModelSpec:
        architecture = ARCHITECTURES[self.name](**(NARROW[self.name] if self.narrow else {}))
        return ModelSpec(
            architecture=architecture,
            classes=10,
            channels=3,
            side=SIDE,
            preprocessing=PREPROCESSING,
        )


def main(argv: list[str] | None = None) -> None:
    """Print a row per case and the line of JSON."""
    gpu = the_device().type == "cuda"
    given = options(__doc__, steps=40 if gpu else 2, tests=10_000 if gpu else 500).parse_args(argv)
    if given.quick:
        given.steps, given.tests = 1, 20
    torch.set_num_threads(1)
    rates = products(PRODUCT if gpu else 1024)
    rows, told = [], []
    for name, batch, precision in CASES if gpu else CASES[:1] + CASES[5:7]:
        usual = 128 * given.steps // batch // (5 if name == "vit_b_16" else 1)
        case = Case(
            name=name,
            batch=batch if gpu else 32,
            precision=precision if gpu else Precision.FP32,
            steps=max(3 if gpu else 1, usual),
            narrow=not gpu,
        )
        plain, bits = trained(case, TrainingHooks())
        replayed, others = trained(case, NO_HOOKS)
        if bits != others:
            raise RuntimeError(f"{case} does not end with the same bits when it is replayed")
        test = tested(case, given.tests if name != "vit_b_16" else given.tests // 5)
        share = None
        if gpu:
            rate = rates["bf16" if precision is not Precision.FP32 else "tf32"]
            share = FLOP[name] * batch / (median(replayed) / 1000) / rate
        rows.append(
            [
                name,
                case.batch,
                case.precision.value,
                spread(plain),
                spread(replayed),
                median(plain) / median(replayed),
                "–" if share is None else f"{100 * share:.0f} %",
                1e6 * test,
            ]
        )
        told.append(
            {
                "network": name,
                "batch": case.batch,
                "precision": case.precision.value,
                "plain_ms": summary(plain),
                "replayed_ms": summary(replayed),
                "share_of_products": share,
                "test_us": round(1e6 * test, 2),
            }
        )
    heads = ("network", "batch", "precision", "one by one, ms a step", "replayed, ms a step")
    table([*heads, "times", "of matrix products", "test, µs an image"], rows)
    print(", ".join(f"{kind} {rate / 1e12:.3g} TFLOP/s" for kind, rate in rates.items()))
    report("steps", tflops={kind: rate / 1e12 for kind, rate in rates.items()}, cases=told)


def trained(case: Case, hooks: TrainingHooks) -> tuple[list[float], str]:
    """Return the milliseconds of a step in each epoch that counts, and a digest of the end."""
    device, draw = the_device(), generator(0, "steps")
    classifier = initialise(case.model_spec, generator(0, "weights"), device)
    count = case.batch * case.steps
    samples = Samples(
        images=pictures(count, draw), labels=torch.randint(10, (count,), generator=draw)
    )
    config = SGDConfig(
        epochs=4,
        batch_size=case.batch,
        rate=lambda _: 0.01,
        weight_decay=5e-4,
        precision=case.precision,
    )
    sources = Sources.of(0, "steps")
    epochs = train(classifier, samples, cross_entropy, config, sources, hooks)
    marks = [time.perf_counter() for _ in epochs]  # an epoch's loss waits for the device
    state = classifier.weights().state
    digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in state.values()))
    milliseconds = [1000 * (end - start) / case.steps for start, end in pairwise(marks)]
    return milliseconds, digest.hexdigest()


def tested(case: Case, count: int) -> float:
    """Return the seconds of a prediction, for each image."""
    classifier = initialise(case.model_spec, generator(0, "weights"), the_device())
    images = pictures(max(1, count), generator(0, "tests"))
    return timed(lambda: classifier.predict(images), 3) / len(images)


def pictures(count: int, source: torch.Generator) -> Tensor:
    """Return images of noise."""
    return torch.randint(256, (count, 3, SIDE, SIDE), generator=source, dtype=torch.uint8)


def products(side: int) -> dict[str, float]:
    """Return the machine's rates of matrix products, in FLOP/s, by format."""
    device = the_device()
    formats = {"fp32": torch.float32}
    if device.type == "cuda":
        formats |= {"tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    found = {}
    for name, dtype in formats.items():
        one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        torch.backends.cuda.matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
        found[name] = 2.0 * side**3 / timed(lambda: one @ other, 10)  # noqa: B023 - used at once
    torch.backends.cuda.matmul.fp32_precision = "none"
    return found


def timed(act: Callable[[], object], count: int) -> float:
    """Return the seconds of an act, after one that warms up."""
    act()
    with clock() as taken:
        for _ in range(count):
            act()
    return taken.wall / count


if __name__ == "__main__":
    main()
