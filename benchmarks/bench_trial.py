"""One ULRL trial, ours against the structure of the official loop: ``-m benchmarks.bench_trial``.

Both do 4 epochs of ascent and 20 of relearning with the official hyper-parameters on one
victim, from the same draws, and must come out alike. Test sets are 38 times the training
samples, as on CIFAR-10, and what our curves look at has its share too; all of it is smaller
than there so that it takes minutes. `bench_units` times the pieces at full size instead.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks._common import (
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
from benchmarks._material import Material, material, whole
from benchmarks._official import OfficialLoop, Outcome
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.metrics import measure
from ulrl.models import Classifier
from ulrl.relearning import relearn
from ulrl.resetting import choose_resets
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn

TESTS_PER_SAMPLE = 20  # clean test images for each of the defender's: 10,000 for 500
MONITOR = 256 / 5000  # of the selection half


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    parser = options(__doc__, width=16, samples=64, batch=32, rounds=3, relearn=20, workers=4)
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.samples, given.batch, given.rounds = 2, 16, 8, 1
        given.relearn, given.workers = 2, 0
    torch.set_num_threads(1)
    test = TESTS_PER_SAMPLE * given.samples
    made = material(given.width, 1000, test, 1 if given.quick else 3, int(MONITOR * test / 2))
    with tempfile.TemporaryDirectory() as folder:
        duel = Duel(
            made,
            Path(folder),
            clean_ratio=given.samples / 1000,
            batch=given.batch,
            relearn_epochs=given.relearn,
            workers=given.workers,
        )
        clocks = in_turn(duel.contenders, given.rounds)
    duel.check()
    official = clocks["official structure"]
    table(
        ["contender", "CPU s", "wall s", "CPU ratio", "wall ratio"],
        [
            [
                name,
                *(spread([getattr(c, kind) for c in taken]) for kind in ("cpu", "wall")),
                *(spread(ratios(official, taken, kind)) for kind in ("cpu", "wall")),
            ]
            for name, taken in clocks.items()
        ],
    )
    report(
        "trial",
        width=given.width,
        samples=given.samples,
        tests=test,
        epochs=[Duel.ASCENT, given.relearn],
        workers=given.workers,
        **duel.agreement(),
        **{
            f"{kind}_ratio_{slug(name)}": summary(ratios(official, taken, kind))
            for name, taken in clocks.items()
            for kind in ("cpu", "wall")
            if taken is not official
        },
    )


class Duel:
    """The same trial done in both ways, and by our own preset."""

    ASCENT = 4

    def __init__(
        self,
        made: Material,
        folder: Path,
        *,
        clean_ratio: float,
        batch: int,
        relearn_epochs: int,
        workers: int,
    ) -> None:
        self._made, self._folder, self._workers = made, folder, workers
        self._short = {
            "unlearn_threshold": 0.0,
            "unlearn_epochs": self.ASCENT,
            "relearn_epochs": relearn_epochs,
            "unlearn_batch_size": batch,
            "relearn_batch_size": batch,
            "clean_ratio": clean_ratio,
        }
        self.contenders: dict[str, Callable[[], None]] = {
            "official structure": self._officially,
            "ours, official preset": lambda: self._by(Preset.OFFICIAL),
            "ours, default preset": lambda: self._by(Preset.DEFAULT),
        }
        self._official = Outcome()
        self._ours: dict[Preset, Outcome] = {}

    def _values(self, preset: Preset) -> tuple[Hyperparameters, CleanSamples]:
        h = assemble(preset_values(preset, "cifar10") | self._short)
        return h, draw_clean_samples(h.clean, self._made.images, 0)

    def _officially(self) -> None:
        h, clean = self._values(Preset.OFFICIAL)
        self._official = OfficialLoop(
            h,
            self._made.victim,
            clean,
            whole(self._made.tests),
            self._folder,
            workers=self._workers,
            device=the_device(),
        ).run()

    def _by(self, preset: Preset) -> None:
        """Do what a worker of a study does, curves included."""
        h, clean = self._values(preset)
        victim, tests, device = self._made.victim, self._made.tests, the_device()
        outcome = Outcome()

        def observe(classifier: Classifier) -> None:
            measure(classifier.predict, tests.monitor)

        for ascent in unlearn(h.unlearn, victim, clean, 0.0, device, observe=observe):
            outcome.running = list(ascent.accuracy)
        scores = score_neurons(h.score, ascent)
        run = relearn(h.relearn, victim, choose_resets(h.reset, scores), clean, device)
        for epoch in run.epochs:
            outcome.running.append(epoch.accuracy)
            measure(run.classifier.predict, tests.monitor)
        weights = run.classifier.weights()
        result = evaluate(weights, tests, device)
        parts = ((tests.selection, result.selection), (tests.report, result.report))
        outcome.acc = sum(len(p.clean) * m.acc for p, m in parts) / sum(
            len(p.clean) for p, _ in parts
        )
        outcome.asr = sum(len(p.triggered) * m.asr for p, m in parts) / sum(
            len(p.triggered) for p, _ in parts
        )
        outcome.state, outcome.suspects = weights.state, scores.suspects
        self._ours[preset] = outcome

    def agreement(self) -> dict[str, float]:
        """Return how far the two results with the official preset lie apart."""
        ours, theirs = self._ours[Preset.OFFICIAL], self._official
        pairs = zip(ours.running, theirs.running, strict=True)
        weights = [
            float((values - theirs.state[name]).abs().max() / values.abs().max().clamp(min=1))
            for name, values in ours.state.items()
        ]
        return {
            "acc": ours.acc,
            "asr": ours.asr,
            "acc_apart": abs(ours.acc - theirs.acc),
            "asr_apart": abs(ours.asr - theirs.asr),
            "running_apart": max(abs(one - other) for one, other in pairs),
            "weights_apart": max(weights),
        }

    def check(self) -> None:
        """Raise unless both ways came to the same, but for rounding."""
        if self._ours[Preset.OFFICIAL].suspects != self._official.suspects:
            raise RuntimeError("the two loops suspect different neurons")
        apart = self.agreement()
        if the_device().type == "cpu" and (
            apart["weights_apart"] > 1e-2 or max(apart["acc_apart"], apart["asr_apart"]) > 0.02
        ):
            raise RuntimeError(f"the two loops do not come to the same: {apart}")


if __name__ == "__main__":
    main()
