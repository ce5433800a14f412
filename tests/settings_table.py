"""The page of all hyper-parameters, from the core itself: ``python -m tests.settings_table``."""

import dataclasses
import inspect
import re
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ulrl.hyperparameters import PARTS, Preset, names, preset_values
from ulrl.supervised import VictimConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
TITLES = {
    "clean": "The clean samples",
    "unlearn": "Phase 1: the ascent",
    "score": "Phase 1: scores and suspects",
    "reset": "What is reinitialised",
    "relearn": "Phase 2: relearning",
}
INTRO = """\
# Every hyper-parameter of ULRL

Each is an axis of a study by its name (`grid: {alpha: [0.0, 0.7]}`) and an argument of
`ulrl.repair`. A blank means *as in `default`*. `official` is the public code to the letter
([evidence](results.md#the-official-code-run-side-by-side)), with its values per dataset: on
CIFAR-100, GTSRB and Tiny-ImageNet both presets have `relearn_lr` 0.001 and `alpha` 0.001. (It draws
its clean samples with seed 0 always: that is a `defence_seed` of 0 here.) `fine_tuning` is
BackdoorBench's plain fine-tuning, the baseline to beat. `preset` is itself an axis. `null` in a
file switches an optional value off. The column of the axis `suspects` is `named_suspects`.
`studies/finders.yaml` compares every `finder` and the score `per_mass`.

This page is made from the code by `python -m tests.settings_table`; a test keeps it fresh.
"""


VICTIMS = """\
## The victims

These are keys of the section `victim`, not axes: `victim: {epochs: 40, lr: 0.02}`. `recipe:
backdoorbench` has BackdoorBench's values in their place. **The rate of `fast` is ten times
BackdoorBench's, and repairs do something else on its victims**: ULRL mostly loses the target's
class with the backdoor, and fine-tuning helps little ([results](results.md#what-a-removal-is)). To
stand beside published numbers, set `lr: 0.01` or take `backdoorbench`. Where a victim is weak, try
more `epochs`, another `lr`, or more poison. `min_acc` (0.5) and `min_asr` (0.8) say below which it
is weak.
"""


def page() -> str:
    """Return the page."""
    values = {preset: preset_values(preset, "cifar10") for preset in Preset}
    parts = [INTRO]
    for part, config in PARTS.items():
        rows = [
            "| name | default | official | fine_tuning | choices | meaning |",
            "|---|---|---|---|---|---|",
        ]
        told = meanings(config)
        hints = get_type_hints(config)
        for name in (name for name, (owner, _) in names().items() if owner == part):
            default = values[Preset.DEFAULT][name]
            others = [values[preset][name] for preset in (Preset.OFFICIAL, Preset.FINE_TUNING)]
            cells = ["" if value == default else shown(value) for value in others]
            row = [f"`{name}`", shown(default), *cells, choices(hints[name]), told[name]]
            rows.append(f"| {' | '.join(row)} |")
        parts.append(f"## {TITLES[part]}\n\n" + "\n".join(rows) + "\n")
    parts.append(victims())
    return "\n".join(parts)


def victims() -> str:
    """Return the section on how victims are trained."""
    told, hints = meanings(VictimConfig), get_type_hints(VictimConfig)
    rows = ["| key | default | choices | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(VictimConfig):
        cells = (f"`{field.name}`", shown(field.default), choices(hints[field.name]))
        rows.append(f"| {' | '.join((*cells, told[field.name]))} |")
    return f"{VICTIMS}\n" + "\n".join(rows) + "\n"


def shown(value: Any) -> str:
    """Return a value as a study file has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def choices(hint: Any) -> str:
    """Return the words that an option may be, if it is one of a few."""
    for kind in (hint, *get_args(hint)):
        if isinstance(kind, type) and issubclass(kind, StrEnum):
            return ", ".join(kind)
        if get_origin(kind) is Literal:
            return ", ".join(get_args(kind))
    return ""


def meanings(config: type[Any]) -> dict[str, str]:
    """Return the lines of a docstring's ``Attributes`` by name."""
    text = inspect.getdoc(config) or ""
    found = ATTRIBUTE.findall(text.partition("Attributes:\n")[2])
    return {name: " ".join(line.split()).replace("|", "\\|") for name, line in found}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
