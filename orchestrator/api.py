"""Studies from Python: load, plan, run, and look at results as pandas frames."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from rich.console import Console

from orchestrator.address import Address
from orchestrator.cli.plan import StudyPlan
from orchestrator.errors import BudgetExhausted, Interrupted, SpecError
from orchestrator.plan.columns import AFTER, BEFORE, DER, SCENARIO, STATUSES, count
from orchestrator.reporting.build import best_means, read_summary, write_report
from orchestrator.reporting.read_folder import StudyResults
from orchestrator.reporting.summary import Summary
from orchestrator.reporting.text import answer, names_of, unclear
from orchestrator.spec.load import load_study as _load
from orchestrator.spec.model import Study
from orchestrator.store.study_folder import StudyFolder, study_path
from orchestrator.terminal import Interrupts, shown

_RESULTS = "results.parquet"


def load_study(path: str | Path, set: Mapping[str, Any] | None = None) -> Study:  # noqa: A002 - as --set
    """Return the study that a file describes.

    Args:
        path: The study file.
        set: Values in place of the file's, by dotted path: ``{"grid.seed": [0, 1]}``.

    Raises:
        SpecError: All that is wrong with the file and the values, a line each.
    """
    values = (set or {}).items()
    return _load(str(path), [f"{key}={_as_yaml(value)}" for key, value in values])


def plan_study(study: Study, out: str | Path | None = None, *, inline: bool = False) -> StudyPlan:
    """Return what a study would do; nothing is run or written.

    Args:
        study: From `load_study`.
        out: The study folder, in which earlier results may be; by default ``runs/NAME``.
        inline: Whether it is to run in one process.

    Raises:
        ResourceError: A run could not begin: folder or store cannot be used.
    """
    return StudyPlan(study, study_path(study.name, out), inline=inline)


def run_study(
    study: Study,
    out: str | Path | None = None,
    *,
    inline: bool = False,
    address: str | None = None,
    verbose: bool = False,
    redo: str | Sequence[str] = (),
    redo_victims: str | Sequence[str] = (),
) -> "Results":
    """Run a study or resume it, and return its results; progress is printed.

    It works in any thread, and any number of times. What it started has ended when it returns.

    Args:
        study: From `load_study`.
        out: The study folder; by default ``runs/NAME``.
        inline: Run in this process, without Ray; the results are the same.
        address: Of a running Ray cluster, in place of a Ray of this study's own.
        verbose: Show libraries' messages.
        redo: Filters such as ``"attack=sig and reinit_ratio=0.5"``: the results of the trials that
            meet one of them are deleted first, so that they are computed again.
        redo_victims: Likewise of victims, with all that rests on them.

    Returns:
        The results; of a study whose budget is used up, those that there are.

    Raises:
        SpecError: Data that the study names is missing, or a filter is wrong or chooses nothing.
        ResourceError: Another driver holds the study, or folder, store or cluster cannot be used.
        KeyboardInterrupt: Ctrl-C, or the notebook's stop button. Finished work is stored.
    """
    from orchestrator.cli.redo import Redo
    from orchestrator.cli.run import run_study as run

    chosen = Redo(trials=_several(redo), victims=_several(redo_victims))
    folder, interrupts = study_path(study.name, out), Interrupts()
    try:
        with interrupts.watched():
            run(
                study,
                folder,
                _console(),
                interrupts,
                address=None if address is None else Address(address),
                inline=inline,
                verbose=verbose,
                redo=chosen,
            )
    except BudgetExhausted as stop:
        _console().print(f"stopped by {stop}", markup=False)
    except Interrupted as stop:
        if stop.exit_code == 128 + signal.SIGINT:
            raise KeyboardInterrupt from None
        raise
    return Results(folder)


def stop_trials(study: Study, trials: str | Sequence[str], out: str | Path | None = None) -> str:
    """Stop trials of a study that runs in another process or thread; the others go on.

    Args:
        study: From `load_study`.
        trials: Filters such as ``"attack=sig and reinit_ratio=0.5"``; what meets one is stopped.
        out: The study folder; by default ``runs/NAME``.

    Returns:
        What the study did, in a line.

    Raises:
        SpecError: A filter is wrong, no chosen trial runs or waits, or the study does not run.
    """
    from orchestrator.cli.redo import stop_trials as stop

    return stop(study, StudyFolder(study_path(study.name, out)), _several(trials))


def load_results(folder: str | Path) -> "Results":
    """Return the results in a study folder.

    Raises:
        SpecError: It is no study folder.
    """
    return Results(Path(folder))


@dataclass(frozen=True, kw_only=True)
class BestSetting:
    """The setting that is best over all scenarios, as the report names it.

    Attributes:
        setting: Value by axis, of the axes that vary.
        metrics: ACC, ASR, RA and DER on the report half, means over the scenarios whose victim
            took.
        rivals: The settings that are not clearly worse.
        scenarios: A row per scenario with the numbers of its own best setting.
    """

    setting: Mapping[str, Any]
    metrics: Mapping[str, float]
    rivals: tuple[Mapping[str, Any], ...]
    scenarios: pd.DataFrame


class Results:
    """The results of a study, read from its folder.

    Attributes:
        folder: The study folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        if not (self.folder / _RESULTS).is_file():
            raise SpecError([f"{folder}: no study folder; it has no {_RESULTS}"])

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per trial, with the columns of results.csv; empty cells are missing values."""
        return pd.read_parquet(self.folder / _RESULTS)

    @property
    def statuses(self) -> dict[str, int]:
        """The number of trials by status: done, pruned, skipped, failed, pending."""
        found = self.frame["status"].value_counts()
        return {status: int(found.get(status, 0)) for status in STATUSES}

    @cached_property
    def _found(self) -> tuple[StudyResults, Summary]:
        results, _, summary = read_summary(self.folder)
        return results, summary

    def best(self) -> BestSetting | None:
        """Return the best setting for all, chosen on the selection half.

        None where no victim took, or no trial of one that did is done.
        """
        _, summary = self._found
        if summary.common is None:
            return None
        rows = [
            {
                **{k: _number(k, cell) for k, cell in outcome.scenario.cells().items()},
                "victim_ok": outcome.took,
                **_plain(outcome.best.setting),
                **{name: outcome.best.numbers[name] for name in (*BEFORE, *AFTER, *DER)},
            }
            for outcome in summary.outcomes
            if outcome.best is not None
        ]
        return BestSetting(
            setting=_plain(summary.common),
            metrics=best_means(summary),
            rivals=tuple(map(_plain, unclear(summary))),
            scenarios=pd.DataFrame(rows),
        )

    def report(self) -> Path:
        """Return the path of report.html, made again from the folder with tables and figures."""
        return write_report(self.folder)

    @property
    def complete(self) -> bool:
        """Whether no trial failed or is left to do."""
        return not (self.statuses["failed"] or self.statuses["pending"])

    def __repr__(self) -> str:
        trials = ", ".join(
            f"{number} {status}" for status, number in self.statuses.items() if number
        )
        return f"<Results of {shown(self.folder)}: {count(len(self.frame), 'trial')}: {trials}>"

    def _repr_html_(self) -> str:
        """Return the report's answer and each scenario before and after, for a notebook."""
        results, summary = self._found
        sentences = answer(summary, names_of(results))
        words = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)
        best = self.best()
        table = "" if best is None else best.scenarios[_shown(best)].round(3).to_html(index=False)
        return words + table


def _several(filters: str | Sequence[str]) -> Sequence[str]:
    return [filters] if isinstance(filters, str) else filters


def _shown(best: BestSetting) -> list[str]:
    """Return the columns of the table of scenarios that a notebook shows."""
    rows = best.scenarios
    varied = [name for name in SCENARIO if len(set(rows[name])) > 1] or ["attack"]
    numbers = [f"{name}_{when}_report" for name in ("acc", "asr") for when in ("before", "after")]
    return [*varied, *best.setting, *numbers, "ra_after_report", "der_report"]


def _plain(setting: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """Return a setting's values as Python's."""
    return {axis: None if v == "none" else yaml.safe_load(v) for axis, v in setting}


def _number(column: str, cell: str) -> Any:
    """Return a cell of a scenario's columns as the frame has it."""
    return yaml.safe_load(cell) if column in ("poison_ratio", "target_label", "seed") else cell


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**9).strip().removesuffix("\n...")


def _console() -> Console:
    """Return a console that writes plain lines in a notebook, where rich makes each a page."""
    if Console().is_jupyter:
        return Console(highlight=False, force_jupyter=False, force_terminal=False, no_color=True)
    return Console(highlight=False)
