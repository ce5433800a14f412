"""Where the time of training and of a test goes: ``python -m benchmarks.bench_profile``.

Torch's profiler over a step of 128 images and a test of 128, on one thread, by kind of work. On a
CPU the seconds are the operators' own, on a GPU the device's.
"""

from collections import defaultdict
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from benchmarks._common import options, report, table, the_device
from benchmarks._material import model_spec
from orchestrator.pipeline.tools import keep_memory
from ulrl.fitting import Samples, SGDConfig, Sources, train
from ulrl.models import Classifier, initialise
from ulrl.randomness import generator
from ulrl.shapes import shapes

BATCH = 128
KINDS = {
    "convolution": ("convolution", "mkldnn_convolution", "conv2d"),
    "BatchNorm": ("batch_norm",),
    "matrix product": ("addmm", "aten::mm", "aten::matmul", "aten::linear"),
    "activation": ("relu", "threshold", "clamp_min"),
    "optimiser": ("sgd", "_foreach", "Optimizer"),
    "augmentation and normalisation": ("index", "pad", "aten::div", "aten::sub", "to_copy"),
    "copies": ("copy_", "clone", "contiguous"),
}


def main(argv: list[str] | None = None) -> None:
    """Print a row per kind of work and the line of JSON."""
    given = options(__doc__, width=64, steps=1).parse_args(argv)
    if given.quick:
        given.width = 1
    torch.set_num_threads(1)
    keep_memory()
    classifier = initialise(model_spec(given.width), generator(0, "benchmark"), the_device())
    images = shapes(BATCH, BATCH, 0)
    samples = Samples(images=images.train_images, labels=images.train_labels)
    trained = shares(lambda: _train(classifier, samples), given.steps)
    tested = shares(lambda: classifier.predict(images.test_images), given.steps)
    kinds = sorted(trained.keys() | tested.keys(), key=lambda kind: -trained.get(kind, 0))
    table(
        ["kind of work", "training, %", "test, %"],
        [
            [kind, *(f"{100 * part.get(kind, 0):.1f}" for part in (trained, tested))]
            for kind in kinds
        ],
    )
    report("profile", width=given.width, training=_round(trained), test=_round(tested))


def shares(work: Callable[[], object], steps: int) -> dict[str, float]:
    """Return the share of each kind in the time of some work, after a first time unseen."""
    work()
    kinds = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as seen:
        for _ in range(steps):
            work()
    spent: dict[str, float] = defaultdict(float)
    for event in seen.key_averages():
        own = event.self_device_time_total if torch.cuda.is_available() else None
        spent[kind_of(event.key)] += event.self_cpu_time_total if own is None else own
    total = sum(spent.values())
    return {kind: seconds / total for kind, seconds in spent.items()}


def kind_of(operator: str) -> str:
    """Return the kind of work that an operator is."""
    for kind, parts in KINDS.items():
        if any(part in operator for part in parts):
            return kind
    return "other"


def _train(classifier: Classifier, samples: Samples) -> None:
    config = SGDConfig(epochs=1, batch_size=BATCH, rate=lambda _: 0.005)
    for _ in train(classifier, samples, cross_entropy, config, Sources.of(0, "relearn")):
        pass


def _round(part: dict[str, float]) -> dict[str, float]:
    return {kind: round(value, 4) for kind, value in part.items()}


if __name__ == "__main__":
    main()
