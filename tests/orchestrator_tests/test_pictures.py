"""Pictures of triggers: drawn by the run, listed, shown on the page."""

import base64
import csv
import re
from pathlib import Path

import pytest

from orchestrator.errors import SpecError
from orchestrator.executor.inline import run_inline
from orchestrator.plan.jobs import Site
from orchestrator.reporting.build import write_report
from orchestrator.scheduler.trigger_pictures import TriggerPictures
from orchestrator.store.lookup import VictimResult
from orchestrator.terminal import Interrupts
from tests.orchestrator_tests.simulation import Desk
from tests.orchestrator_tests.small_studies import small_study


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A study of two attacks and two seeds that ran inline."""
    path = tmp_path_factory.mktemp("pictures")
    study = small_study(grid={"seeds": (0, 1)}, store=str(path / "store"))
    made = Desk(study, path)
    made.scheduler.open()
    run_inline(made.scheduler, Site(store=study.store, study="pictures"), Interrupts())
    return made


def findings_of(desk: Desk) -> list[VictimResult]:
    found = [desk.findings.victim(scenario) for scenario in desk.plan.scenarios]
    assert all(found)
    return [finding for finding in found if finding]


def drawn(desk: Desk, folder: Path) -> TriggerPictures:
    pictures = TriggerPictures(desk.plan, folder)
    for scenario, finding in zip(desk.plan.scenarios, findings_of(desk), strict=True):
        pictures.victim(scenario, finding)
    pictures.write()
    return pictures


def listed(folder: Path) -> list[dict[str, str]]:
    with (folder / "figures/triggers.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_scenario_has_a_picture_and_a_row(desk: Desk, tmp_path: Path) -> None:
    pictures = drawn(desk, tmp_path)
    rows = listed(tmp_path)
    assert [(row["attack"], row["seed"]) for row in rows] == [
        (scenario.columns["attack"], str(scenario.seed)) for scenario in desk.plan.scenarios
    ]
    for row, scenario in zip(rows, desk.plan.scenarios, strict=True):
        path = tmp_path / "figures" / row["file"]
        assert path.read_bytes().startswith(b"\x89PNG")
        assert pictures.of(scenario) == path
        assert 5 < float(row["psnr"]) < 60
    assert len({row["file"] for row in rows}) == 4


def test_what_is_drawn_is_not_drawn_again_and_what_is_gone_is_removed(
    desk: Desk, tmp_path: Path
) -> None:
    drawn(desk, tmp_path)
    figures = tmp_path / "figures"
    first = {file.name: file.read_bytes() for file in figures.iterdir()}
    kept = figures / listed(tmp_path)[0]["file"]
    kept.write_bytes(b"left alone")
    (figures / "triggers-of-old.png").write_bytes(b"of a scenario that is no more")
    drawn(desk, tmp_path)
    second = {file.name: file.read_bytes() for file in figures.iterdir()}
    assert second == first | {kept.name: b"left alone"}
    kept.unlink()
    drawn(desk, tmp_path)
    assert {file.name: file.read_bytes() for file in figures.iterdir()} == first


def test_the_page_shows_one_picture_of_each_family(desk: Desk, tmp_path: Path) -> None:
    drawn(desk, tmp_path)
    desk.results.write(tmp_path, {})
    html = write_report(tmp_path).read_text(encoding="utf-8")
    section = html.partition('<section id="triggers">')[2].partition("</section>")[0]
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', section)
    rows = [row for row in listed(tmp_path) if row["seed"] == "0"]
    assert [base64.b64decode(one) for one in shown] == [
        (tmp_path / "figures" / row["file"]).read_bytes() for row in rows
    ]
    assert [title.split("(")[0] for title in re.findall("<h3>(.*?)</h3>", section)] == [
        "badnets",
        "blended",
    ]
    assert f"PSNR {rows[0]['psnr']} dB" in section
    assert "img-src data:" in html


def test_a_picture_that_is_gone_is_said(desk: Desk, tmp_path: Path) -> None:
    drawn(desk, tmp_path)
    desk.results.write(tmp_path, {})
    gone = tmp_path / "figures" / listed(tmp_path)[0]["file"]
    gone.unlink()
    with pytest.raises(SpecError, match=f"{re.escape(gone.name)}: cannot be read"):
        write_report(tmp_path)
