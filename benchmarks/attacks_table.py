"""Tables of docs/attacks.md, in Markdown: ``python -m benchmarks.attacks_table runs/attacks``.

The first is of the victims, each counted once: how many took, their ACC / ASR, the ACC less that of
the benign model of the same seed (the study's ``none``), and PSNR and SSIM between 1,000 test
images and their triggered selves, PSNR over those that the trigger changes. Means over seeds and
sample standard deviations. The second is of ULRL's repairs of the victims that took: how many are
removed (ASR below 10 %, ACC above chance) with each draw of clean samples, what becomes of those
whose target row is flagged and of the others, and of those removed the mean (lowest to highest)
loss of ACC and RA, and in how many the target's class keeps an ACC above 10 % (a model that never
predicts it has no backdoor either). All numbers are of the report half, in percent; differences of
ACC in points.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from benchmarks._common import study_folder, table
from benchmarks._removals import target_class_acc
from benchmarks._victims import StudyVictims
from benchmarks.axes_table import OUTCOMES, is_strong, outcomes, removals
from orchestrator.plan.columns import DRAW, NO_ATTACK, ULRL
from orchestrator.plan.plan import Scenario, make_plan
from orchestrator.spec.load import load_study
from ulrl.image_similarity import psnr, ssim
from ulrl.poisoning import example_pairs

IMAGES = 1000  # triggered test images behind PSNR and SSIM
ATTACK = ["attack", "attack_options", "poison_ratio"]
BEFORE = {metric: f"{metric}_before_report" for metric in ("acc", "asr")}
# ACC / ASR of published CIFAR-10 victims at 10 % poison, PreAct-ResNet18: BackdoorBench's
# leaderboard, (b) there at 5 %, (c) AGPD (ICLR 2025); none for the others.
PUBLISHED = {
    "badnets": "91.3 / 95.0",
    "blended": "93.5 / 99.9",
    "lc": "93.5 / 99.8 (b)",
    "sig": "93.6 / 97.1 (b)",
    "lf": "93.2 / 99.3",
    "ssba": "92.9 / 97.9",
    "wanet": "91.2 / 89.7",
    "input_aware": "90.7 / 98.3",
    "bpp": "90.7 / 99.8",
    "trojannn": "93.4 / 100",
    "ctrl": "95.5 / 98.8 (c)",
    "tact": "93.2 / 96.0 (c)",
    "adaptive_blend": "92.9 / 66.2 (c)",
    "lira": "62.5 / – (weak)",
    "blind": "83 / – (weak)",
}


def victims(trials: pd.DataFrame, benign: "pd.Series[float]") -> list[str]:
    """Return the cells of an attack's victims.

    Args:
        trials: Those of one attack, any number of each seed.
        benign: ACC of the benign models, by seed; of some seeds or none.
    """
    once = trials.drop_duplicates("seed").set_index("seed")
    acc, asr = (_spread(list(100 * once[column])) for column in BEFORE.values())
    gaps = (100 * (once[BEFORE["acc"]] - benign)).dropna()
    took = f"{is_strong(once).sum()}/{len(once)}"
    gap = f"{gaps.mean():+.1f}".replace("-0.0", "0.0") if len(gaps) else "–"
    return [took, f"{acc} / {asr}", gap]


def _spread(values: Sequence[float], digits: int = 1) -> str:
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


class _Triggers(StudyVictims):
    """What the attacks of a study do to test images."""

    def similarity(self, name: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Return PSNR and SSIM of an attack, as spreads over seeds."""
        pairs = [
            self._of(scenario)
            for scenario in self.plan.scenarios
            if scenario.seed in seeds and [str(scenario.columns[n]) for n in ATTACK] == name
        ]
        noise, likeness = zip(*pairs, strict=True)
        return [_spread(noise), _spread(likeness, 3)]

    def _of(self, scenario: Scenario) -> tuple[float, float]:
        pairs = example_pairs(scenario.poison, self.tests(scenario).report, IMAGES)
        clean, triggered = (pairs[name].float() / 255 for name in ("clean", "triggered"))
        noise = psnr(clean, triggered)  # infinite where a white patch meets a white corner
        return float(noise[noise.isfinite()].mean()), float(ssim(clean, triggered).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    folder: Path = parser.parse_args(arguments).folder
    trials = pd.read_csv(folder / "results.csv").join(target_class_acc(folder))
    trials = trials[trials["status"] == "done"]
    if "repair" in trials:
        trials = trials[trials["repair"] == ULRL]
    benign = trials[trials["attack"] == NO_ATTACK]
    trials = trials[trials["attack"] != NO_ATTACK]
    models = benign.drop_duplicates("seed").set_index("seed")[BEFORE["acc"]]
    triggers = _Triggers(make_plan(load_study(str(folder / "study.yaml"))))
    made, repaired = [], []
    draws = sorted(trials[DRAW].unique())
    kinds = Counter(trials[ATTACK].drop_duplicates()["attack"])
    for key, of in trials.groupby(ATTACK, sort=False):
        attack, options, poison = name = [str(cell) for cell in key]
        text = options.strip("{}").replace('"', "") or "–"
        cells = victims(of, models)
        likeness = triggers.similarity(name, list(of["seed"]))
        published = PUBLISHED.get(attack, "–")
        made.append([attack, text, poison, *cells, published, *likeness])
        strong = of[is_strong(of)]
        by_draw = [removals(strong[strong[DRAW] == draw], (DRAW,)) for draw in draws]
        title = attack if kinds[attack] == 1 else f"{attack}: {text}, {poison}"
        cells = [*(one[0] if one else "–" for one in by_draw), *outcomes(strong)]
        repaired.append([title, *cells])
    head = ["attack", "options", "poison", "took", "ACC / ASR", "ACC - benign", "published"]
    table([*head, "PSNR, dB", "SSIM"], made)
    if len(benign):
        lost = 100 * (benign[BEFORE["acc"]] - benign["acc_after_report"])
        print(f"\nBenign models: ACC {_spread(list(100 * models))} (n = {len(models)}),", end=" ")
        print(f"less by {_spread(list(lost))} after ULRL (n = {len(lost)}).")
    print()
    by_draws = [f"removed, draw {draw}" for draw in draws]
    table(["attack", *by_draws, *OUTCOMES], repaired)


if __name__ == "__main__":
    main()
