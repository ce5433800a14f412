"""Which neurons were flagged, against the one that the attacker used."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.reporting.naming import Names, in_order
from orchestrator.reporting.results import Results, Scenario, Trial

MOST_THRESHOLDS = 12  # that are counted one by one
_BINS = 8  # of equal width, where there are more
_COLLAPSE = ("stop_epoch", "collapse_class", "collapse_share")
_ALL_TO_ALL = "all_to_all"  # every class is a target, so no row is *the* target's


@dataclass(frozen=True, kw_only=True)
class FlagCount:
    """Done trials of an attack at a threshold.

    Attributes:
        unlearn_threshold: The threshold, or a range where there are many.
        trials: How many there are.
        target: In how many of them the target's row was flagged.
        others: In how many any other row was.
        nothing: In how many no row was.
        short: In how many the ascent ended above its threshold.
    """

    attack: str
    unlearn_threshold: str
    trials: int
    target: int
    others: int
    nothing: int
    short: int


def count_flags(results: Results, names: Names) -> list[FlagCount]:
    """Return the counts by attack and threshold of trials that can flag the target's row.

    All-to-all attacks have no such row, plain fine-tuning flags none, and where all layers
    are watched the head's rows are a few among many.
    """
    bins = _bins(trial.cells["unlearn_threshold"] for trial in results.trials)
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in results.trials:
        family = trial.scenario.family
        if trial.done and _can_flag(trial):
            place = (names.attack(family), bins[trial.cells["unlearn_threshold"]])
            groups.setdefault(place, []).append(trial)
    return [_count(attack, threshold, group) for (attack, threshold), group in groups.items()]


@dataclass(frozen=True, kw_only=True)
class Missed:
    """An ascent after which the target's row was not flagged.

    Attributes:
        collapse_class: The class that it ended in: the one predicted for most clean samples.
        share: The share of the clean samples that were.
        trials: How many done trials rest on it.
    """

    scenario: Scenario
    stop_epoch: str
    collapse_class: str
    share: float
    trials: int

    def text(self, names: Names) -> str:
        """Return a sentence on it."""
        target = self.scenario.family.target_label
        return (
            f"{names.scenario(self.scenario)}: phase 1 ended, after epoch {self.stop_epoch}, in "
            f"class {self.collapse_class} ({100 * self.share:.0f}\u00a0% of predictions); the "
            f"target is {target}"
        )


def missed(results: Results) -> list[Missed]:
    """Return the ascents that did not flag the target's row, in plan order.

    Older results do not say what an ascent ended in; there are none of those.
    """
    groups = Counter(
        (trial.scenario, tuple(trial.cells[name] for name in _COLLAPSE))
        for trial in results.trials
        if trial.done
        and _can_flag(trial)
        and trial.cells.get("collapse_class")
        and _target(trial) not in (trial.flagged or ())
    )
    return [
        Missed(
            scenario=scenario,
            stop_epoch=epoch,
            collapse_class=label,
            share=float(share),
            trials=count,
        )
        for (scenario, (epoch, label, share)), count in groups.items()
    ]


def _target(trial: Trial) -> int:
    return int(float(trial.scenario.family.target_label))


def _bins(thresholds: Iterable[str]) -> dict[str, str]:
    """Return where each threshold is counted: by itself, or if there are many among others.

    The last bin takes its upper end too.
    """
    values = in_order(thresholds)
    if len(values) <= MOST_THRESHOLDS:
        return {value: value for value in values}
    low, high = float(values[0]), float(values[-1])
    width = (high - low) / _BINS
    ends = [f"{low + width * number:.3g}" for number in range(_BINS + 1)]
    places = {value: min(_BINS - 1, int((float(value) - low) / width)) for value in values}
    return {value: f"{ends[place]}–{ends[place + 1]}" for value, place in places.items()}


def _can_flag(trial: Trial) -> bool:
    options = json.loads(trial.scenario.family.attack_options)
    cells = trial.cells
    return (
        options.get("labels") != _ALL_TO_ALL
        and cells.get("preset") != "fine_tuning"
        and cells.get("max_suspects") != "0"
        and cells.get("layers") != "all"
    )


def _count(attack: str, threshold: str, trials: Sequence[Trial]) -> FlagCount:
    flags = [(trial.flagged or frozenset(), _target(trial)) for trial in trials]
    return FlagCount(
        attack=attack,
        unlearn_threshold=threshold,
        trials=len(trials),
        target=sum(target in rows for rows, target in flags),
        others=sum(bool(rows - {target}) for rows, target in flags),
        nothing=sum(not rows for rows, _ in flags),
        short=sum(trial.cells["threshold_reached"] == "False" for trial in trials),
    )
