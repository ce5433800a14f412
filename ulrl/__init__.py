"""ULRL: repairing backdoored neural networks with a few clean samples.

Unlearn to expose suspicious neurons, reinitialise and relearn with a cosine penalty
(Min, Pham, Sun: arXiv:2405.14781). The names below are the library; each module's docstring
says more.

- A network of your own: `repair` runs ULRL on it and returns a `Repair`, or another method of
  `METHODS`, which returns a `MethodRepair`; `Preprocessing` says
  how its images are normalised and augmented; `Preset` names complete sets of hyper-parameters
  and `hyperparameters.names` lists them. `DivergedError` says that training left the finite
  numbers.
- Is it backdoored: `audit` runs one of `AUDITS` on a network and returns an `AuditResult`.
- Victims: `Poison` is an attack of `ATTACKS` with its options, `train_victim` trains a network of
  `ARCHITECTURES` on images of `DATASETS` that it has poisoned.
- Measuring: `make_test_sets` triggers test images. `evaluate` gives the `Metrics` of both halves
  and the `Confusion` matrices that they follow from, which have ACC and ASR by class. `measure`
  and `count_predictions` give those of one part. `der` rates a repair. For triggered images of your
  own fill a `TestHalf`, and give `measure` the `predictor` of a network.
"""

from ulrl.attacks import ATTACKS
from ulrl.auditing import audit
from ulrl.audits import AUDITS, AuditResult
from ulrl.datasets import DATASETS, Preprocessing
from ulrl.defence import MethodRepair, Repair, predictor, repair
from ulrl.errors import DivergedError
from ulrl.evaluation import CountedEvaluation, Evaluation, evaluate
from ulrl.hyperparameters import Preset
from ulrl.methods import METHODS
from ulrl.metrics import Confusion, Metrics, count_predictions, der, measure
from ulrl.models import ARCHITECTURES
from ulrl.poison import Poison
from ulrl.poisoning import TestHalf, make_test_sets
from ulrl.victim import train_victim

__all__ = [
    "ARCHITECTURES",
    "ATTACKS",
    "AUDITS",
    "DATASETS",
    "METHODS",
    "AuditResult",
    "Confusion",
    "CountedEvaluation",
    "DivergedError",
    "Evaluation",
    "MethodRepair",
    "Metrics",
    "Poison",
    "Preprocessing",
    "Preset",
    "Repair",
    "TestHalf",
    "audit",
    "count_predictions",
    "der",
    "evaluate",
    "make_test_sets",
    "measure",
    "predictor",
    "repair",
    "train_victim",
]
