"""Tables of docs/attacks.md: ``python -m benchmarks.attacks_table runs/cifar10-attacks``.

Means over seeds, sample standard deviations; the report half, in percent; DER a fraction.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

import torch

from benchmarks._common import table
from benchmarks._victims import StudyVictims
from orchestrator.plan.plan import Scenario, make_plan
from orchestrator.spec.load import load_study
from orchestrator.store.serialization import HELPER
from ulrl.attacks import Learned
from ulrl.attacks._benign import BenignModel
from ulrl.image_similarity import psnr, ssim
from ulrl.models import Weights, restore
from ulrl.poisoning import example_pairs, split_halves

IMAGES = 1000  # triggered test images behind PSNR and SSIM
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
HEAD = (
    *("attack, options", "n", "ACC / ASR", "ACC - benign", "published", "ULRL: ACC / ASR", "DER"),
)

Rows = list[dict[str, str]]


def main(folder: Path) -> None:
    """Print the table of victims and repairs, and that of PSNR and SSIM."""
    plan = make_plan(load_study(str(folder / "study.yaml")))
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "done"]
    desk = _Desk(plan)
    benign = dict(desk.benign())
    if benign:
        clean = _spread([100 * value for value in benign.values()])
        print(f"Benign: ACC {clean} (n = {len(benign)}).\n")
    else:  # only attacks that look into a clean model train one
        print("Benign: no attack of this study trains a clean model.\n")
    table(HEAD, [_victims_line(attack, group, benign) for attack, group in _groups(rows)])
    print()
    alike = []
    for attack, group in _groups(rows):
        seeds = {row["seed"] for row in group}
        pairs = [desk.alike(s) for s in desk.scenarios(attack) if str(s.seed) in seeds]
        noise, likeness = zip(*pairs, strict=True)
        alike.append([attack, _spread(noise), _spread(likeness, 3)])
    table(["attack", "PSNR, dB", "SSIM"], alike)


def _groups(rows: Rows) -> Iterator[tuple[str, Rows]]:
    for attack in dict.fromkeys(row["attack"] for row in rows):
        yield attack, [row for row in rows if row["attack"] == attack]


def _victims_line(attack: str, rows: Rows, benign: dict[int, float]) -> list[str]:
    def of(column: str, scale: float = 100) -> list[float]:
        return [scale * float(row[column]) for row in rows]

    options = rows[0]["attack_options"].strip("{}").replace('"', "")
    label = f"{attack}: {options}, {rows[0]['poison_ratio']}".replace(": ,", ",")
    gaps = [
        100 * (float(row["acc_before_report"]) - benign[int(row["seed"])])
        for row in rows
        if int(row["seed"]) in benign
    ]
    acc, asr = _spread(of("acc_before_report")), _spread(of("asr_before_report"))
    after = f"{_spread(of('acc_after_report'))} / {_spread(of('asr_after_report'))}"
    gap = f"{mean(gaps):+.1f}".replace("-0.0", "0.0") if gaps else "–"
    victim, der = f"{acc} / {asr}", _spread(of("der_report", 1), 3)
    return [label, str(len(rows)), victim, gap, PUBLISHED.get(attack, "–"), after, der]


def _spread(values: Sequence[float], digits: int = 1) -> str:
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


class _Desk(StudyVictims):
    """The store of a study, and what its scenarios are made of."""

    def scenarios(self, attack: str) -> list[Scenario]:
        """Return the scenarios of an attack."""
        return [s for s in self.plan.scenarios if s.columns["attack"] == attack]

    def benign(self) -> Iterator[tuple[int, float]]:
        """Yield seed and accuracy, on the report half, of the clean models attacks looked into."""
        for scenario in self.plan.scenarios:
            for helper in scenario.helpers:
                found = HELPER.read(self.store, self.keys.helper(scenario, helper))
                if isinstance(helper, BenignModel) and found is not None:
                    yield scenario.seed, self._accuracy(scenario, found.content.tensors)

    def _accuracy(self, scenario: Scenario, learned: Learned) -> float:
        state = {name.removeprefix("model/"): value for name, value in learned.items()}
        state.pop("accuracy")  # on all test images
        weights = Weights(model_spec=self.inputs.model_spec(scenario), state=state)
        images = self.inputs.images(scenario.dataset)
        _, report = split_halves(images.test_labels)
        classes = restore(weights, torch.device("cpu")).predict(images.test_images[report])
        return float((classes == images.test_labels[report]).float().mean())

    def alike(self, scenario: Scenario) -> tuple[float, float]:
        """Return mean PSNR and SSIM of test images and their triggered selves."""
        pairs = example_pairs(scenario.poison, self.tests(scenario).report, IMAGES)
        clean, triggered = (pairs[name].float() / 255 for name in ("clean", "triggered"))
        noise = psnr(clean, triggered)  # infinite where a white patch meets a white corner
        return float(noise[noise.isfinite()].mean()), float(ssim(clean, triggered).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
