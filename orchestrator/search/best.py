"""Which setting is best: one total order for the live view, the report, MLflow and the tables.

A setting that has a result in more places precedes one that has it in fewer: a setting that
failed, collapsed or was pruned somewhere cannot win by what it lacks. Of settings with equally
many results the one with the larger mean comes first, a missing result counting as the worst that
any setting reached in that place; of equals, the one that the plan names first. Only victims that
took are counted; without one, no setting is best.

Where every setting meets the same several defence seeds, the choice is made on the first half
of them (in order, rounded up), and the setting is judged on the others: results of one model on
two halves of the test set share the luck of its training.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from statistics import fmean
from typing import TypeAlias

from orchestrator.search.inference import LEVEL, MeanEstimate, estimate, holm

Name: TypeAlias = Hashable  # of a setting, as `Choice.name` gives it
Place: TypeAlias = tuple[Hashable, int | None]  # a scenario, and a defence seed that is no setting


@dataclass(frozen=True, kw_only=True)
class Point:
    """A planned trial, as the choice sees it.

    Attributes:
        attack: The attack's name, by which scenarios are grouped.
        setting: Every value of the setting but the defence seed.
        value: The objective on the selection half, so that more is better; None where the
            trial has no result that may compete: it is not done, or its model collapsed.
        took: Whether the victim is one; None where there is none.
    """

    scenario: Hashable
    attack: str
    setting: Hashable
    defence_seed: int
    value: float | None
    took: bool | None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A setting with its results on the defence seeds that choose.

    Attributes:
        score: The mean over all places in which any setting has a result, missing results
            counting as the worst there.
    """

    name: Name
    values: Mapping[Place, float]
    score: float

    @property
    def mean(self) -> float:
        """The mean of the results that there are."""
        return fmean(self.values.values())

    @property
    def scenarios(self) -> int:
        """In how many scenarios it has results."""
        return len({scenario for scenario, _ in self.values})


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A setting beside the best one, where both have results in the same places.

    Attributes:
        lead: By how much the best is ahead, over the scenarios.
        p: The lead's p-value, adjusted by Holm's method over all rivals; None where there is
            a single scenario and thus no test.
    """

    standing: Standing
    lead: MeanEstimate
    p: float | None

    @property
    def clear(self) -> bool:
        """Whether the best setting is clearly ahead."""
        return self.p is not None and self.p <= LEVEL and self.lead.mean > 0


class Choice:
    """Ranks the settings of a study.

    Args:
        points: Every planned trial, in the order of the results' rows.

    Attributes:
        several: Whether some setting meets several defence seeds in one scenario.
        crossed: Whether each setting meets the same several defence seeds in a scenario, so
            that some of them choose and the others judge.
    """

    def __init__(self, points: Iterable[Point]) -> None:
        self.points = tuple(points)
        seeds: dict[Hashable, dict[Hashable, set[int]]] = {}
        self._within: dict[Hashable, list[Point]] = {}
        for point in self.points:
            self._within.setdefault(point.scenario, []).append(point)
            settings = seeds.setdefault(point.scenario, {})
            settings.setdefault(point.setting, set()).add(point.defence_seed)
        found = [list(settings.values()) for settings in seeds.values()]
        self.several = any(len(set().union(*sets)) > 1 for sets in found)
        self.crossed = self.several and all(
            len(sets[0]) > 1 and all(one == sets[0] for one in sets) for sets in found
        )
        self._choosing: dict[Hashable, list[int]] = {}
        for scenario, settings in seeds.items():
            met = sorted(set().union(*settings.values()))
            self._choosing[scenario] = met[: (len(met) + 1) // 2]

    def name(self, point: Point) -> Name:
        """Return what names a point's setting: without the defence seed where that is no part."""
        whole = self.several and not self.crossed
        return (point.setting, point.defence_seed) if whole else point.setting

    def chooses(self, point: Point) -> bool:
        """Whether a point's defence seed is one of those that choose."""
        return not self.crossed or point.defence_seed in self._choosing[point.scenario]

    def judges(self, point: Point) -> bool:
        """Whether a point's defence seed is one of those that judge what was chosen."""
        return not (self.crossed and self.chooses(point))

    def seeds(self, *, choosing: bool) -> list[int]:
        """Return the defence seeds that choose, or that judge; none where that is no matter."""
        points = self.points if self.crossed else ()
        return sorted({p.defence_seed for p in points if self.chooses(p) is choosing})

    def overall(self) -> list[Standing]:
        """Return all settings that have a result on a victim that took, the best one first."""
        return self._ranked(point for point in self.points if point.took)

    def within(self, scenario: Hashable) -> list[Standing]:
        """Return the settings with a result in one scenario, whatever its victim, best first."""
        return self._ranked(self._within.get(scenario, ()))

    def _ranked(self, points: Iterable[Point]) -> list[Standing]:
        found: dict[Name, dict[Place, float]] = {}
        worst: dict[Place, float] = {}
        for point in points:
            if point.value is not None and self.chooses(point):
                place = point.scenario, point.defence_seed if self.crossed else None
                found.setdefault(self.name(point), {})[place] = point.value
                worst[place] = min(point.value, worst.get(place, point.value))
        standings = [
            Standing(
                name=name,
                values=values,
                score=fsum(values.get(place, least) for place, least in worst.items()) / len(worst),
            )
            for name, values in found.items()
        ]
        return sorted(standings, key=lambda standing: (-len(standing.values), -standing.score))

    def rivals(self, ranked: Sequence[Standing]) -> list[Rival]:
        """Return the settings with results in the same places as the first of `ranked`."""
        if not ranked:
            return []
        best, *others = ranked
        attacks = {point.scenario: point.attack for point in self.points}
        same = [other for other in others if other.values.keys() == best.values.keys()]
        leads = [_lead(best, other, attacks) for other in same]
        adjusted = iter(holm([lead.p for lead in leads if lead.p is not None]))
        return [
            Rival(standing=other, lead=lead, p=None if lead.p is None else next(adjusted))
            for other, lead in zip(same, leads, strict=True)
        ]


def margin(ranked: Sequence[Standing]) -> float | None:
    """Return the first's lead on the second, never below 0.

    None where there is no second, or it has results in fewer places.
    """
    if len(ranked) < 2 or len(ranked[1].values) < len(ranked[0].values):
        return None
    return ranked[0].score - ranked[1].score


def _lead(best: Standing, other: Standing, attacks: Mapping[Hashable, str]) -> MeanEstimate:
    gaps: dict[Hashable, list[float]] = {}
    for (scenario, seed), value in best.values.items():
        gaps.setdefault(scenario, []).append(value - other.values[scenario, seed])
    return estimate([fmean(gap) for gap in gaps.values()], [attacks[name] for name in gaps])
