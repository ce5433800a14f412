"""What a study found, as tags and metrics of its run in MLflow."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.reporting.evidence import read_study
from orchestrator.reporting.naming import names_of, setting_text
from orchestrator.reporting.results import read_results
from orchestrator.reporting.schema import column_of
from orchestrator.reporting.summary import sound, spread_of, summarise
from orchestrator.reporting.wording import answer, unclear

DESCRIPTION = "mlflow.note.content"  # the tag that MLflow shows as a run's description
_METRICS = ("acc", "asr", "ra", "der")


def conclusion(folder: Path) -> tuple[Mapping[str, str], Mapping[str, float]]:
    """Return tags and metrics that say what the study in `folder` found, as its report does.

    Metrics are those of the best setting for all, means over scenarios on the report half.

    Raises:
        Mistakes: A file of the folder is not what it should be.
    """
    results = read_results(folder / "results.csv")
    study = read_study(folder / "study.yaml")
    summary = summarise(results, study.objective or "der", study.sampler)
    tags = {DESCRIPTION: "\n\n".join(answer(summary, names_of(results)))}
    if summary.common is None:
        why = "no victim took" if summary.all_weak else "no trial is done"
        return {**tags, "best_setting": f"none: {why}"}, {}
    tags["best_setting"] = setting_text(summary.common)
    tags["no_clear_difference_to"] = "; ".join(map(setting_text, unclear(summary)))
    repairs = [outcome.common for outcome in sound(summary.outcomes)]
    columns = [column_of(metric, "report") for metric in _METRICS]
    spreads = {column: spread_of(repairs, column) for column in columns}
    return tags, {f"best_{name}": found.mean for name, found in spreads.items() if found}
