"""How long MLflow's pages take to stand on a screen: ``python -m benchmarks.mlflow_pages``.

A database as `bench_mlflow` fills it, MLflow's server on this machine, and a headless Chromium
beside it on the same cores. Times run from the address to what a person waits for. The browser
has MLflow's scripts already, but for the first row.
"""

import argparse
import json
import os
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from playwright.sync_api import Page, Response

from benchmarks._common import commit, table
from benchmarks.bench_mlflow import DELIVERED, copy_runs, deliver
from tests.browser import chromium
from tests.servers import free_port, tracking_server, wait_for

PATIENCE = 60_000  # milliseconds
NEWEST = "newest 100 runs"
# What a person waits for on a page.
LISTED, DRAWN, OVERVIEW = "text=/matching runs?/", ".js-plotly-plot svg", "text=der_report"


def main() -> None:
    """Measure, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        deliver(folder, 0, min(DELIVERED, given.runs), 3600)
        copy_runs(folder / "mlflow.db", given.runs)
        found = pages(folder, given.times)
    rows = [[name, f"{statistics.median(taken):.1f}", len(taken)] for name, taken in found.items()]
    table(["page", "seconds", "n"], rows)
    facts = {"runs": given.runs, "cpus": os.cpu_count(), "load": os.getloadavg()[0]}
    facts |= {"mlflow": version("mlflow"), "commit": commit()}
    print(json.dumps({"benchmark": "mlflow_pages", **facts, "seconds": found}))


def pages(folder: Path, times: int) -> dict[str, list[float]]:
    """Return the seconds until each page stood."""
    settings = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "mlartifacts"),
    }
    home = folder / "server"
    home.mkdir()
    found: dict[str, list[float]] = {}
    with (
        tracking_server(home, free_port(), **settings) as address,
        chromium(folder / "profile") as browser,
    ):
        wait_for(f"{address}/health")
        client = MlflowClient(address)
        experiment = client.get_experiment_by_name("many")
        if experiment is None:
            raise RuntimeError("the study is not there")
        number = experiment.experiment_id
        trial = client.search_runs([number], "tags.kind = 'trial'", max_results=1)[0].info.run_id
        browser.set_default_timeout(PATIENCE)
        views = {
            NEWEST: ("runs", LISTED, "runs/search.*start_time DESC"),
            "runs of one attack": (
                "runs?searchFilter=tags.attack%20%3D%20%27sig%27",
                LISTED,
                "runs/search.*attack = 'sig'",
            ),
            "all, sorted by a metric": (
                "runs?orderByKey=metrics.%60der_report%60&orderByAsc=false",
                LISTED,
                "runs/search.*der_report. DESC",
            ),
            "charts of 100 runs": ("runs?compareRunsMode=CHART", DRAWN, "runs/search"),
            "a trial": (f"runs/{trial}", OVERVIEW, "/graphql.*GetRun"),
            "a trial's curves": (f"runs/{trial}/model-metrics", DRAWN, "metrics/get-history"),
        }
        page = browser.new_page()
        found["the same, scripts not loaded yet"] = [seconds(page, address, number, *views[NEWEST])]
        page.close()
        for name, view in views.items():
            for _ in range(times):
                page = browser.new_page()
                found.setdefault(name, []).append(seconds(page, address, number, *view))
                page.close()
    return found


def seconds(page: Page, address: str, number: str, path: str, mark: str, asked: str) -> float:
    """Return how long a page took until its question was answered and its mark was there.

    Args:
        page: Empty yet.
        address: Of the server.
        number: Of the experiment.
        path: Within the experiment's pages.
        mark: A selector of what a person waits for.
        asked: A pattern of the request, address and content, whose answer it shows.
    """

    def fits(response: Response) -> bool:
        request = response.request
        return re.search(asked, f"{request.url} {request.post_data or ''}") is not None

    started = time.perf_counter()
    with page.expect_response(fits) as answer:
        page.goto(f"{address}/#/experiments/{number}/{path}")
    answer.value.finished()
    page.locator(mark).first.wait_for(state="attached")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
