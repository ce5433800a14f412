"""A whole study, from command to report, against plain Ray Tune: ``-m benchmarks.bench_study``.

Plain means what people write: a function per trial that trains its victim, unlearns, relearns and
evaluates by itself, under Tune's grid search, and no report. It calls the same library, so each
trial must come to the same numbers to the bit. With ``--quick`` neither uses Ray.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks._common import ROOT, in_turn, options, ratios, report, spread, summary, table
from orchestrator.executor.ray_setup import configure
from orchestrator.pipeline.inputs import model_spec_of
from orchestrator.plan.plan import Plan, make_plan
from orchestrator.spec.load import load_study
from ulrl.clean import draw_clean_samples
from ulrl.evaluation import evaluate
from ulrl.poisoning import make_test_sets
from ulrl.relearning import relearn
from ulrl.scoring import score_neurons
from ulrl.unlearning import unlearn
from ulrl.victim import train_victim
from ulrl.weight_selection import select_weights

STUDY = """\
name: whole
grid:
  attack: [badnets]
  dataset: digits
  architecture: {{name: preact_resnet18, width: {width}}}
  clean_ratio: 0.1
  unlearn_threshold: [{thresholds}]
  reinit_ratio: [{ratios}]
  unlearn_epochs: 10
  relearn_epochs: {relearn}
victim: {{epochs: {epochs}, batch_size: 64, min_acc: 0, min_asr: 0}}
prune: none
resources: {{workers: 2, gpu: 0}}
mlflow: {{uri: "sqlite:///{folder}/mlflow.db", log_models: {models}}}
store: {folder}/store
"""
CPU = torch.device("cpu")
COLUMNS = ("acc_after_report", "asr_after_report", "ra_after_report", "acc_before_report")


def main(argv: list[str] | None = None) -> None:
    """Print a row per contender and the line of JSON."""
    parser = options(__doc__, width=4, epochs=6, relearn=10, rounds=1)
    parser.add_argument("--plain", type=Path, help="be the plain contender, for this study file")
    parser.add_argument("--inline", action="store_true", help="without Ray")
    given = parser.parse_args(argv)
    if given.plain is not None:
        run_plainly(given.plain, inline=given.inline)
        return
    fields = {"thresholds": "0.1, 0.2, 0.4", "ratios": "0.0, 0.5, 1.0", "models": "best"}
    if given.quick:
        given.width, given.epochs, given.relearn, given.inline = 1, 1, 1, True
        fields = {"thresholds": "0.2, 0.4", "ratios": "1.0", "models": "none"}
    duel = Duel(fields, given.width, given.epochs, given.relearn, inline=given.inline)
    contenders: dict[str, Callable[[], None]] = {"plain Tune": duel.plainly, "ours": duel.ours}
    clocks = in_turn(contenders, given.rounds)
    duel.check()
    kinds = ["wall", "cpu"] if given.inline else ["wall"]  # Ray's workers have another parent
    table(
        ["contender", "victims", "ascents", "relearnings", *(f"{k} s, ratio" for k in kinds)],
        [
            [
                name,
                *duel.work[name],
                *(
                    f"{spread([getattr(taken, kind) for taken in clocks[name]])}, "
                    f"{spread(ratios(clocks['plain Tune'], clocks[name], kind))}"
                    for kind in kinds
                ),
            ]
            for name in contenders
        ],
    )
    report(
        "study",
        inline=given.inline,
        work=duel.work,
        **{
            f"{kind}_ratio": summary(ratios(clocks["plain Tune"], clocks["ours"], kind))
            for kind in kinds
        },
    )


class Duel:
    """The same grid run in both ways, in processes of their own."""

    def __init__(
        self, fields: dict[str, str], width: int, epochs: int, relearn: int, *, inline: bool
    ) -> None:
        self._fields = {**fields, "width": width, "epochs": epochs, "relearn": relearn}
        self._inline = ["--inline"] if inline else []
        self._rows: dict[str, list[list[float]]] = {}
        self.work: dict[str, list[int]] = {}

    def plainly(self) -> None:
        """Run the plain contender."""
        with tempfile.TemporaryDirectory() as folder:
            grid = self._grid(folder)
            out = self._call("benchmarks.bench_study", "--plain", str(grid), *self._inline)
        rows = json.loads(out.splitlines()[-1])
        self._rows["plain Tune"] = rows
        self.work["plain Tune"] = [len(rows)] * 3

    def ours(self) -> None:
        """Run the study's command."""
        with tempfile.TemporaryDirectory() as folder:
            grid, place = self._grid(folder), Path(folder) / "whole"
            self._call("orchestrator.study", str(grid), "--out", str(place), *self._inline)
            if not (place / "report.html").exists():
                raise RuntimeError("the study left no report")
            with (place / "results.csv").open(newline="", encoding="utf-8") as file:
                rows = [[float(row[name]) for name in COLUMNS] for row in csv.DictReader(file)]
            with (place / "stages.csv").open(newline="", encoding="utf-8") as file:
                stages = [row["stage"] for row in csv.DictReader(file) if row["computed"] == "True"]
        self._rows["ours"] = rows
        self.work["ours"] = [stages.count(name) for name in ("train_victim", "unlearn", "relearn")]

    def check(self) -> None:
        """Raise unless every trial came to the same in both ways."""
        if self._rows["ours"] != self._rows["plain Tune"]:
            raise RuntimeError(f"the two ways differ: {self._rows}")

    def _grid(self, folder: str) -> Path:
        path = Path(folder) / "grid.yaml"
        path.write_text(STUDY.format(folder=folder, **self._fields), encoding="utf-8")
        return path

    def _call(self, module: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{module} failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def run_plainly(grid: Path, *, inline: bool) -> None:
    """Do every trial of a grid by itself, and print the results as the last line."""
    plan = make_plan(load_study(str(grid), []))
    numbers = range(len(plan.trials))
    if inline:
        torch.set_num_threads(1)
        print(json.dumps([alone(plan, number) for number in numbers]))
        return
    import ray
    from ray import tune

    def trainable(config: dict[str, Any]) -> None:
        torch.set_num_threads(1)
        tune.report({"row": alone(plan, config["number"]), "number": config["number"]})

    configure(1)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={"number": tune.grid_search(list(numbers))},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
    ray.shutdown()
    told = [results[place].metrics or {} for place in range(len(results))]
    found = {metrics["number"]: metrics["row"] for metrics in told}
    print(json.dumps([found[number] for number in numbers]))


def alone(plan: Plan, number: int) -> list[float]:
    """Do a trial from its victim on."""
    trial = plan.trials[number]
    scenario, parts = trial.scenario, trial.hyperparameters
    images = scenario.dataset.load()
    run = train_victim(
        plan.study.victim.config(scenario.dataset.name, scenario.poison.attack.name),
        model_spec_of(scenario, images),
        scenario.poison,
        images,
        scenario.seed,
        CPU,
    )
    for _ in run.epochs:
        pass
    victim = run.classifier.weights()
    tests = make_test_sets(scenario.poison, images, scenario.seed)
    clean = draw_clean_samples(parts.clean, images, trial.defence_seed)
    floor = parts.score.stop_at(images.classes)
    *_, ascent = unlearn(parts.unlearn, victim, clean, floor, CPU)
    suspects = select_weights(parts.reset, score_neurons(parts.score, ascent))
    repair = relearn(parts.relearn, victim, suspects, clean, CPU)
    for _ in repair.epochs:
        pass
    before, after = (evaluate(w, tests, CPU) for w in (victim, repair.classifier.weights()))
    return [*(getattr(after.report, name) for name in ("acc", "asr", "ra")), before.report.acc]


if __name__ == "__main__":
    main()
