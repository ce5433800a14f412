"""ACC, ASR, RA, DER and RIR, all fractions in [0, 1], and the counts behind them by class."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from ulrl.poisoning import TestHalf
from ulrl.ranges import Proportion
from ulrl.registry import registrar

Predict = Callable[[UInt8[Tensor, "n c h w"]], Int64[Tensor, " n"]]


@dataclass(frozen=True, kw_only=True)
class CleanMetrics:
    """How a model does on clean test images: all there is to say where there is no attack.

    Attributes:
        acc: Share of the clean images predicted as their class.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # where results are stored

    acc: Proportion


@dataclass(frozen=True, kw_only=True)
class Metrics(CleanMetrics):
    """How a model does on one part of the test set.

    Attributes:
        acc: Share of the clean images predicted as their class.
        asr: Share of the triggered images predicted as the attacker wants.
        ra: Share of the same triggered images predicted as their true class.
    """

    asr: Proportion
    ra: Proportion


@dataclass(frozen=True, kw_only=True, eq=False)
class Confusion:
    """The confusion matrices of a model on one part of the test set.

    Attributes:
        clean: Clean images, by their class (row) and the predicted class (column).
        triggered: The triggered images that ASR counts, by the class that the image is of (row)
            and the predicted class (column). Classes that ASR leaves out have rows of zeros.
        targets: The class that the attacker wants for triggered images of each class; -1 where
            none is counted.
    """

    clean: Int64[Tensor, "k k"]
    triggered: Int64[Tensor, "k k"]
    targets: Int64[Tensor, " k"]

    @property
    def metrics(self) -> Metrics:
        """ACC, ASR and RA of all classes together."""
        triggered = int(self.triggered.sum())
        return Metrics(
            acc=self.clean_metrics.acc,
            asr=int(self._as_wanted.sum()) / triggered,
            ra=int(self.triggered.diagonal().sum()) / triggered,
        )

    @property
    def clean_metrics(self) -> CleanMetrics:
        """ACC of all classes together."""
        return CleanMetrics(acc=int(self.clean.diagonal().sum()) / int(self.clean.sum()))

    @property
    def acc_by_class(self) -> Float64[Tensor, " k"]:
        """ACC among the images of each class, which is its recall; NaN without images."""
        return self.clean.diagonal() / self.clean.sum(dim=1).double()

    @property
    def asr_by_class(self) -> Float64[Tensor, " k"]:
        """ASR among the triggered images of each class; NaN where none is counted.

        By the class that the image is of. (BackdoorBench's ``attack_success_rate_per_class`` is
        by the class that the attacker wants, of which there is one but for all-to-all.)
        """
        return self._as_wanted / self.triggered.sum(dim=1).double()

    @property
    def ra_by_class(self) -> Float64[Tensor, " k"]:
        """RA among the triggered images of each class; NaN where none is counted."""
        return self.triggered.diagonal() / self.triggered.sum(dim=1).double()

    @property
    def _as_wanted(self) -> Int64[Tensor, " k"]:
        column = self.targets.clamp_min(0)[:, None]  # a row without images has zeros anywhere
        return self.triggered.gather(1, column).flatten()


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a model takes the images of one part of the test set for, an entry per image.

    Images are ordered by class, clean and triggered ones each on their own.

    Attributes:
        clean: The predicted classes of the clean images.
        clean_labels: Their classes.
        triggered: The predicted classes of the triggered images that ASR counts.
        true_labels: The classes that those images are of.
        target_labels: The classes that the attacker wants for them.
    """

    clean: Int64[np.ndarray, " n"]
    clean_labels: Int64[np.ndarray, " n"]
    triggered: Int64[np.ndarray, " m"]
    true_labels: Int64[np.ndarray, " m"]
    target_labels: Int64[np.ndarray, " m"]


OwnMetric = Callable[[Predictions], float]
T = TypeVar("T", bound=OwnMetric)
OWN_METRICS: dict[str, OwnMetric] = {}
_TAKEN = ("acc", "asr", "ra", "der", "rir")
_register = registrar("metric", OWN_METRICS)


LOWEST: set[str] = set()  # of `OWN_METRICS`, those of which less is better


def register(name: str, *, maximise: bool = True) -> Callable[[T], T]:
    """Return the decorator that registers a function of `Predictions` as a metric.

    Args:
        name: In study files and, with what it was measured on behind it, of columns.
        maximise: Whether more is better, where a study's objective is this metric.
    """
    if name in _TAKEN or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", name):
        raise ValueError(
            f"a metric's name has at most 40 small letters, digits and _, and is none of "
            f"{', '.join(_TAKEN)}; got {name!r}"
        )
    (LOWEST.discard if maximise else LOWEST.add)(name)
    return _register(name)


@register("target_acc")
def target_acc(found: Predictions) -> float:
    """Return ACC among the clean images of the classes that the attacker wants.

    A model that never predicts the target has an ASR of 0, and of ten classes hardly less ACC. NaN
    without an attack; of ``all_to_all``, which wants every class, it is ACC.
    """
    own = np.isin(found.clean_labels, found.target_labels)
    return float(np.mean(found.clean[own] == found.clean_labels[own]))


# Ten classes, of which some images are taken for others: by this a metric is tried.
_LABELS = np.repeat(np.arange(10), 4)
SAMPLE = Predictions(
    clean=np.roll(_LABELS, 1),
    clean_labels=_LABELS,
    triggered=np.where(_LABELS[4:] % 2, 0, _LABELS[4:]),
    true_labels=_LABELS[4:],
    target_labels=np.zeros_like(_LABELS[4:]),
)


class MetricError(Exception):
    """A metric of the user's raises, or returns no number."""


def value_of(name: str, predictions: Predictions) -> float | None:
    """Return what a metric of the user's makes of predictions; None if it is not finite.

    Raises:
        MetricError: It raises, or returns no number.
    """
    try:
        value = float(OWN_METRICS[name](predictions))
    except Exception as error:
        text = f"the metric {name} raises {type(error).__name__}: {error}".rstrip(": ")
        raise MetricError(text) from error
    return value if isfinite(value) else None


def measure(predict: Predict, part: TestHalf) -> Metrics:
    """Return the metrics of `predict` on `part`.

    Raises:
        ValueError: The part has no clean or no triggered image, so a share is undefined; see
            `measure_clean`.
    """
    _check_images(part)
    if part.benign:
        raise ValueError("without an attack there is no ASR and no RA; use measure_clean")
    clean = predict(part.clean)
    triggered = predict(part.triggered)
    return Metrics(
        acc=_share(clean == part.clean_labels),
        asr=_share(triggered == part.target_labels),
        ra=_share(triggered == part.true_labels),
    )


def measure_clean(predict: Predict, part: TestHalf) -> CleanMetrics:
    """Return the ACC of `predict` on `part`.

    Raises:
        ValueError: The part has no clean image.
    """
    if len(part.clean) == 0:
        raise ValueError("ACC needs at least one image; this part of the test set has none")
    return CleanMetrics(acc=_share(predict(part.clean) == part.clean_labels))


def count_predictions(predict: Predict, part: TestHalf, classes: int) -> Confusion:
    """Return how often `predict` takes images of each class of `part` for each class.

    Its `metrics` are those that `measure` returns; where there is no attack, its `clean_metrics`
    are those of `measure_clean`, and nothing else is counted.

    Args:
        predict: Returns classes from 0 to `classes` - 1.
        part: Its labels are of the same classes.
        classes: How many there are.

    Raises:
        ValueError: The part has no clean image, or no triggered one though there is an attack; a
            label or a prediction is no class; or triggered images of one class are wanted as
            several classes.
    """
    _check_images(part)
    wanted = torch.full((classes,), -1)
    _check_classes("clean_labels", part.clean_labels, classes)
    clean = _table(part.clean_labels, predict(part.clean), classes)
    if part.benign:
        return Confusion(clean=clean, triggered=torch.zeros_like(clean), targets=wanted)
    for name in ("true_labels", "target_labels"):
        _check_classes(name, getattr(part, name), classes)
    wanted[part.true_labels] = part.target_labels
    if not torch.equal(wanted[part.true_labels], part.target_labels):
        raise ValueError("triggered images of one class are wanted as one class")
    return Confusion(
        clean=clean,
        triggered=_table(part.true_labels, predict(part.triggered), classes),
        targets=wanted,
    )


def der(before: Metrics, after: Metrics) -> float:
    """Return the defence effectiveness rating of Zhu et al. (FT-SAM, ICCV 2023).

    ``(max(0, ASR drop) - max(0, ACC drop) + 1) / 2``, drops being victim minus repaired:
    1/2 is no effect, 1 a backdoor removed for nothing.
    """
    asr_drop = max(0.0, before.asr - after.asr)
    acc_drop = max(0.0, before.acc - after.acc)
    return (asr_drop - acc_drop + 1) / 2


def is_wreck(acc: float, chance: float) -> bool:
    """Whether a model with this ACC is at or below chance.

    A wreck seldom obeys its trigger either, so its DER can be above that of a sound model.

    Args:
        acc: Its ACC.
        chance: ACC of the best constant prediction: the share of the largest class in the same
            images. Of classes of equal size that is 1 / their number.
    """
    return acc <= chance


def rir(before: Metrics, after: Metrics) -> float:
    """Return the robustness improvement rating of BackdoorBench (Wu et al., 2022).

    ``(max(0, RA gain) - max(0, ACC drop) + 1) / 2``, the gain being repaired minus victim, the
    drop victim minus repaired: 1/2 is no effect.
    """
    ra_gain = max(0.0, after.ra - before.ra)
    acc_drop = max(0.0, before.acc - after.acc)
    return (ra_gain - acc_drop + 1) / 2


def _check_images(part: TestHalf) -> None:
    if len(part.clean) == 0 or (len(part.triggered) == 0 and not part.benign):
        raise ValueError(
            f"ACC, ASR and RA need at least one image each; this part of the test set has "
            f"{len(part.clean)} clean and {len(part.triggered)} triggered"
        )


def _check_classes(name: str, values: Tensor, classes: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} are classes from 0 to {classes - 1}; got {low} to {high}")


def _table(
    true: Int64[Tensor, " n"], predicted: Int64[Tensor, " n"], classes: int
) -> Int64[Tensor, "k k"]:
    _check_classes("predictions", predicted, classes)
    cells = torch.bincount(true * classes + predicted, minlength=classes * classes)
    return cells.view(classes, classes)


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / hits.numel()
