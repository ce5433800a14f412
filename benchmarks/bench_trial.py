"""One ULRL trial, ours against the structure of the official loop: ``-m benchmarks.bench_trial``.

Both do 4 epochs of ascent and 20 of relearning with the official hyper-parameters on one
victim, from the same draws, and must come out alike. Ours is done as a worker of a study does it,
in a process of its own that keeps memory. Test sets are 38 times the training
samples, as on CIFAR-10, and what our curves look at has its share too; on a CPU all of it is
smaller than there so that it takes minutes. `bench_units` times the pieces at full size instead.
"""

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
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
from benchmarks._worker import Acts, WorkerProcess
from ulrl.clean import CleanSamples, draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.hyperparameters import Hyperparameters, Preset, assemble, preset_values
from ulrl.metrics import Metrics, measure
from ulrl.models import Classifier
from ulrl.relearning import relearn
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn
from ulrl.weight_selection import select_weights

TESTS_PER_SAMPLE = 20  # clean test images for each of the defender's: 10,000 for 500
MONITOR = 256 / 5000  # of the selection half
ASCENT = 4  # epochs
ALIKE = "ours, official preset"  # does the same arithmetic
PRESETS = {ALIKE: Preset.OFFICIAL, "ours, default preset": Preset.DEFAULT}


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    small = {"width": 16, "samples": 64, "batch": 32}
    full = {"width": 64, "samples": 500, "batch": 128}  # a GPU takes a minute a round for all of it
    sizes = full if the_device().type == "cuda" else small
    parser = options(__doc__, **sizes, rounds=3, relearn=20, workers=4)
    given = parser.parse_args(argv)
    if given.quick:
        given.width, given.samples, given.batch, given.rounds = 2, 16, 8, 1
        given.relearn, given.workers = 2, 0
    torch.set_num_threads(1)
    test = TESTS_PER_SAMPLE * given.samples
    made = material(given.width, 1000, test, 1 if given.quick else 3, int(MONITOR * test / 2))
    short = {
        "unlearn_threshold": 0.0,
        "unlearn_epochs": ASCENT,
        "relearn_epochs": given.relearn,
        "unlearn_batch_size": given.batch,
        "relearn_batch_size": given.batch,
        "clean_ratio": given.samples / 1000,
    }
    with tempfile.TemporaryDirectory() as folder, WorkerProcess(1, ours, made, short) as ourselves:
        official = Official(made, short, Path(folder), given.workers)
        contenders: dict[str, Callable[[], object]] = {"official structure": official.run}
        contenders |= {name: ourselves.act(name) for name in PRESETS}
        if the_device().type == "cuda":  # what a worker's first trial loads is not a trial's
            for name in PRESETS:
                ourselves.act(name)()
        clocks = in_turn(contenders, given.rounds)
        apart = Agreement(ourselves.results[ALIKE], official.outcome)
    apart.check()
    slow = clocks["official structure"]
    table(
        ["contender", "CPU s", "wall s", "CPU ratio", "wall ratio"],
        [
            [
                name,
                *(spread([getattr(c, kind) for c in taken]) for kind in ("cpu", "wall")),
                *(spread(ratios(slow, taken, kind)) for kind in ("cpu", "wall")),
            ]
            for name, taken in clocks.items()
        ],
    )
    report(
        "trial",
        width=given.width,
        samples=given.samples,
        tests=test,
        epochs=[ASCENT, given.relearn],
        workers=given.workers,
        **apart.told(),
        **{
            f"{kind}_ratio_{slug(name)}": summary(ratios(slow, taken, kind))
            for name, taken in clocks.items()
            for kind in ("cpu", "wall")
            if taken is not slow
        },
    )


class Official:
    """The trial in the official loop's structure.

    Attributes:
        outcome: Of the last run.
    """

    def __init__(
        self, made: Material, short: Mapping[str, object], folder: Path, workers: int
    ) -> None:
        self._made, self._short, self._folder, self._workers = made, short, folder, workers
        self.outcome = Outcome()

    def run(self) -> None:
        """Do it."""
        h, clean = values(Preset.OFFICIAL, self._made, self._short)
        self.outcome = OfficialLoop(
            h,
            self._made.victim,
            clean,
            whole(self._made.tests),
            self._folder,
            workers=self._workers,
            device=the_device(),
        ).run()


def values(
    preset: Preset, made: Material, short: Mapping[str, object]
) -> tuple[Hyperparameters, CleanSamples]:
    """Return a preset with what makes it short, and the defender's samples."""
    h = assemble(preset_values(preset, "cifar10") | dict(short))
    return h, draw_clean_samples(h.clean, made.images, 0)


def ours(made: Material, short: Mapping[str, object]) -> Acts:
    """Return the trial by each preset, as it is done where this is called."""
    return {name: partial(our_trial, preset, made, short) for name, preset in PRESETS.items()}


def our_trial(preset: Preset, made: Material, short: Mapping[str, object]) -> Outcome:
    """Do what a worker of a study does, curves included."""
    h, clean = values(preset, made, short)
    victim, tests, device = made.victim, made.tests, the_device()
    outcome = Outcome()

    def observe(classifier: Classifier) -> None:
        measure(classifier.predict, tests.monitor)

    for ascent in unlearn(h.unlearn, victim, clean, 0.0, device, observe=observe):
        outcome.running = list(ascent.accuracy)
    scores = score_neurons(h.score, ascent)
    run = relearn(h.relearn, victim, select_weights(h.reset, scores), clean, device)
    for epoch in run.epochs:
        outcome.running.append(epoch.accuracy)
        measure(run.classifier.predict, tests.monitor)
    weights = run.classifier.weights()
    result = evaluate(weights, tests, device)
    parts = ((tests.selection, result.selection), (tests.report, result.report))
    outcome.acc = sum(len(p.clean) * m.acc for p, m in parts) / sum(len(p.clean) for p, _ in parts)
    triggered = [(len(p.triggered), m.asr) for p, m in parts if isinstance(m, Metrics)]
    outcome.asr = sum(n * asr for n, asr in triggered) / sum(n for n, _ in triggered)
    outcome.state, outcome.suspects = weights.state, scores.suspects
    return outcome


class Agreement:
    """Two results with the same arithmetic, beside each other."""

    def __init__(self, ours: Outcome, theirs: Outcome) -> None:
        self._ours, self._theirs = ours, theirs

    def told(self) -> dict[str, float]:
        """Return how far they lie apart."""
        ours, theirs = self._ours, self._theirs
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
        """Raise unless both came to the same, but for rounding."""
        if self._ours.suspects != self._theirs.suspects:
            raise RuntimeError("the two loops suspect different neurons")
        apart = self.told()
        if the_device().type == "cpu" and (
            apart["weights_apart"] > 1e-2 or max(apart["acc_apart"], apart["asr_apart"]) > 0.02
        ):
            raise RuntimeError(f"the two loops do not come to the same: {apart}")


if __name__ == "__main__":
    main()
