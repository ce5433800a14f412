"""One full-width victim of your own images, and ULRL on it: ``-m benchmarks.one_victim FILE.npz``.

BadNets, 10 %, on PreAct-ResNet18: seconds of training, ACC and ASR on the report half, and what the
default preset leaves of them for some defence seeds. FILE has the arrays that a study's ``arrays``
dataset has. It is for a GPU; two cores take a day.
"""

import argparse
from typing import Any

import torch

from benchmarks._common import clock, report, summary, table, the_device
from benchmarks._material import POISON
from ulrl.clean import draw_clean_samples
from ulrl.datasets import ImageSet
from ulrl.datasets.arrays import Arrays
from ulrl.evaluation import Evaluation, evaluate
from ulrl.hyperparameters import Preset, assemble, preset_values
from ulrl.models import ModelSpec, Weights
from ulrl.models.preact_resnet import PreActResNet18
from ulrl.poisoning import TestSets, make_test_sets
from ulrl.recipes import Recipe, VictimRecipe
from ulrl.relearning import relearn
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import select_weights

SEED = 0


def main(argv: list[str] | None = None) -> None:
    """Print a row for the victim and for each repair, and the line of JSON."""
    given = _arguments().parse_args(argv)
    torch.set_num_threads(1)
    dataset = Arrays(arrays=given.file)
    images, device = dataset.load(), the_device()
    changes = {
        name: getattr(given, name)
        for name in ("epochs", "batch_size", "lr")
        if getattr(given, name) is not None
    }
    config = VictimRecipe(recipe=Recipe(given.recipe), changes=changes).config(
        "cifar10", POISON.attack.name
    )
    model_spec = ModelSpec(
        architecture=PreActResNet18(width=given.width),
        classes=images.classes,
        channels=images.train_images.shape[1],
        side=images.train_images.shape[2],
        preprocessing=dataset.preprocessing,
    )
    with clock() as taken:
        run = train_victim(config, model_spec, POISON, images, SEED, device)
        for epoch in run.epochs:
            last = epoch
    tests = make_test_sets(POISON, images, SEED)
    victim = run.classifier.weights()
    before = evaluate(victim, tests, device)
    seeds = range(given.defence_seeds)
    repairs = [(seed, *repaired(victim, images, tests, seed)) for seed in seeds]
    print(f"{config}\n")
    table(
        ["model", "s", "suspects", "ACC %", "ASR %"],
        [
            ["victim", taken.wall, "", *percent(before)],
            *(
                [f"repaired, defence seed {seed}", wall, suspects, *percent(after)]
                for seed, wall, suspects, after in repairs
            ),
        ],
    )
    report(
        "one_victim",
        recipe=given.recipe,
        changes=changes,
        seconds=round(taken.wall, 2),
        training_loss=last.loss,
        acc=before.report.acc,
        asr=before.report.asr,
        **(
            {
                "repaired_acc": summary([after.report.acc for *_, after in repairs]),
                "repaired_asr": summary([after.report.asr for *_, after in repairs]),
            }
            if repairs
            else {}
        ),
    )


def repaired(
    victim: Weights, images: ImageSet, tests: TestSets, seed: int
) -> tuple[float, int, Evaluation]:
    """Return the seconds of ULRL's two phases, the number of suspects, and what came out."""
    device = the_device()
    h = assemble(preset_values(Preset.DEFAULT, "cifar10"))
    clean = draw_clean_samples(h.clean, images, seed)
    with clock() as taken:
        *_, ascent = unlearn(h.unlearn, victim, clean, h.score.stop_at(images.classes), device)
        scores = score_neurons(h.score, ascent)
        run = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, device)
        for _ in run.epochs:
            pass
    found = evaluate(run.classifier.weights(), tests, device)
    return taken.wall, len(scores.suspects), found


def percent(found: Evaluation) -> list[Any]:
    """Return ACC and ASR on the report half."""
    return [round(100 * found.report.acc, 2), round(100 * found.report.asr, 2)]


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="images and labels, .npz")
    parser.add_argument("--recipe", choices=list(Recipe), default=Recipe.FAST)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--width", type=int, default=64, help="default: 64, the published network")
    parser.add_argument("--defence-seeds", type=int, default=3, help="repairs; default: 3")
    return parser


if __name__ == "__main__":
    main()
