"""Pictures of a study's triggers, on its own data: an observer that draws each scenario's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from orchestrator.files import csv_text, write_bytes
from orchestrator.plan.columns import SCENARIO, TRIGGER_COLUMNS, TRIGGER_INDEX, pictured, slug
from orchestrator.plan.plan import Plan, Scenario
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.store.lookup import VictimResult
from ulrl.gallery_figure import TriggerExample, draw_gallery, png_bytes
from ulrl.image_similarity import WINDOW, psnr, ssim


class TriggerPictures(StudyCallback):
    """Draws clean and triggered test images of each scenario, once its victim is measured.

    They lie in the folder of figures, with a list of what is whose; what another start of the
    same study drew stands as long as its victim does.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._figures = folder / "figures"
        self._rows: dict[int, Mapping[str, Any]] = {}
        self._earlier = {row["victim"]: row for row in pictured(self._figures / TRIGGER_INDEX)}

    def of(self, scenario: Scenario) -> Path | None:
        """Return the picture of a scenario, if there is one."""
        row = self._rows.get(scenario.number)
        return None if row is None else self._figures / row["file"]

    def victim(self, scenario: Scenario, finding: VictimResult) -> None:
        if not finding.specimens:
            return
        row = self._earlier.get(finding.key)
        if row is None or not (self._figures / row["file"]).exists():
            row = self._drawn(scenario, finding.key, finding.specimens)
        self._rows[scenario.number] = row

    def write(self) -> None:
        """Write the list of the pictures, and remove what is on it no more."""
        if not self._rows:
            return
        rows = [row for _, row in sorted(self._rows.items())]
        write_bytes(self._figures / TRIGGER_INDEX, csv_text(TRIGGER_COLUMNS, rows).encode())
        current = {row["file"] for row in rows}
        for file in self._figures.glob("triggers-*.png"):
            if file.name not in current:
                file.unlink()

    def _drawn(
        self, scenario: Scenario, key: str, specimens: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        clean, triggered = specimens["clean"], specimens["triggered"]
        attack = scenario.poison.attack.name
        picture = draw_gallery([TriggerExample(name=attack, clean=clean, triggered=triggered)])
        # Names of scenarios may be cut, so two may have the same slug: the key tells them apart.
        file = f"triggers-{slug(self._plan.name_of(scenario))[:80]}-{key[:8]}.png"
        images = clean.float() / 255, triggered.float() / 255
        small = min(clean.shape[-2:]) < WINDOW
        self._figures.mkdir(parents=True, exist_ok=True)
        write_bytes(self._figures / file, png_bytes(picture))
        return {
            **{axis: scenario.columns[axis] for axis in SCENARIO},
            "victim": key,
            "file": file,
            "psnr": f"{float(psnr(*images).mean()):.1f}",
            "ssim": "" if small else f"{float(ssim(*images).mean()):.3f}",
        }
