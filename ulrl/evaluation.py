"""Stage 5 of 5: measure a model on both halves of the test set."""

from dataclasses import dataclass

import torch

from ulrl.metrics import CleanMetrics, Confusion, Metrics, count_predictions
from ulrl.models import Weights, restore
from ulrl.poisoning import TestSets

VERSION = 2  # 2: outputs that are not finite are refused; of earlier results some are not sound


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics on the two halves; where there is no attack, of clean images alone.

    Attributes:
        selection: What pruning, objectives and choices of a setting may look at.
        report: What nothing was chosen by.
    """

    selection: Metrics | CleanMetrics
    report: Metrics | CleanMetrics


@dataclass(frozen=True, kw_only=True, eq=False)
class CountedEvaluation(Evaluation):
    """An evaluation with the counts that its metrics follow from.

    Attributes:
        selection_confusion: Predictions on the selection half by class.
        report_confusion: Predictions on the report half by class.
    """

    selection_confusion: Confusion
    report_confusion: Confusion


def evaluate(model: Weights, tests: TestSets, device: torch.device) -> CountedEvaluation:
    """Return ACC, ASR and RA of `model` on both halves, in all and by class; see `Evaluation`.

    Raises:
        DivergedError: Outputs of the model are not finite.
    """
    predict = restore(model, device).predict
    selection, report = (
        count_predictions(predict, half, model.model_spec.classes)
        for half in (tests.selection, tests.report)
    )
    benign = tests.selection.benign
    return CountedEvaluation(
        selection=selection.clean_metrics if benign else selection.metrics,
        report=report.clean_metrics if benign else report.metrics,
        selection_confusion=selection,
        report_confusion=report,
    )
