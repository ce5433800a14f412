"""Which layers carry a backdoor: ``python -m benchmarks.layers_table runs/architectures``.

The layers of each victim that took are taken in groups: what comes before the first block
(``stem``), each block or stage, hidden linear layers, and the head. A group is trained on the
trial's clean samples with all other layers as they are in the victim, BatchNorm included:

- ``trained``: from the victim's weights. What this does to the ASR is fine-tuning's doing.
- ``reset``: from a new draw. A group carries the backdoor if the ASR falls here, does not fall
  when the group is only trained, and the ACC comes back. Several groups may carry it together,
  for each alone is enough to break what they do in turn.
- ``reset with all behind``: this group and those behind it from a new draw. Where the ASR stays,
  the layers before them turn a triggered image into what looks like one of the target class.

In the first group's last column nothing is left of the victim: a network trained on the clean
samples alone. Its ACC says how little they teach, its ASR is that of no backdoor.

Means over the victims of an attack, on the report half, in percent; the lowest and the highest ASR
in brackets. Done groups are in FOLDER/layers.csv, and are not computed again.
"""

import argparse
import csv
import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch
from torch import nn

from benchmarks._common import study_folder, table
from benchmarks._victims import StudyVictims
from orchestrator.files import read_table
from orchestrator.plan.columns import SCENARIO
from orchestrator.plan.labels import scenario_text
from orchestrator.plan.plan import Scenario, Trial, make_plan
from orchestrator.reporting.read_folder import grouped
from orchestrator.spec.load import load_study
from ulrl.clean import CleanSamples
from ulrl.fitting import Sources
from ulrl.metrics import Metrics, measure
from ulrl.models import Classifier, Weights, initialise, restore
from ulrl.poisoning import TestHalf
from ulrl.randomness import generator
from ulrl.supervised import VictimConfig, fit
from ulrl.training_hooks import TrainingHooks

STEM, HIDDEN, HEAD = "stem", "hidden linear layers", "head"
VICTIM = "victim"
TREATMENTS = ("trained", "reset", "reset with all behind")
METRICS = ("acc", "asr", "ra")
COLUMNS = (*SCENARIO, "training", "place", "group", "share", "treatment", *METRICS)

_BLOCK = re.compile(r"(?:.*\.)?(\w*layer_?\d+|blocks\.\d+)(?:\.|$)")

Groups = Mapping[str, tuple[str, ...]]  # names of parameters and buffers, in the network's order
Row = dict[str, str]


def groups_of(network: nn.Module, head: str) -> Groups:
    """Return the layers of a network in groups.

    A block is a module called ``layer3``, ``encoder_layer_3`` or ``blocks.3``. In a network without
    any, whose convolutions stand between poolings, it is what lies between two of them. In one
    without these either, each module that has weights is a group.
    """
    stored = network.state_dict().keys()
    owners = {
        path: names
        for path, module in network.named_modules()
        if (names := tuple(name for name in _own(path, module) if name in stored))
    }
    blocks = {path: match[1] for path in owners if (match := _BLOCK.match(path))}
    blocks = blocks or _between_poolings(network, owners)
    if not blocks:
        return owners
    found: dict[str, tuple[str, ...]] = {}
    for path, names in owners.items():
        behind = any(place in found for place in blocks.values())
        hidden = behind and path != head and isinstance(network.get_submodule(path), nn.Linear)
        group = blocks.get(path) or (HIDDEN if hidden else HEAD if behind else STEM)
        found[group] = (*found.get(group, ()), *names)
    return found


def _own(path: str, module: nn.Module) -> Iterator[str]:
    values = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return (f"{path}.{name}" if path else name for name, _ in values)


def _between_poolings(network: nn.Module, owners: Collection[str]) -> dict[str, str]:
    """Return the stage of each layer before the last of several poolings."""
    stages: dict[str, str] = {}
    waiting: list[str] = []
    passed = 0
    for path, module in network.named_modules():
        if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
            passed += 1
            stages |= dict.fromkeys(waiting, f"stage {passed}")
            waiting = []
        elif path in owners:
            waiting.append(path)
    return stages if passed > 1 else {}


class _OthersFrozen(TrainingHooks):
    """Leaves all modules but some in eval mode."""

    def __init__(self, network: nn.Module, names: Collection[str]) -> None:
        self._frozen = [
            module
            for path, module in network.named_modules()
            if not any(name in names for name in _own(path, module))
        ]

    def start_epoch(self, number: int) -> None:
        del number
        for module in self._frozen:
            module.training = False


def relearned(
    start: Weights, names: Collection[str], clean: CleanSamples, training: VictimConfig
) -> Classifier:
    """Return a network with some of its parameters and buffers trained on the clean samples."""
    classifier = restore(start, torch.device("cpu"))
    for name, parameter in classifier.network.named_parameters():
        parameter.requires_grad_(name in names)
    hooks = _OthersFrozen(classifier.network, names)
    sources = Sources.of(clean.seed, "layers")
    for _ in fit(training, classifier, clean.samples, sources, hooks):
        pass
    return classifier


def with_reset(victim: Weights, names: Collection[str], seed: int) -> Weights:
    """Return a victim with some of its parameters and buffers as a new network has them."""
    source = generator(seed, "layers", "new draw")
    fresh = initialise(victim.model_spec, source, torch.device("cpu")).weights().state
    state = {name: fresh[name] if name in names else own for name, own in victim.state.items()}
    return replace(victim, state=state)


@dataclass(frozen=True, kw_only=True)
class Treated:
    """What became of a victim of which one group was treated."""

    place: int  # of the group; -1 is the victim as it is
    group: str
    share: float  # of all parameters that are the group's
    treatment: str
    acc: float
    asr: float
    ra: float


def treated(
    victim: Weights,
    clean: CleanSamples,
    half: TestHalf,
    training: VictimConfig,
    done: Collection[tuple[str, str]] = (),
) -> Iterator[Treated]:
    """Yield what each treatment of each group comes to, but for those that are done."""
    classifier = restore(victim, torch.device("cpu"))
    groups = groups_of(classifier.network, victim.model_spec.head)
    parameters = {name: p.numel() for name, p in classifier.network.named_parameters()}
    order = list(groups)

    def found(place: int, group: str, treatment: str, seen: Metrics) -> Treated:
        own = sum(parameters.get(name, 0) for name in groups.get(group, ()))
        share = own / sum(parameters.values())
        return Treated(place=place, group=group, share=share, treatment=treatment, **asdict(seen))

    if (VICTIM, "") not in done:
        yield found(-1, VICTIM, "", measure(classifier.predict, half))
    for place, group in enumerate(order):
        own = groups[group]
        behind = [name for other in order[place:] for name in groups[other]]
        starts = (
            (own, victim),
            (own, with_reset(victim, own, clean.seed)),
            (behind, with_reset(victim, behind, clean.seed)),
        )
        for treatment, (names, start) in zip(TREATMENTS, starts, strict=True):
            if (group, treatment) not in done:
                repaired = relearned(start, frozenset(names), clean, training)
                yield found(place, group, treatment, measure(repaired.predict, half))


def tabulate(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of a table of the victims of one attack and architecture."""
    lines = []
    for group in dict.fromkeys(row["group"] for row in sorted(rows, key=lambda r: int(r["place"]))):
        own = [row for row in rows if row["group"] == group]
        if group == VICTIM:
            lines.append([group, "", _cell(own), *[""] * (len(TREATMENTS) - 1)])
            continue
        cells = [_cell([row for row in own if row["treatment"] == kind]) for kind in TREATMENTS]
        lines.append([group, f"{100 * float(own[0]['share']):.1f}", *cells])
    return ["group", "% of weights", *(f"{kind}: ACC / ASR" for kind in TREATMENTS)], lines


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "–"
    acc, asr = ([100 * float(row[metric]) for row in rows] for metric in ("acc", "asr"))
    spread = f" ({min(asr):.0f}–{max(asr):.0f})" if len(rows) > 1 else ""
    return f"{fmean(acc):.0f} / {fmean(asr):.0f}{spread}"


def victims_that_took(folder: Path, trials: Iterable[Trial]) -> Iterator[Trial]:
    """Yield a trial of each scenario whose victim took, by the folder's results.csv."""
    rows = read_table(folder / "results.csv", (*SCENARIO, "victim_ok")).rows
    took = {tuple(row[n] for n in SCENARIO) for row in rows if row["victim_ok"] == "True"}
    firsts: dict[int, Trial] = {}
    for trial in trials:
        firsts.setdefault(trial.scenario.number, trial)
    return (t for t in firsts.values() if named(t.scenario) in took and not t.scenario.benign)


def named(scenario: Scenario) -> tuple[str, ...]:
    """Return the columns that name a scenario as results.csv has them."""
    return tuple(str(scenario.columns[name]) for name in SCENARIO)


def main(arguments: Sequence[str] | None = None) -> None:
    """Treat what is not done yet, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=study_folder, help="the study's folder")
    parser.add_argument("--epochs", type=int, default=20, help="default: 20")
    parser.add_argument("--lr", type=float, default=0.05, help="default: 0.05")
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    training = VictimConfig(epochs=given.epochs, batch_size=64, lr=given.lr)
    how = json.dumps({"epochs": given.epochs, "lr": given.lr})
    plan = make_plan(load_study(str(folder / "study.yaml")))
    victims = StudyVictims(plan)
    file = folder / "layers.csv"
    rows = [row for row in read_rows(file) if row["training"] == how]
    for trial in victims_that_took(folder, plan.trials):
        scenario = trial.scenario
        place = dict(zip(SCENARIO, named(scenario), strict=True))
        own = [row for row in rows if all(row[name] == place[name] for name in SCENARIO)]
        victim = victims.victim(scenario)
        if victim is None:
            print(f"{scenario.text}: its victim is not in the store", file=sys.stderr)
            continue
        half, clean = victims.tests(scenario).report, victims.inputs.clean(trial)
        done = {(row["group"], row["treatment"]) for row in own}
        for one in treated(victim, clean, half, training, done):
            rows += [append_row(file, {**place, "training": how, **asdict(one)})]
    if not rows:
        parser.error("no victim took")
    for text, own in grouped(rows, kind_of).items():
        print(f"{text} (n = {len({row['seed'] for row in own})})\n")
        table(*tabulate(own))
        print()


def kind_of(row: Row) -> str:
    """Return all that makes a victim but its seed, in a line."""
    return scenario_text(row, without=frozenset({"seed"}))


def read_rows(file: Path) -> list[Row]:
    """Return what was done before."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def append_row(file: Path, values: Mapping[str, object]) -> Row:
    """Add a line to the file, and return it as it will be read."""
    row = {name: str(values[name]) for name in COLUMNS}
    is_new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(row)
    return row


if __name__ == "__main__":
    main()
