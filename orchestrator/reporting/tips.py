"""What a mark tells of itself when it is pointed at."""

from orchestrator.reporting.naming import Names, setting_text
from orchestrator.reporting.results import Trial
from orchestrator.reporting.schema import METRICS
from orchestrator.reporting.summary import Repair

_MOST_ROWS = 6  # flagged neurons that are listed


def repair_tip(trial: Trial | Repair, names: Names) -> str:
    """Return a done trial in some lines: what, from where to where, which neurons.

    Of a repair that several defence seeds judge, metrics are means over them.
    """
    numbers = trial.numbers
    told = [
        f"{metric.upper()} {100 * numbers[f'{metric}_before_report']:.1f} → "
        f"{100 * numbers[f'{metric}_after_report']:.1f} %"
        for metric in METRICS
    ]
    judged = (trial,) if isinstance(trial, Trial) else trial.judged
    flagged = _flagged(judged[0]) if len(judged) == 1 else f"mean of {len(judged)} defence seeds"
    took = [] if trial.victim_ok else ["the victim did not take"]
    lines = (
        names.scenario(trial.scenario),
        setting_text(trial.setting),
        ", ".join(told),
        f"DER {numbers['der_report']:.3f}; {flagged}",
        *took,
    )
    return "\n".join(lines)


def _flagged(trial: Trial) -> str:
    rows = sorted(map(str, trial.flagged or ()))
    if not rows:
        return "no neuron flagged: plain fine-tuning"
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return f"flagged {', '.join(rows[:_MOST_ROWS])}{more}"
