"""ACC, ASR, RA, DER and RIR, all fractions in [0, 1]."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Int64, UInt8
from torch import Tensor

from ulrl.poisoning import TestHalf
from ulrl.ranges import Proportion

Predict = Callable[[UInt8[Tensor, "n c h w"]], Int64[Tensor, " n"]]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How a model does on one part of the test set.

    Attributes:
        acc: Share of the clean images predicted as their class.
        asr: Share of the triggered images predicted as the attacker wants.
        ra: Share of the same triggered images predicted as their true class.
    """

    acc: Proportion
    asr: Proportion
    ra: Proportion


def measure(predict: Predict, part: TestHalf) -> Metrics:
    """Return the metrics of `predict` on `part`.

    Raises:
        ValueError: The part has no clean or no triggered image, so a share is undefined.
    """
    if len(part.clean) == 0 or len(part.triggered) == 0:
        raise ValueError(
            f"ACC, ASR and RA need at least one image each; this part of the test set has "
            f"{len(part.clean)} clean and {len(part.triggered)} triggered"
        )
    clean = predict(part.clean)
    triggered = predict(part.triggered)
    return Metrics(
        acc=_share(clean == part.clean_labels),
        asr=_share(triggered == part.wanted_labels),
        ra=_share(triggered == part.true_labels),
    )


def der(before: Metrics, after: Metrics) -> float:
    """Return the defence effectiveness rating of Zhu et al. (FT-SAM, ICCV 2023).

    ``(max(0, ASR drop) - max(0, ACC drop) + 1) / 2``, drops being victim minus repaired:
    1/2 is no effect, 1 a backdoor removed for nothing.
    """
    asr_drop = max(0.0, before.asr - after.asr)
    acc_drop = max(0.0, before.acc - after.acc)
    return (asr_drop - acc_drop + 1) / 2


def is_wreck(acc: float, classes: int) -> bool:
    """Whether a model with this ACC is no better than guessing: at most 1 / `classes`.

    A wreck seldom obeys its trigger either, so its DER can be above that of a sound model.
    """
    return acc <= 1 / classes


def rir(before: Metrics, after: Metrics) -> float:
    """Return the robustness improvement rating of BackdoorBench (Wu et al., 2022).

    ``(max(0, RA gain) - max(0, ACC drop) + 1) / 2``, the gain being repaired minus victim, the
    drop victim minus repaired: 1/2 is no effect.
    """
    ra_gain = max(0.0, after.ra - before.ra)
    acc_drop = max(0.0, before.acc - after.acc)
    return (ra_gain - acc_drop + 1) / 2


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / hits.numel()
