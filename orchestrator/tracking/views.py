"""Views of a study in MLflow's pages: which runs, columns, order and charts a link opens.

MLflow's *Share* button writes what its runs page shows as JSON into a tag of the experiment, and
gives out a link with the tag's name. These are such tags. The page's menu *Views* lists them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan.columns import METRICS, SURFACE_AXES

SHARED = "mlflow.sharedViewState."  # and the key that a link names
SCENARIOS, SETTINGS = "scenarios", "settings"
LINK = "viewStateShareKey="
DESCRIPTION = "mlflow.note.content"
ID = "{experiment}"  # in a tag: the experiment's id, which nobody knows before it is made
KIND = {"mlflow.experimentKind": "custom_model_development"}  # else the pages of language models
DER = "der_report"


def page(experiment: str, view: str) -> str:
    """Return what follows a server's address in the link to a view of an experiment."""
    charts = "&compareRunsMode=CHART" if view == SETTINGS else ""
    # Where MLflow has shown pages for language models before, the kind of the experiment is not
    # enough to see those for training.
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&{LINK}{view}{charts}"


def described(text: str) -> str:
    """Return the description of an experiment: links to the views, and what was found."""
    links = {SCENARIOS: "Scenarios before and after", SETTINGS: "Charts of the settings"}
    words = " · ".join(f"[{word}]({page(ID, view)})" for view, word in links.items())
    return f"{words}\n\n{text}".strip()  # first: of a long text the page shows the beginning


def views(axes: Sequence[str]) -> dict[str, str]:
    """Return the tags of an experiment that hold its views.

    *scenarios* is a table: a row per scenario, ACC, ASR and RA of the victim and of its best
    repair, and DER, the largest first. *settings* is two charts of all trials that are done:
    parallel coordinates, and DER over two axes.

    Args:
        axes: The setting axes that vary, the first two of which span the second chart.
    """
    numbers = [f"{name}_{when}_report" for name in METRICS for when in ("before", "after")]
    table = _view(
        "Scenarios, before and after",
        "tags.kind = 'scenario'",
        columns=[
            *(f"metrics.`{name}`" for name in (DER, *numbers)),
            *(f"tags.`{name}`" for name in ("best_setting", "victim_ok")),
        ],
        columnWidths={
            **{f"metrics.`{name}`": 92 for name in (DER, *numbers)},
            "tags.`best_setting`": 320,
        },
    )
    axes = axes or SURFACE_AXES
    after = [f"{name}_after_report" for name in METRICS]
    cards: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "displayName": "Settings and what they reach",
            "selectedParams": ["attack", *axes],
            "selectedMetrics": [*after, DER],
            "showAllRuns": True,
        }
    ]
    if len(axes) > 1:
        first, second = axes[:2]
        cards.append(
            {
                "type": "CONTOUR",
                "displayName": f"DER over {first} and {second}",
                "xaxis": {"key": first, "type": "PARAM"},
                "yaxis": {"key": second, "type": "PARAM"},
                "zaxis": {"key": DER, "type": "METRIC"},
            }
        )
    common = {"deleted": False, "isGenerated": False, "metricSectionId": "study"}
    charts = _view(
        "Settings, in charts",
        "tags.kind = 'trial' and tags.status = 'done'",
        columns=[
            *(f"params.`{name}`" for name in ("attack", *axes)),
            *(f"metrics.`{name}`" for name in (*after, DER)),
        ],
        compareRunCharts=[
            {"uuid": f"chart-{place}", "runsCountToCompare": 1000, **card, **common}
            for place, card in enumerate(cards)
        ],
        compareRunSections=[
            {
                "uuid": "study",
                "name": "Study",
                "display": True,
                "isReordered": True,
                "columns": 1,
                "cardHeight": 500,
            }
        ],
        runListHidden=True,
        isAccordionReordered=True,
    )
    return {f"{SHARED}{SCENARIOS}": table, f"{SHARED}{SETTINGS}": charts}


def _view(name: str, runs: str, columns: Sequence[str], **more: Any) -> str:
    facets = {
        "searchFilter": runs,
        "orderByKey": f"metrics.`{DER}`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
    }
    state: Mapping[str, Any] = {
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
    }
    plain = {**facets, **state, **more}
    # MLflow before 3.17 reads the fields themselves, later ones the text in `state`.
    named = {"name": name, "createdAt": 0, "state": json.dumps(plain, separators=(",", ":"))}
    return json.dumps({**named, **plain}, separators=(",", ":"))
