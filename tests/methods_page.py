"""The page of all repair methods and their options: ``python -m tests.methods_page``."""

import dataclasses
import inspect
from enum import EnumType
from pathlib import Path
from typing import Any, get_args, get_type_hints

from tests.settings_table import choices, meanings, shown
from ulrl.methods import METHODS, TUNERS, ULRL, TuningMethod
from ulrl.registry import words_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "repair-methods.md"
INTRO = """\
# Repair methods beside ULRL

`repair` is an axis of a study. Entries are names, or names with options; a list makes an axis of an
option, for this entry alone. Without the axis every trial is repaired by ULRL.

```yaml
grid:
  attack: [badnets, blended, sig]
  dataset: cifar10
  architecture: {name: preact_resnet18, width: 16}
  clean_ratio: [0.01, 0.05]            # of every method
  unlearn_threshold: [0.1, 0.2]        # of ULRL: other entries are not repeated for its values
  repair:
    - ulrl
    - fine_tuning
    - {name: ft_sam, rho: [1, 2, 4]}
    - {name: rnp, rule: threshold, mask_threshold: [0.2, 0.4, 0.6]}
    - {name: rnp, rule: budget}
```

- results.csv names the method in `repair` and its options, as far as they are not the defaults, as
  JSON in `repair_options`. A setting is named by both, and by those options that vary in the study
  where it has their default (`repair_defaults`): `ft_sam(rho=2.0)`. Columns of ULRL's own axes and
  of its phase 1 are empty.
- `null` leaves an option to the method, as its absence does, or switches it off:
  `max_suspects: [2, null]`.
- A method that cannot repair a network (no BatchNorm, say) is refused with the study file: leave
  the combination out, `exclude: [{repair: rnp, architecture: vit_b_16}]`.
- Pruning compares settings of one method: none is dropped because another method is better. A
  `search:` draws as many settings of each method, and options may be ranges, as in
  `rho: {low: 0.5, high: 4}`: [search.md](search.md#several-repair-methods).
- The report begins with a table of methods: each at the one setting that is best over all scenarios
  on the selection half, shown on the report half, with the number of settings that it was given.
  Give each about as many. Differences to the best are paired by scenario, with an interval over the
  attacks' means. Below, a method with several settings has the sensitivity to its own options.
- Entries that run the same are refused, so that none counts twice: `clp` beside
  `{name: clp, u: 3}`.
- `studies/methods.yaml` has every method on six attacks ([its tables](methods.md)),
  `studies/victims.yaml` three on victims of other poison ratios and recipes,
  `studies/architectures.yaml` seven on VGG19-BN and a ViT.
- Stages are stored and shared. All strengths of a cut share what the method found; methods whose
  stages are equal share them too, and equal cuts share the training after them.

## How strong a cut is

A method that cuts scores the parts of a network and sets those of the highest scores to zero.

- `rule: budget`: the strongest cut after which the accuracy on held-out clean samples is at least
  1 - `budget` of the victim's.
- `rule: threshold`, `rule: deviations`: by the method's own number, such as a mask's value, or
  standard deviations above a layer's mean.
- `rule: outlier`: by ULRL's modified z-score of a row of the head.
- `rule: largest`: a share of all parts.

A fifth of the clean samples, of each class where there are five of each, is held out from what a
method learns its scores by. With 500 clean samples that is 100 images, and one image is a point:
a budget below 0.02 means nothing.

`rule: oracle` (`anp`, `rnp`, `clp`, `bnp`) is no defence. Scripts of several papers choose the
strength by the ASR on test images; this does so on the selection half. Of the published levels it
takes the cut of the lowest ASR that loses less than 10 % of the victim's accuracy, before any
tuning. It is for comparisons with published tables: it has to be asked for, `ulrl.repair` refuses
it, and every table names it, `rnp(rule=oracle)`.

## Parts by name

A method that cuts may have the cut network trained by another's tuner: option `tune`.

```yaml
  repair:
    - {name: rnp, mask_threshold: 0.4, tune: ft_sam}                 # RNP's cut before FT-SAM
    - {name: clp, tune: {name: fine_tuning, lr: [0.01, 0.05]}}       # the rate is an axis
    - {name: tsbd, tune: none}                                       # the cut alone
    - {name: head_neurons, tune: gradient_norm}    # ULRL's finder before TSBD's fine-tuning
```

- There are the tuners TUNERS.
  Options are those of the method of that name; those of `gradient_norm` are `radius`, `alpha`,
  `lr`, `epochs` and `batch_size` of `tsbd`.
- Without the option a method tunes in its own way, or not at all. Options of its own tuner are
  refused beside another.
- What was cut may grow back in training, but in `fine_pruning`, where it stays 0.
- Equal cuts with equal tuners are computed once, whatever method has made the cut. Where nothing
  is cut, that is the tuner's method by itself.
- `rnp`, `tsbd` and `head_neurons` begin with an ascent. With equal options of it they share one;
  what has no option differs between them, and `ascent: rnp` takes RNP's. Each threshold has an
  ascent of its own, since it keeps the whole network; ULRL's keeps the head and serves them all.
- In tables the tuner is an option: `rnp(tune=ft_sam, mask_threshold=0.4)`.

## The library

```python
repaired = ulrl.repair(victim, images, labels, preprocessing, method="rnp", mask_threshold=0.4)
repaired.network, repaired.findings
ulrl.repair(victim, images, labels, preprocessing, method="rnp", tune={"name": "ft_sam", "rho": 1})
```

takes any classifier that ends in a linear layer, as `ulrl.repair` does for ULRL, and refuses a
network to which the method does not apply. How to add a method:
[own-code.md](own-code.md#a-repair-method), and as a file in `ulrl/methods/`, where each is found by
being there.

This page is made from the code by `python -m tests.methods_page`; a test keeps it fresh.
"""


def page() -> str:
    """Return the page."""
    parts = [INTRO.replace("TUNERS", ", ".join(f"`{name}`" for name in sorted(TUNERS)))]
    for name, method in sorted(METHODS.items()):
        if name != ULRL and method.__module__.startswith("ulrl.methods."):
            parts.append(section(name, method))
    return "\n".join(parts)


def section(name: str, method: type[Any]) -> str:
    """Return what the page says of a method."""
    text = (inspect.getdoc(method) or "").partition("\nAttributes:\n")[0].strip()
    module = inspect.getmodule(method)
    title = (inspect.getdoc(module) or "").splitlines()[0]
    lines = [f"## `{name}`\n", f"{title}\n", text.replace("``", "`")]
    told, hints = meanings(method), get_type_hints(method)
    rows = ["", "| option | default | choices | meaning |", "|---|---|---|---|"]
    for field in dataclasses.fields(method):
        default = "" if field.default is None else shown(field.default)
        hint = hints[field.name]
        words = ", ".join(sorted(TUNERS)) if hint == TuningMethod | None else choices(hint)
        for kind in (hint, *get_args(hint)):
            if isinstance(kind, EnumType):  # of which this method may take a part
                words = ", ".join(words_of(method, field.name, kind))
        cells = (f"`{field.name}`", default, words)
        meaning = told[field.name].replace("``", "`")
        rows.append(f"| {' | '.join((*cells, meaning))} |")
    if len(rows) > 3:
        lines += rows
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
