"""The page of all attacks and their options, from the code: ``python -m tests.attacks_page``."""

import dataclasses
import inspect
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_type_hints

from tests.settings_table import choices, meanings, shown
from ulrl.attacks import ATTACKS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "attack-options.md"
# `imported` is for victims from elsewhere, `none` for benign models.
NAMES = sorted(set(ATTACKS) - {"imported", "none"})
INTRO = """\
# Every attack and its options

A study names an attack, or several, with options: `attack: [sig, {name: badnets, size: [3, 5]}]`.
A list makes an axis of an option; of an option that is a list itself (`cover_classes: [5, 7]`), a
list of lists does. Every attack also takes

- `labels`: which images are poisoned and how they are labelled. `all_to_one`: of any class, as the
  target; `all_to_all`: of any class, as the next one; `clean_label`: of the target, left alone;
  `source_specific`: of the classes in `source`, as the target. The rules that make sense are
  listed with each attack, its default first;
- `poison_ratio`, if not the grid's: of the *whole* training set, 0 to 0.5;
- `stamp`: `before_augmentation`, as published poisoned sets are (a crop may cut the trigger away),
  or `after_augmentation`: every view carries all of it;
- `source`: the classes of `source_specific`.

`victim: {recipe: backdoorbench}` trains the victims of `wanet`, `bpp`, `lira` and `input_aware` at
the rates of BackdoorBench's own loops for these: 0.01, a tenth after each 100 epochs (`lira`: 50),
with the last short batch of an epoch. `lira` has 50 epochs, after the 50 along with its generator.
`input_aware` has 25 fewer than the dataset's other attacks: those go to its mask network. The
augmentation of `wanet`, `bpp` and `lira` differs. There, a whole batch has one crop (padding 5, in
80 % of batches), one rotation (within 10°, in half of them) and, on CIFAR-10, one flip: after the
stamp of `wanet` and `bpp`, before that of `lira`. Here, each image has a crop and flip of its own,
as its dataset says. Nor has `lira` any weight decay there while its generator is trained.

`none` is no attack: its victim is a benign model, trained on clean images. It has no options, and a
grid's poison ratios and target labels do not multiply it. It is the very model that `lf` and
`trojannn` look into: `train_helper` trains it, once for all that need it, and `train_victim` only
copies it. Repairs run on it like on any victim; ASR, RA and DER are empty, and no setting is chosen
or pruned by it. `min_acc` can make it weak, `min_asr` cannot. It has no best setting, so
`log_models: best` keeps none of its repaired models, and `all` keeps every one.

With files of BackdoorBench or backdoor-toolbox, which are not shipped here, five attacks are byte
for byte what those make of them: `pattern` of `badnets`, `tact` and `lf`; `train_replacements` of
`lc`; `train_replacements` and `test_replacements` of `ssba`. `trojannn` starts from the picture in
its `pattern`, and with `wrap: true` adds its patch as BackdoorBench does. Results depend on what a
file holds, not on where it lies; a relative path is from the folder in which the command runs.

What a trained trigger needs first (a clean model, an encoder) is a stage of its own: trained once
per dataset, seed and, where it looks at the victim, architecture. What these attacks reach:
[attacks.md](attacks.md). How to add one: [adding-an-attack.md](adding-an-attack.md).

This page is made from the code by `python -m tests.attacks_page`; a test keeps it fresh.
"""


def page(names: Iterable[str] = NAMES) -> str:
    """Return the page of some attacks, by default of all."""
    return "\n".join([INTRO, *(_section(name, ATTACKS[name]) for name in names)])


def told() -> list[str]:
    """Return the attacks that the page in the repository is about."""
    return re.findall(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def _section(name: str, attack: type[Any]) -> str:
    text = inspect.getdoc(attack) or ""
    about = text.partition("\n\nAttributes:")[0].replace("``", "`")
    rules = ", ".join(f"`{rule}`" for rule in attack.label_rules)
    facts = [f"Labels: {rules}", f"stamp: `{attack.default_stamp}`"]
    if attack.default_source:
        facts.append(f"source: {list(attack.default_source)}")
    lines = [f"## {name}", "", about, "", f"{'; '.join(facts)}.", ""]
    told, hints = meanings(attack), get_type_hints(attack)
    rows = [
        f"| `{part.name}` | {_default(part.default)} | {choices(hints[part.name])} "
        f"| {told[part.name].replace('``', '`')} |"
        for part in dataclasses.fields(attack)
    ]
    if rows:
        lines += ["| option | default | choices | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _default(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
