"""How often Wilcoxon's pruner is wrong when truth is known: ``python -m benchmarks.pruning_truth``.

Studies of 24 scenarios are made up: a setting's value is the scenario's own level, plus the
setting's merit, plus noise (normal, sd 0.03). The program's own decisions judge them.
"""

import argparse
import json
import random
import time
from dataclasses import replace
from math import sqrt

from benchmarks.pruning_replay import wilcoxon
from orchestrator.decisions import Decisions, Outcome
from orchestrator.definition import AttackChoice, Grid, Prune, PrunerChoice, Study, Tracking
from orchestrator.plan import Plan, make_plan
from ulrl.attacks import LabelRule
from ulrl.attacks.badnets import BadNets
from ulrl.datasets.digits import Digits
from ulrl.models.preact_resnet import PreActResNet18

SCENARIOS, NOISE = 24, 0.03
CASES = {  # merits of the settings, in sd of the noise; the first is the preset's own
    "2 equal settings": (0.0, 0.0),
    "2, one worse by 1 sd": (0.0, -1.0),
    "2, one worse by 2 sd": (0.0, -2.0),
    "18 equal settings": (0.0,) * 18,
    "18, half of them worse by 1 sd": (0.0,) * 9 + (-1.0,) * 9,
}


def main() -> None:
    """Print a row for each threshold and case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--studies", type=int, default=200)
    studies = parser.parse_args().studies
    started, rows = time.process_time(), {}
    print(
        "| p_threshold | case | equals of the best abandoned, % | worse ones abandoned, % ", end=""
    )
    print("| trials saved, % | best setting lost, % |\n|---|---|---|---|---|---|")
    for threshold in (0.1, 0.05, 0.01, 0.005):
        for name, merits in CASES.items():
            counts = simulate(merits, wilcoxon(threshold, 7), studies)
            rows[f"{threshold} {name}"] = counts
            shown = " | ".join(_percent(*count) for count in counts)
            print(f"| {threshold} | {name} | {shown} |", flush=True)
    cpu = round(time.process_time() - started, 1)
    print(json.dumps({"studies": studies, "cpu_seconds": cpu, "rows": rows}))


def simulate(
    merits: tuple[float, ...], choice: PrunerChoice, studies: int
) -> list[tuple[int, int]]:
    """Return counts of (equals abandoned, worse ones abandoned, trials saved, best lost).

    The first setting cannot be abandoned: nothing was there before it to be worse than.
    The best is the one with the best mean had all been run.
    """
    plan = _plan(len(merits), choice)
    best = max(merits)
    counts = [[0, 0] for _ in range(4)]
    for number in range(studies):
        source = random.Random(number)  # noqa: S311 - a made-up world
        values = _values(merits, source)
        order = list(range(1, len(merits)))
        source.shuffle(order)
        decisions = Decisions(replace(plan, setting_order=[0, *order]))
        for trial in decisions.order:
            value = values[trial.setting.number][trial.scenario.number]
            decisions.offer(trial, Outcome(value=value))
        gone = {pruning.trial.setting.number for pruning in decisions.prunings}
        for setting in order:
            _count(counts[0 if merits[setting] == best else 1], setting in gone)
        pruned = sum(decisions.verdict(t).status == "pruned" for t in plan.trials)  # type: ignore[union-attr]
        counts[2][0] += pruned
        counts[2][1] += len(plan.trials)
        winner = max(range(len(merits)), key=lambda setting: sum(values[setting]))
        _count(counts[3], winner in gone)
    return [(hits, of) for hits, of in counts]


def _count(pair: list[int], hit: bool) -> None:  # noqa: FBT001 - private
    pair[0] += hit
    pair[1] += 1


def _values(merits: tuple[float, ...], source: random.Random) -> list[list[float]]:
    levels = [source.uniform(0.5, 0.9) for _ in range(SCENARIOS)]
    return [[level + NOISE * (merit + source.gauss(0, 1)) for level in levels] for merit in merits]


def _plan(settings: int, choice: PrunerChoice) -> Plan:
    return make_plan(
        Study(
            name="truth",
            source="",
            grid=Grid(
                attacks=(AttackChoice(attack=BadNets(), labels=LabelRule.ALL_TO_ONE),),
                datasets=(Digits(),),
                architectures=(PreActResNet18(width=1),),
                seeds=tuple(range(SCENARIOS)),
                settings={"alpha": tuple(0.7 + 0.1 * number for number in range(settings))},
            ),
            prune=Prune(setting=choice),
            mlflow=Tracking(uri="sqlite:///nowhere.db"),
            store="memory://truth",
        )
    )


def _percent(hits: int, of: int) -> str:
    """Return a share with its standard error."""
    if not of:
        return "–"
    share = hits / of
    return f"{100 * share:.1f} ± {100 * sqrt(share * (1 - share) / of):.1f}"


if __name__ == "__main__":
    main()
