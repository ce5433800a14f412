"""GPU-hours of the paper's grid, by arithmetic alone: ``python -m benchmarks.paper_hours``.

12 attacks × 4 datasets × 3 architectures × 25 settings, one seed. The work is counted (FLOP per
image by torch's counter, a multiply-add being two); the speeds are anchors and not measurements:
a share of the 790 TFLOP/s that large bf16 matrix products reach on one H100 for whatever trains,
TF32 or plain float32 for whatever tests. Launches, start-up and the attacks' helpers are left out.
"""

import argparse

from benchmarks._common import table

ATTACKS, SETTINGS, EPOCHS, RELEARN, MONITOR = 12, 25, 20, 20, 486
BF16 = 790e12  # FLOP/s
# Forward GFLOP per image at 32 and at 64 pixels; ViT enlarges every image to 224.
FORWARD = {"preact_resnet18": (1.11, 4.44), "vgg19_bn": (1.04, 3.43), "vit_b_16": (33.7, 33.7)}
# Training images, clean samples, clean and triggered test images, side.
DATASETS = {
    "cifar10": (50_000, 500, 19_000, 32),
    "cifar100": (50_000, 500, 19_900, 32),
    "gtsrb": (39_209, 392, 25_000, 32),
    "tiny_imagenet": (100_000, 1_000, 19_950, 64),
}


def main() -> None:
    """Print a row per architecture and the sum, for the given shares."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--share", type=float, default=0.25, help="of 790 TFLOP/s, in training")
    parser.add_argument("--tests", type=float, default=45e12, help="FLOP/s of tests")
    given = parser.parse_args()
    rows = {name: hours(name, given.share * BF16, given.tests) for name in FORWARD}
    total = [sum(column) for column in zip(*rows.values(), strict=True)]
    table(
        ["architecture", "victims, h", "relearning, h", "tests, h", "all, h"],
        [[name, *row, sum(row)] for name, row in {**rows, "all": total}.items()],
    )


def hours(architecture: str, training: float, tests: float) -> list[float]:
    """Return hours of victims, of relearning and of tests for all attacks and datasets."""
    victims = relearning = tested = 0.0
    for train, samples, test, side in DATASETS.values():
        forward = 1e9 * FORWARD[architecture][side == 64]
        victims += 3 * forward * train * EPOCHS / training
        relearning += SETTINGS * RELEARN * 3 * forward * samples / training
        tested += forward * (SETTINGS * (RELEARN * MONITOR + test) + test) / tests
    return [ATTACKS * seconds / 3600 for seconds in (victims, relearning, tested)]


if __name__ == "__main__":
    main()
