"""Several defence seeds: some of them choose, the others judge."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.reporting.build import write_report
from orchestrator.reporting.read_folder import read_results
from orchestrator.reporting.summary import summarise
from tests.orchestrator_tests.report_folders import Row, make_rows, reach, write_study

SCENARIO = ["attack", "seed"]
SETTING = ["unlearn_threshold", "reinit_ratio"]
CHOOSE, JUDGE = (11, 12), (13, 14)


def rows_of(seeds: tuple[int, ...] = (*CHOOSE, *JUDGE)) -> list[Row]:
    """Return a grid in which every setting meets every defence seed, with results of its own."""
    rows = []
    for number, row in enumerate(make_rows(seeds=(0, 1), further={"draw": seeds})):
        row["defence_seed"] = row.pop("draw")
        for half, shift in (("selection", 0), ("report", 3)):
            reach(row, 0.55 + 0.4 * ((7 * number + shift) % 31) / 31, half)
        rows.append(row)
    return rows


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), rows_of())
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def frame(study: Path) -> pd.DataFrame:
    return pd.read_csv(study / "results.csv")


def test_the_best_for_all_is_chosen_by_the_first_half_of_them(
    study: Path, frame: pd.DataFrame
) -> None:
    chosen = frame[frame["defence_seed"].isin(CHOOSE)]
    best: Any = chosen.groupby(SETTING)["der_selection"].mean().idxmax()
    summary = summarise(read_results(study / "results.csv"), "der")
    assert summary.common == tuple(zip(SETTING, map(str, best), strict=True))
    judged = frame[frame["defence_seed"].isin(JUDGE)].set_index(SETTING).loc[best]
    for outcome in summary.outcomes:
        own = judged[
            (judged["attack"] == outcome.scenario.family.attack)
            & (judged["seed"] == int(outcome.scenario.seed))
        ]
        assert outcome.common is not None
        assert outcome.common.numbers["der_report"] == pytest.approx(own["der_report"].mean())
    assert len(summary.rivals) == 8, "a setting is one, whatever its defence seed"


def test_a_scenarios_own_best_too(study: Path, frame: pd.DataFrame) -> None:
    shown = pd.read_csv(study / "figures" / "before-after.csv")
    chosen = frame[frame["defence_seed"].isin(CHOOSE)]
    means = chosen.groupby([*SCENARIO, *SETTING])["der_selection"].mean()
    for _, group in means.groupby(level=SCENARIO):
        found: Any = group.idxmax()
        attack, seed, *best = found
        own = shown[(shown["attack"] == attack) & (shown["seed"] == seed)]
        assert sorted(own["defence_seed"]) == list(JUDGE)
        assert own[SETTING].drop_duplicates().to_numpy().tolist() == [best]
    both = pd.read_csv(study / "figures" / "selection-report.csv")
    assert sorted(both["defence_seed"].unique()) == [*CHOOSE, *JUDGE]


def test_the_page_says_who_chose_and_who_judges(study: Path) -> None:
    html = (study / "report.html").read_text(encoding="utf-8")
    sentence = (
        "Settings were chosen with defence seeds 11 and 12 and are judged with 13 and 14: on other "
        "clean samples and re-initialisations."
    )
    assert sentence in html
    assert "takes away the luck of the test images and nothing else" not in html
    table = (study / "table.md").read_text(encoding="utf-8")
    assert sentence in table
    assert "| unlearn\\_threshold, reinit\\_ratio |".replace("\\", "") in table.splitlines()[0]
    subtitle = "9 settings of unlearn_threshold and reinit_ratio, compared on 6 scenarios"
    assert f"{subtitle} (3 attacks × 2 seeds)" in html
    section = html[html.index('<section id="repairs">') :]
    assert "defence_seed" not in section[: section.index("</section>")]
