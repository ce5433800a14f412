"""A study in MLflow's own pages, served as the docs say, with a person's eyes and hands."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import BrowserContext, Page

from tests.browser import chromium
from tests.servers import free_port, tracking_server, wait_for
from tests.system_tests.commands import SMALL, Command

SECONDS = 120_000  # milliseconds: a page of MLflow is megabytes of script
NOT_OURS = (
    "users/current",  # asked for wherever there are no users
    "ResizeObserver loop",
    "Failed to load resource",  # named by its address where it matters
)


@dataclass(frozen=True)
class Site:
    """A server with the small study, and what the study folder says."""

    address: str
    experiment: str
    runs: list[Run]
    results: pd.DataFrame
    printed: str

    def page(self, path: str = "") -> str:
        return f"{self.address}/#/experiments/{self.experiment}/{path}"

    def of(self, kind: str) -> list[Run]:
        return [run for run in self.runs if run.data.tags["kind"] == kind]

    @property
    def best(self) -> Run:
        """A trial with a model."""
        return next(run for run in self.of("trial") if run.data.tags["best"] == "True")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """A part of the small study, with models."""
    changes = ("grid.seed=0", "grid.relearn_lr=0.01", "prune=none", "mlflow.log_models=best")
    with Command(tmp_path_factory.mktemp("study")) as command:
        command.write(SMALL)
        command.run("grid.yaml", "--inline", *(word for one in changes for word in ("--set", one)))
        yield command


@pytest.fixture(scope="module")
def site(study: Command, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("server")
    database = f"sqlite:///{study.folder}/runs/mlflow.db"
    settings = {
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": str(study.folder / "runs/mlartifacts"),
    }
    with tracking_server(folder, free_port(), **settings) as address:
        wait_for(f"{address}/health")
        client = MlflowClient(address)
        experiment = client.get_experiment_by_name("small")
        assert experiment is not None
        runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
        results, printed = study.results(), study.printed
        yield Site(address, experiment.experiment_id, runs, results, printed)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrowserContext]:
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        context.set_default_timeout(SECONDS)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Return a page that must end without an error of its own."""
    said: list[str] = []
    page = context.new_page()
    page.on("console", lambda told: said.append(told.text) if told.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("response", lambda r: said.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    yield page
    page.close()
    assert [text for text in said if not any(known in text for known in NOT_OURS)] == []


def wait_for_runs(page: Page, *counts: int) -> None:
    """Return once a list says that it has as many runs as one of `counts`."""
    said = "|".join(str(count) for count in counts)
    page.get_by_text(re.compile(rf"^\s*({said})\s+matching runs?")).last.wait_for()


def test_a_person_finds_the_study(site: Site, page: Page) -> None:
    page.goto(site.address)
    page.get_by_text("small", exact=True).first.click()
    page.goto(site.page("runs"))
    wait_for_runs(page, len(site.runs))


CELLS = """() => {
    const rows = {};
    for (const cell of document.querySelectorAll('.ag-row [col-id]')) {
        const number = cell.closest('.ag-row').getAttribute('row-index');
        const name = cell.getAttribute('col-id').replace(/^.*`(.*)`$/, '$1');
        (rows[number] = rows[number] || {})[name] = cell.innerText.split('\\n').pop();
    }
    return Object.entries(rows).sort(([a], [b]) => a - b).map(([, row]) => row);
}"""  # in two halves of the page: the names do not scroll


def best_rows(results: pd.DataFrame) -> pd.DataFrame:
    """Return each scenario's first trial of the largest ACC on the selection half."""
    done = results[results.status == "done"]
    best = done.groupby("attack", sort=False).acc_after_selection.idxmax()  # there is one seed
    return done.loc[best]


def test_the_printed_link_shows_scenarios_before_and_after(site: Site, page: Page) -> None:
    """Without a click: a row per scenario with its best setting, the largest DER first."""
    (link,) = re.findall(r"http://127.0.0.1:5000(/#/experiments/\S+)", site.printed)
    page.set_viewport_size({"width": 2200, "height": 900})  # what is out of sight is not there
    page.goto(site.address + link)
    wanted = best_rows(site.results).sort_values("der_report", ascending=False, kind="stable")
    wait_for_runs(page, len(wanted))
    page.get_by_text("best_setting").first.wait_for()
    shown = page.evaluate(CELLS)
    assert [float(row["der_report"]) for row in shown] == pytest.approx(list(wanted.der_report))
    by_name = {row["Run Name"]: row for row in shown}
    for _, row in wanted.iterrows():
        (cells,) = [cells for name, cells in by_name.items() if name.startswith(row.attack)]
        for metric in ("acc", "asr", "ra"):
            for when in ("before", "after"):
                column = f"{metric}_{when}_report"
                assert float(cells[column]) == pytest.approx(row[column])
        for axis in ("unlearn_threshold", "reinit_ratio"):
            assert f"{axis}={row[axis]}" in cells["best_setting"]


def test_charts_of_the_settings_are_one_click_away(site: Site, page: Page) -> None:
    (link,) = re.findall(r"http://127.0.0.1:5000(/#/experiments/\S+)", site.printed)
    page.goto(site.address + link)
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Charts of the settings").click()
    charts = opened.value
    charts.set_viewport_size({"width": 1600, "height": 1600})  # what is out of sight is not there
    charts.get_by_text("Parallel Coordinates").first.wait_for()
    charts.get_by_text("unlearn_threshold vs. reinit_ratio vs. der_report").first.wait_for()
    charts.locator(".js-plotly-plot").first.wait_for()
    charts.close()


def test_the_list_can_be_filtered_by_attack(site: Site, page: Page) -> None:
    page.goto(site.page("runs?searchFilter=tags.attack%20%3D%20%27blended%27"))
    blended = sum(run.data.tags.get("attack") == "blended" for run in site.runs)
    assert 0 < blended < len(site.runs) - 1
    wait_for_runs(page, blended, blended + 1)  # MLflow may count the parent of what it found


def test_a_trial_shows_its_numbers_and_curves(site: Site, page: Page) -> None:
    run = site.best
    row = site.results.set_index("mlflow_run_id").loc[run.info.run_id]
    page.goto(site.page(f"runs/{run.info.run_id}"))
    page.get_by_text("der_report").first.wait_for()
    text = page.inner_text("body")
    assert str(row.der_report) in text
    assert "unlearn_threshold" in text
    page.goto(site.page(f"runs/{run.info.run_id}/model-metrics"))
    page.get_by_text("relearn/asr").first.wait_for(state="attached")
    page.get_by_text("unlearn", exact=True).first.wait_for(state="attached")
    page.locator(".js-plotly-plot").first.wait_for(state="attached")


def test_the_report_opens_from_the_study(site: Site, page: Page) -> None:
    (study,) = site.of("study")
    page.goto(site.page(f"runs/{study.info.run_id}/artifacts/report.html"))
    page.get_by_text("report.html").first.wait_for()
    frame = page.frame_locator("iframe").first
    frame.locator("svg").first.wait_for(state="attached")
    assert "small" in frame.locator("h1").first.inner_text()


def test_the_model_and_the_files_can_be_downloaded(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", site.address)
    client = MlflowClient(site.address)
    outputs = client.get_run(site.best.info.run_id).outputs
    assert outputs is not None
    (output,) = outputs.model_outputs
    uri = f"models:/{output.model_id}"
    folder = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(tmp_path)))
    assert {"MLmodel", "requirements.txt", "data"} <= {path.name for path in folder.iterdir()}
    (study,) = site.of("study")
    listed = {file.path for file in client.list_artifacts(study.info.run_id)}
    assert {"report.html", "results.csv", "stages.csv", "study.yaml", "figures", "logs"} <= listed
    logs = {file.path for file in client.list_artifacts(study.info.run_id, "logs")}
    assert {"logs/plan.json", "logs/starts.jsonl"} <= logs
