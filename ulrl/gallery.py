"""What every trigger looks like: ``python -m ulrl.gallery OUT.png``."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ulrl.attacks import ATTACKS
from ulrl.datasets import DATASETS, DatasetError, ImageSet, Preprocessing
from ulrl.gallery_figure import TriggerExample, draw_gallery, png_bytes
from ulrl.helper import AttackContext
from ulrl.models import ModelSpec
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poison import Attack, Poison
from ulrl.poisoning import example_pairs, make_test_sets
from ulrl.shapes import shapes
from ulrl.supervised import VictimConfig
from ulrl.trigger_training import train_trigger

IMAGES = 3  # of each attack
TRAINING, TEST = 1000, 100  # as many images as what is trained here sees, and as are stamped
WIDTH = 4  # of the network that attacks look into
RECIPE = VictimConfig(epochs=4, batch_size=64)
# What attacks train for themselves takes seconds with these, and shows what it looks like.
BRIEF: dict[str, dict[str, Any]] = {
    "input_aware": {"mask_epochs": 3, "width": 8},
    "lc": {"model_steps": 1, "steps": 20},
    "lf": {"images": 20, "passes": 5},
    "lira": {"epochs": 4, "lr": 1e-3, "width": 8},
    "poison_ink": {
        "epochs": 1,
        "batch_size": 16,
        "lr": 2e-3,
        "width": 4,
        "image_weight": 3.0,
        "clean_weight": 10.0,
    },
    "ssba": {"epochs": 20, "width": 8, "bits": 16, "lr": 2e-3},
    "trojannn": {"steps": 200},
}
# `imported` has no trigger of its own to draw, and `none` has none at all.
NAMES = tuple(sorted(set(ATTACKS) - {"imported", "none"}))


class RefusalError(Exception):
    """Something about the command line is wrong; the message says what and the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a gallery; return the exit code."""
    called = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(
        prog="ulrl-gallery" if called == "ulrl-gallery" else "python -m ulrl.gallery",
        description=(
            "Draw each attack on a few test images: clean, triggered, residual × 5, spectrum. "
            "What an attack trains for itself is trained here, briefly, on a narrow network."
        ),
    )
    with suppress(PackageNotFoundError):
        made = f"ulrl-orchestrator {version('ulrl-orchestrator')}"
        parser.add_argument("--version", action="version", version=made)
    parser.add_argument("out", metavar="OUT.png", type=_path, help="where the picture goes")
    parser.add_argument(
        "--attack", metavar="NAME", action="append", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME|FILE.npz",
        help="a dataset, or arrays as for `arrays`; default: shapes drawn by the program",
    )
    parser.add_argument("--root", metavar="DIR", type=_path, help="where the dataset lies")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="default: 0")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)  # networks this narrow take ten times as long with more
    try:
        picture = png_bytes(_gallery(given))
        _write(given.out, picture)
    except (RefusalError, DatasetError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - nothing else reaches a person
        return 3 if isinstance(error, OSError) else 2
    return 0


def example(
    attack: Attack, images: ImageSet, preprocessing: Preprocessing, seed: int
) -> TriggerExample:
    """Return a few test images with an attack's trigger, which is learned here if need be.

    Raises:
        ValueError: The attack cannot have such images.
    """
    poison = Poison(
        attack=attack,
        labels=attack.label_rules[0],
        source=attack.default_source,
        poison_ratio=0.05,
        stamp=attack.default_stamp,
    )
    channels, side = images.train_images.shape[1:3]
    attack.check(side=side, channels=channels)
    model_spec = ModelSpec(
        architecture=PreActResNet18(width=WIDTH),
        classes=images.classes,
        channels=channels,
        side=side,
        preprocessing=preprocessing,
    )
    context = AttackContext(
        model_spec=model_spec,
        recipe=RECIPE,
        images=images,
        seed=seed,
        device=torch.device("cpu"),
        learned={},
    )
    sets = make_test_sets(poison, images, seed, train_trigger(poison, context, victim=True))
    shown = example_pairs(poison, sets.selection, IMAGES)
    return TriggerExample(name=attack.name, **shown)


def _gallery(given: argparse.Namespace) -> Any:
    names = given.attack or NAMES
    mistakes = [_unknown("attack", name, NAMES) for name in names if name not in NAMES]
    if given.out.suffix.lower() != ".png":
        mistakes.append(f"OUT.png: a picture in the PNG format, so a name in .png; got {given.out}")
    elif not given.out.parent.is_dir():
        mistakes.append(f"OUT.png: its folder is not there; make {given.out.parent} first")
    if mistakes:
        raise RefusalError("\n".join(mistakes))
    images, preprocessing, what = _images(given)
    drawn, left_out = [], []
    for name in names:
        try:
            drawn.append(
                example(ATTACKS[name](**BRIEF.get(name, {})), images, preprocessing, given.seed)
            )
        except ValueError as error:
            if given.attack:
                raise RefusalError(f"--attack {name}: {error}") from None
            left_out.append(name)
    if not drawn:
        raise RefusalError(f"--dataset {given.dataset}: no attack can have such images")
    note = f"Test images of {what}. What attacks train for themselves was trained briefly."
    if left_out:
        note += f" Not on such images: {', '.join(left_out)}."
    return draw_gallery(drawn, note)


def _images(given: argparse.Namespace) -> tuple[ImageSet, Preprocessing, str]:
    name = given.dataset
    if name is None:
        if given.root is not None:
            raise RefusalError("--root: goes with --dataset, and there is none")
        preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3, padding=4, flip=True)
        return shapes(TRAINING, TEST, given.seed), preprocessing, "shapes drawn by the program"
    options: dict[str, Any] = {} if given.root is None else {"root": str(given.root)}
    if name.endswith(".npz"):
        options, name = {**options, "arrays": str(_path(name).absolute())}, "arrays"
    elif name == "arrays":
        raise RefusalError("--dataset arrays: its file is what to name; write --dataset FILE.npz")
    if name not in DATASETS:
        raise RefusalError(_unknown("dataset", name, sorted(DATASETS)))
    try:
        dataset = DATASETS[name](**options)
    except TypeError:
        raise RefusalError(f"--root: {name} has no folder; leave it out") from None
    for _ in dataset.fetch():
        pass
    whole = dataset.load()
    few = replace(
        whole,
        train_images=whole.train_images[:TRAINING],
        train_labels=whole.train_labels[:TRAINING],
        test_images=whole.test_images[:TEST],
        test_labels=whole.test_labels[:TEST],
    )
    return few, dataset.preprocessing, dataset.label


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"--{kind}: no {kind} is called {name!r}; {hint}"


def _write(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        text = f"OUT.png: {path} cannot be written; {error.strerror}"
        raise (RefusalError if path.is_dir() else OSError)(text) from None


def _path(text: str) -> Path:
    """Return a path with ~ for a home folder."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"{text}: there is no such home folder") from None


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a console may lack a character
    sys.exit(main())
