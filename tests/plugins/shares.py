"""Metrics of a user's own, in a file outside the package."""

import numpy as np

from ulrl.metrics import Predictions, register


@register("own_acc")
def own_acc(found: Predictions) -> float:
    return float((found.clean == found.clean_labels).mean())


@register("own_asr")
def own_asr(found: Predictions) -> float:
    return float((found.triggered == found.target_labels).mean())


@register("own_ra")
def own_ra(found: Predictions) -> float:
    return float((found.triggered == found.true_labels).mean())


@register("own_miss", maximise=False)
def own_miss(found: Predictions) -> float:
    return 1 - own_acc(found)


@register("worst_class")
def worst_class(found: Predictions) -> float:
    """Return the recall of the class with the lowest one."""
    labels = found.clean_labels
    return min(float((found.clean[labels == label] == label).mean()) for label in np.unique(labels))
