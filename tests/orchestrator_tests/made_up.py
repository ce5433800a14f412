"""Results that nobody trained for: numbers that depend on names alone."""

import hashlib

from orchestrator.plan.plan import Trial


def suspects_of(seed: int, threshold: float) -> list[int]:
    """Return the flagged rows: every other scenario's depend on the threshold."""
    return [seed % 3, 5] if seed % 2 and threshold > 0.3 else [seed % 3]


def quality_of(trial: Trial, key: str) -> float:
    """Return how well a trial repairs: the worse, the more of anything; a little by chance."""
    parts = trial.hyperparameters
    best = min(0.9, 1.2 - parts.relearn.alpha) - 2 * parts.clean.clean_ratio
    return max(0.0, best - 0.1 * chance(f"{key}value"))


def chance(text: str) -> float:
    """Return a number in [0, 1) that depends on a text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little") / 2**32


def metrics(acc: float, asr: float) -> dict[str, float]:
    return {"acc": acc, "asr": asr, "ra": (1 - asr) * acc}
