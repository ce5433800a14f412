"""Stage 5 of 5: measure a model on both halves of the test set."""

from dataclasses import dataclass

import torch

from ulrl.metrics import Metrics, measure
from ulrl.models import Weights, restore
from ulrl.poisoning import TestSets

VERSION = 2  # 2: outputs that are not finite are refused; of earlier results some are not sound


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics on the two halves.

    Attributes:
        selection: What pruning, objectives and choices of a setting may look at.
        report: What nothing was chosen by.
    """

    selection: Metrics
    report: Metrics


def evaluate(model: Weights, tests: TestSets, device: torch.device) -> Evaluation:
    """Return ACC, ASR and RA of `model` on the selection and on the report half.

    Raises:
        DivergedError: Outputs of the model are not finite.
    """
    predict = restore(model, device).predict
    return Evaluation(
        selection=measure(predict, tests.selection), report=measure(predict, tests.report)
    )
