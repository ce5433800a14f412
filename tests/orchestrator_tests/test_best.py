"""The one rule for the best setting: its properties, and each case by hand."""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from orchestrator.search.best import Choice, Point, Standing, margin
from orchestrator.search.inference import holm

Table = Mapping[str, Sequence[float | None]]  # a value per scenario, by setting
LETTERS = "ABCDE"
tables = st.integers(1, 5).flatmap(
    lambda scenarios: st.dictionaries(
        st.sampled_from(LETTERS),
        st.lists(
            st.one_of(st.none(), st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])),
            min_size=scenarios,
            max_size=scenarios,
        ),
        min_size=1,
    )
)


def choice_of(table: Table, weak: Sequence[int] = (), attacks: Sequence[str] = ()) -> Choice:
    """Return the choice among settings with one defence seed."""
    scenarios = range(len(next(iter(table.values()))))
    return Choice(
        Point(
            scenario=scenario,
            attack=attacks[scenario] if attacks else str(scenario),
            setting=setting,
            defence_seed=scenario,
            value=table[setting][scenario],
            took=scenario not in weak,
        )
        for scenario in scenarios
        for setting in table
    )


def order(table: Table) -> list[object]:
    return [standing.name for standing in choice_of(table).overall()]


def test_the_largest_mean_wins_and_of_equals_the_plans_first() -> None:
    assert order({"A": [0.5, 0.5], "B": [0.9, 0.2], "C": [0.2, 0.9]}) == ["B", "C", "A"]


def test_what_a_setting_lacks_does_not_help_it() -> None:
    """Of the easy scenario alone A would have 0.9, and B 0.5 of the hard one alone."""
    assert order({"A": [0.9, None], "B": [0.85, 0.5]})[0] == "B"
    assert order({"A": [0.9, None, 0.7], "B": [None, 0.5, 0.7], "C": [0.8, 0.5, None]}) == [
        *("A", "C", "B"),
    ]


def test_weak_victims_do_not_count_and_without_a_sound_one_nothing_is_best() -> None:
    table = {"A": [0.9, 0.1], "B": [0.1, 0.2]}
    assert choice_of(table, weak=[0]).overall()[0].name == "B"
    assert choice_of(table, weak=[0, 1]).overall() == []
    assert choice_of(table, weak=[0, 1]).within(0)[0].name == "A", "each scenario has its own"


@given(tables)
def test_it_is_a_total_order_and_no_lead_is_negative(table: Table) -> None:
    ranked = choice_of(table).overall()
    keys = [(len(one.values), one.score) for one in ranked]
    assert keys == sorted(keys, reverse=True)
    lead = margin(ranked)
    assert lead is None or lead >= 0
    # What wins among all wins against each alone that has as many results.
    for other in ranked[1:]:
        pair = order({name: table[name] for name in table if name in (ranked[0].name, other.name)})
        if other.values.keys() == ranked[0].values.keys():
            assert pair[0] == ranked[0].name
    full = [name for name, values in table.items() if None not in values]
    if full:
        means = {name: fmean(v for v in table[name] if v is not None) for name in full}
        assert ranked[0].name == max(full, key=lambda name: means[name])


@given(tables, st.sampled_from(LETTERS), st.integers(0, 4))
def test_losing_a_result_makes_no_setting_the_best(table: Table, name: str, lost: int) -> None:
    before = order(table)
    values = [None if p == lost else v for p, v in enumerate(table.get(name, ()))]
    after = order({**table, name: values}) if name in table else before
    if before and before[0] != name and len(after) > 1:
        assert after[0] != name


def seeded(table: Mapping[str, Mapping[int, Sequence[float | None]]]) -> Choice:
    """Return the choice among settings that meet defence seeds: values per scenario."""
    points = []
    for setting, by_seed in table.items():
        for seed, values in by_seed.items():
            points += [
                Point(
                    scenario=scenario,
                    attack="a",
                    setting=setting,
                    defence_seed=seed,
                    value=value,
                    took=True,
                )
                for scenario, value in enumerate(values)
            ]
    return Choice(sorted(points, key=lambda point: str(point.scenario)))


def test_the_first_half_of_the_defence_seeds_chooses() -> None:
    choice = seeded(
        {
            "A": {11: [0.6, 0.6], 12: [0.6, 0.6], 13: [0.1, 0.1]},
            "B": {11: [0.5, 0.5], 12: [0.5, 0.5], 13: [0.9, 0.9]},
        }
    )
    assert choice.crossed
    assert (choice.seeds(choosing=True), choice.seeds(choosing=False)) == ([11, 12], [13])
    best = choice.overall()[0]
    assert (best.name, len(best.values), best.scenarios) == ("A", 4, 2)
    judged = [point for point in choice.points if choice.judges(point)]
    assert {point.defence_seed for point in judged} == {13}


def test_seeds_that_not_all_settings_meet_are_parts_of_the_settings() -> None:
    choice = seeded({"A": {11: [0.5], 12: [0.7]}, "B": {11: [0.6]}})
    assert choice.several
    assert not choice.crossed
    assert choice.overall()[0].name == ("A", 12)
    assert choice.seeds(choosing=True) == []
    assert all(choice.chooses(p) and choice.judges(p) for p in choice.points)


def leads(
    table: Table, attacks: Sequence[str] = ()
) -> dict[object, tuple[float, float | None, bool]]:
    choice = choice_of(table, attacks=attacks)
    ranked = choice.overall()
    return {
        rival.standing.name: (rival.lead.mean, rival.p, rival.clear)
        for rival in choice.rivals(ranked)
    }


def test_rivals_are_tested_in_pairs_over_attacks_with_holms_adjustment() -> None:
    random = np.random.default_rng(3)
    base = random.uniform(0.3, 0.9, 9)
    table = {
        "A": base.tolist(),
        "B": (base - 0.2 + random.normal(0, 0.005, 9)).tolist(),
        "C": (base - 0.06 + random.normal(0, 0.1, 9)).tolist(),
        "D": [*(base - 0.3).tolist()[:-1], None],
    }
    attacks = [name for name in "xyz" for _ in range(3)]
    found = leads(table, attacks)
    assert set(found) == {"B", "C"}, "D lacks a scenario"
    raw = []
    for name in ("B", "C"):
        gaps = (base - np.array(table[name], dtype=float)).reshape(3, 3).mean(axis=1)
        raw.append(float(stats.ttest_1samp(gaps, 0).pvalue))
        assert found[name][0] == pytest.approx(gaps.mean())
    assert [found[name][1] for name in ("B", "C")] == pytest.approx(holm(raw))
    assert (found["B"][2], found["C"][2]) == (True, False)


def test_the_same_results_are_no_clear_difference() -> None:
    """Thresholds that flag the same neurons share a relearning, and thus every value."""
    assert leads({"A": [0.5, 0.6, 0.7], "B": [0.5, 0.6, 0.7]})["B"] == (0.0, 1.0, False)


def test_a_lead_needs_as_many_results() -> None:
    def standing(name: str, values: Sequence[float], score: float) -> Standing:
        return Standing(name=name, values={(n, None): v for n, v in enumerate(values)}, score=score)

    first = standing("A", [0.5, 0.5], 0.5)
    assert margin([first]) is None
    assert margin([first, standing("B", [0.9], 0.6)]) is None
    assert margin([first, standing("B", [0.3, 0.5], 0.4)]) == pytest.approx(0.1)
