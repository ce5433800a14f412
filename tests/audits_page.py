"""The page of all audits and their options: ``python -m tests.audits_page``."""

from pathlib import Path

from tests.methods_page import section
from ulrl.audits import AUDITS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "audits.md"
INTRO = """\
# Audits: is a model backdoored, which class, and is it still after the repair?

A study's ASR is known to the one who holds the trigger. A defender asks an audit.

```yaml
grid:
  attack: [badnets, blended, none]     # none: benign models, against which audits are judged
  dataset: digits
  architecture: {name: preact_resnet18, width: 8}
  seed: [0, 1, 2]
audit: [nc, ulrl_scores, {name: freeeagle, steps: [500, 1000]}]
audit_models: best                     # or victim, or all
```

- `audit_models: victim` audits the victims and the benign models; `best` (the default) also each
  scenario's best repaired model of each repair method (without an attack, the one that keeps most
  of the accuracy); `all` every repaired model, which `mlflow: {log_models: all}` stores.
- Audits begin when all trials are decided. They are stages like any other: stored, resumed, and
  shared. An audit of a victim shares its search with a repair method that has the same one.
- A victim is audited by each draw of clean samples that the study has, a repaired model by the
  samples of its repair. An audit without samples has one row per model.
- `audit: none` is no audit, as without the section.
- An audit that does not apply to a network, or to a dataset's images, is refused with the study
  file. One to which it does not apply as only the run can tell is skipped: audits.csv has the
  reason. One that fails has its error there; the command then returns 1, and tries it again when
  it runs again.
- `--plan` counts audits, and their time.

`audits.csv` has a row per audit and model: the scenario, the setting that repaired the model, and

- `model`: `victim` (of `attack: none`, the benign model) or `repaired`.
- `audit`, `audit_options`: the name, and options that are not the defaults, as JSON.
- `statistic`: one number of the model; the higher, the more suspicious.
- `threshold`, `suspects`, `rule`: the classes that the audit's rule flags, and that rule. They are
  empty where no threshold is published that holds for other models than those it was set on.
- `scores`, `target_rank`: a score per class, and the place of the true target, 1 being the most
  suspect. Equal scores share the mean of their places; without one target there is no rank.
  Scores have nine significant digits, so that the rank follows from them.
- `passes`: images through the network, a forward and a backward pass of one counted as 1, a forward
  pass alone as 1/3: the 3,000 queries of an audit by queries are 1,000 passes.
- `queries`: images that an audit which sees nothing but answers has asked about.
- `seconds`: on the worker. `status`, `error`: why there is no result.
- `details`: what else the audit found, by name, as JSON; each number with four decimals. Of a map
  for each class (`bounds` of `certify`) that of the class with the highest score; nothing of more
  than 4,096 numbers. `ulrl.audit` returns all of it, as it is.

The report has the AUROC of each statistic over pairs of a victim and a benign model of the same
dataset and architecture, with its interval and both numbers of models; how often the true target is
first; flagged victims and false alarms; the same after each repair method; and how often two audits
name the same class. Each `clean_ratio` has a row of its own. In an AUROC and its interval a model
counts once there, with the median over its draws of clean samples; target first, flagged victims
and false alarms count audits, one per draw. MLflow has `audit/NAME/statistic` and
`audit/NAME/target_rank` on the model's run.

```python
result = ulrl.audit(network, "nc", images=images, labels=labels, preprocessing=preprocessing)
result.statistic, result.suspects, result.scores
```

audits any classifier that ends in a linear layer. Options follow by name (`steps=100`) or as a
mapping (`options={"steps": 100}`), as `images` of `certify` has to be, which is the name of an
argument. Adding an audit is adding a file to `ulrl/audits/`.

## Which audits tell victims from benign models?

```console
python -m orchestrator.study studies/audits.yaml
python -m benchmarks.audits_table runs/audits
```

15 victims (five attacks, three seeds) and 15 benign models, a narrow PreAct-ResNet18 on CIFAR-10 at
16 pixels, 500 clean images; commit 16ff831, two cores of an AMD EPYC
([all tables](../benchmarks/results/audits-cifar.md)). Neural Cleanse takes an eighth of its
published steps. Intervals are over models as if each were drawn by itself; three victims of one
attack are alike, so they are too narrow:

| audit | AUROC (95 %) | target first | victims flagged | false alarms | seconds |
|---|---|---|---|---|---|
| `nc`, 100 steps | 0.58 (0.38 to 0.76) | 8 of 15 | 9 of 15 | 6 of 15 | 17.6 |
| `ulrl_scores` | 0.76 (0.55 to 0.89) | 11 of 15 | 14 of 15 | 12 of 15 | 1.1 |
| `freeeagle` | 0.38 (0.21 to 0.58) | 1 of 15 | no rule | no rule | 2.7 |

| target first, by attack | badnets | blended | sig | wanet | trojannn |
|---|---|---|---|---|---|
| `nc`, 100 steps | 3 of 3 | 3 of 3 | 0 of 3 | 0 of 3 | 2 of 3 |
| `ulrl_scores` | 3 of 3 | 3 of 3 | 0 of 3 | 2 of 3 | 3 of 3 |
| `freeeagle` | 0 of 3 | 1 of 3 | 0 of 3 | 0 of 3 | 0 of 3 |

**None of the three is seen to tell these victims from benign models.** The statistic of ULRL's
phase 1 comes nearest (0.76), 0.55 to 0.89 over the victims, but with five attacks in place
of 15 victims its interval would have 0.5 in it (0.46 to 0.91). Its rule flags 26 of 30 models. No
audit finds the target of a SIG victim. `ulrl_scores` flags the row that ULRL reset in a repaired
model, so it cannot say whether that repair worked. B3D and `certify` are for smaller models: on
digits `certify` alone tells victims from benign models
([audits-digits.md](../benchmarks/results/audits-digits.md)).

This page is made from the code by `python -m tests.audits_page`; a test keeps it fresh.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([INTRO, *(section(name, audit) for name, audit in sorted(AUDITS.items()))])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
