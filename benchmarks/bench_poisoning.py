"""Images per second of every attack, and of a test: ``python -m benchmarks.bench_poisoning``.

Ours stamps whole sets as tensors and tests in large batches. Beside it stands what data sets of
PIL pictures do: each image alone is opened, stamped by the same formula, and saved or fed. The
triggered images must be the same to the bit. What an attack learns first is learned briefly, and
its time is not counted.
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional  # type: ignore[import-untyped]

from benchmarks._common import Clock, in_turn, options, ratios, report, spread, summary, table
from benchmarks._material import PREPROCESSING, model_spec
from benchmarks._official import Pictures, save_png, share_right
from ulrl.attacks import ATTACKS, AttackContext, Trigger, stamp_bytes
from ulrl.datasets import ImageSet
from ulrl.gallery import BRIEF, NAMES, RECIPE
from ulrl.models import initialise
from ulrl.poison import Poison
from ulrl.randomness import generator
from ulrl.shapes import shapes
from ulrl.trigger_training import train_trigger

CPU = torch.device("cpu")
UNTRAINED = ("badnets", "sig", "bpp", "ctrl")  # of the smoke test


def main(argv: list[str] | None = None) -> None:
    """Print a row per attack, one for testing, and the line of JSON."""
    parser = options(__doc__, images=500, rounds=3, width=8)
    parser.add_argument("--attack", nargs="+", choices=NAMES, default=NAMES, help="default: all")
    given = parser.parse_args(argv)
    names = UNTRAINED if given.quick else given.attack
    if given.quick:
        given.images, given.rounds, given.width = 20, 1, 1
    torch.set_num_threads(1)
    images = shapes(200, given.images, 0)
    rows, factors = [], {}
    for name in names:
        trigger = armed(name, images)
        whole, alone = set_at_once(trigger, images), picture_by_picture(trigger, images)
        if not torch.equal(whole, alone):
            raise RuntimeError(f"{name}: an image alone gets another trigger than in a set")
        clocks = in_turn(
            {
                "ours": partial(set_at_once, trigger, images),
                "per picture": partial(picture_by_picture, trigger, images),
            },
            given.rounds,
        )
        rows.append(row(name, clocks, given.images))
        factors[name] = ratios(clocks["per picture"], clocks["ours"], "cpu")
    clocks = tested(images, given.width, given.rounds)
    rows.append(row(f"a test, width {given.width}", clocks, given.images))
    table(["attack", "ours, images/CPU s", "per picture, images/CPU s", "ratio"], rows)
    report(
        "poisoning",
        images=given.images,
        test_ratio=summary(ratios(clocks["per picture"], clocks["ours"], "cpu")),
        attacks={name: summary(values, 2) for name, values in factors.items()},
        median_of_attacks=round(median(median(values) for values in factors.values()), 2),
    )


def row(name: str, clocks: dict[str, list[Clock]], images: int) -> list[str]:
    """Return a line of the table."""
    speeds = [
        spread([images / taken.cpu for taken in clocks[side]]) for side in ("ours", "per picture")
    ]
    return [name, *speeds, spread(ratios(clocks["per picture"], clocks["ours"], "cpu"))]


def armed(name: str, images: ImageSet) -> Trigger:
    """Return an attack's trigger, trained for if need be."""
    attack = ATTACKS[name](**BRIEF.get(name, {}))
    poison = Poison(
        attack=attack,
        labels=attack.label_rules[0],
        source=attack.default_source,
        poison_ratio=0.05,
        stamp=attack.default_stamp,
    )
    context = AttackContext(
        model_spec=model_spec(2), recipe=RECIPE, images=images, seed=0, device=CPU, learned={}
    )
    return attack.trigger(0, train_trigger(poison, context, victim=True))


def set_at_once(trigger: Trigger, images: ImageSet) -> Tensor:
    """Stamp the test set as studies do."""
    return stamp_bytes(trigger, images.test_images, generator(0, "test triggers"))


def picture_by_picture(trigger: Trigger, images: ImageSet) -> Tensor:
    """Stamp it one picture at a time, each made of bytes and made bytes again."""
    stamped = []
    for image in images.test_images:
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        values = functional.pil_to_tensor(picture)[None]
        alone = stamp_bytes(trigger, values, generator(0, "test triggers"))[0]
        picture = Image.fromarray(alone.permute(1, 2, 0).numpy())
        stamped.append(functional.pil_to_tensor(picture))
    return torch.stack(stamped)


def tested(images: ImageSet, width: int, rounds: int) -> dict[str, list[Clock]]:
    """Time tests of a network, ours and from PNG files."""
    classifier = initialise(model_spec(width), generator(0, "benchmark"), CPU)
    network = initialise(model_spec(width), generator(0, "benchmark"), CPU).network
    network.to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory() as folder:
        files = save_png(images.test_images, Path(folder), "test")
        pictures = Pictures(files, images.test_labels, PREPROCESSING)
        return in_turn(
            {
                "ours": lambda: classifier.predict(images.test_images),
                "per picture": lambda: share_right(network, pictures, CPU, 0),
            },
            rounds,
        )


if __name__ == "__main__":
    main()
