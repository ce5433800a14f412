"""The report's section on triggers: one picture per family, from what the run drew."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import Mistakes
from orchestrator.reporting.naming import Names
from orchestrator.reporting.results import Results
from orchestrator.reporting.schema import INDEX, SCENARIO, pictured


@dataclass(frozen=True, kw_only=True)
class TriggerView:
    """A trigger as the page shows it."""

    title: str
    details: tuple[str, ...]
    alike: str  # PSNR and SSIM in words
    source: str  # of the image: its bytes as a data URI


def trigger_views(figures: Path, results: Results, names: Names) -> list[TriggerView]:
    """Return a picture of each family in the results that has one, in their order.

    Raises:
        Mistakes: The list of pictures, or a picture on it, cannot be read.
    """
    rows = {tuple(row[axis] for axis in SCENARIO): row for row in pictured(figures / INDEX)}
    shown = {}
    for trial in results.trials:
        family = trial.scenario.family
        row = rows.get((*family, trial.scenario.seed))
        if row is not None and family not in shown:
            shown[family] = TriggerView(
                title=names.attack(family),
                details=names.details(family),
                alike=_alike(row),
                source=_source(figures / row["file"]),
            )
    return list(shown.values())


def _alike(row: Mapping[str, str]) -> str:
    told = [f"PSNR {row['psnr']} dB" if row["psnr"] else "", row["ssim"] and f"SSIM {row['ssim']}"]
    return ", ".join(filter(None, told))


def _source(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Mistakes([f"{path}: cannot be read; {error.strerror}"]) from None
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"
