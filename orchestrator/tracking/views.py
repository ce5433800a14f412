"""Views of a study in MLflow's pages: which runs, columns, order and charts a link opens.

MLflow's *Share* button writes what its runs page shows as JSON into a tag of the experiment, and
gives out a link with the tag's name. These are such tags. The page's menu *Views* lists them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.plan.columns import METHOD, METRICS, SURFACE_AXES

SHARED = "mlflow.sharedViewState."  # and the key that a link names
SCENARIOS, SETTINGS, METHODS = "scenarios", "settings", "methods"
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


def described(text: str, axes: Sequence[str] = ()) -> str:
    """Return the description of an experiment: links to its views, and what was found."""
    links = {SCENARIOS: "Scenarios before and after", SETTINGS: "Charts of the settings"}
    links |= {METHODS: "Repair methods"} if "repair" in axes else {}
    words = " · ".join(f"[{word}]({page(ID, view)})" for view, word in links.items())
    return f"{words}\n\n{text}".strip()  # first: of a long text the page shows the beginning


def views(axes: Sequence[str]) -> dict[str, str]:
    """Return the tags of an experiment that hold its views.

    *scenarios* is a table: a row per scenario, ACC, ASR and RA of the victim and of its best
    repair, and DER, the largest first. *settings* is two charts of all trials that are done:
    parallel coordinates, and DER over two axes. Where repair methods are compared these are of
    methods, with ACC over ASR, since ULRL's axes mean nothing to others; and *methods* is a table
    of all done trials, grouped by setting, with means of effect, cost and edits.

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
    axes, compared = axes or SURFACE_AXES, "repair" in axes
    after = [f"{name}_after_report" for name in METRICS]
    cards: list[dict[str, Any]] = [
        {
            "type": "PARALLEL",
            "displayName": "Settings and what they reach",
            "selectedParams": ["attack", *(("repair",) if compared else axes)],
            "selectedMetrics": [*after, DER],
            "showAllRuns": True,
        }
    ]
    if compared:
        cards.append(
            {
                "type": "SCATTER",
                "displayName": "ACC over ASR",
                "xaxis": {"key": "asr_after_report", "type": "METRIC"},
                "yaxis": {"key": "acc_after_report", "type": "METRIC"},
            }
        )
    elif len(axes) > 1:
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
    found = {SCENARIOS: table, SETTINGS: charts}
    if compared:
        found[METHODS] = _methods(axes)
    return {f"{SHARED}{name}": view for name, view in found.items()}


def _methods(axes: Sequence[str]) -> str:
    """Return the view of the settings of all repair methods, each a group of its trials."""
    numbers = [DER, *(f"{name}_after_report" for name in METRICS)]
    numbers += ["repair_seconds", "passes", "zeroed_parts", "weight_change"]
    named = sorted(axes, key=lambda axis: axis not in METHOD)
    return _view(
        "Repair methods, by setting",
        "tags.kind = 'trial' and tags.status = 'done'",
        columns=[
            *(f"params.`{name}`" for name in named),
            *(f"metrics.`{name}`" for name in numbers),
        ],
        columnWidths={f"metrics.`{name}`": 130 for name in numbers},
        groupBy={
            "aggregateFunction": "average",
            "groupByKeys": [{"mode": "param", "groupByData": axis} for axis in named],
        },
    )


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
