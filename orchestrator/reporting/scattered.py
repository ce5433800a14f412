"""What stands for surfaces where settings were sampled: each setting a point of its own."""

from collections.abc import Collection, Mapping, Sequence

from orchestrator.reporting.axes import Axis
from orchestrator.reporting.canvas import INK, Drawing, Sheet
from orchestrator.reporting.figures import title_of
from orchestrator.reporting.heatmap import colour_at
from orchestrator.reporting.naming import in_order
from orchestrator.reporting.results import Setting, Trial
from orchestrator.reporting.schema import SURFACE_AXES, column_of
from orchestrator.reporting.summary import spread_of
from orchestrator.reporting.surfaces import METRICS, bright, cell_tip


def draw_scattered(trials: Sequence[Trial], marked: Collection[Setting]) -> Drawing:
    """Draw ACC, ASR and DER of every setting over its threshold and ratio.

    A point is the mean over the setting's done trials, small where some of them are not; a
    grey ring has none (pruned, failed or pending).
    """
    across, up = (_axis(name, trials) for name in SURFACE_AXES)
    sheet = Sheet(rows=1, columns=len(METRICS), width=260, height=220)
    groups: dict[Setting, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.setting, []).append(trial)
    for column, metric in enumerate(METRICS):
        panel = sheet.panel(0, column, (46, 36, 12, 24), across.scale(), up.scale())
        panel.title(title_of(metric))
        panel.labels(*SURFACE_AXES)
        across.ticks(panel, "x")
        up.ticks(panel, "y")
        panel.frame()
        for setting, group in groups.items():
            found = spread_of((t for t in group if t.done), column_of(metric, "report"))
            values: Mapping[str, str] = group[0].cells
            x, y = across.place(values[across.name]), up.place(values[up.name])
            tip = cell_tip(group, metric, found)
            if found is None:
                panel.mark(x, y, "hollow", "#8c8c8c", size=3, tip=tip)
                continue
            if setting in marked:
                panel.mark(x, y, "hollow", INK, size=6)
            size = 3.6 if found.n == len(group) else 2.2
            panel.mark(x, y, "o", INK, size=size + 0.4)  # an edge, for what is as bright as paper
            panel.mark(x, y, "o", colour_at(bright(found.mean, metric)), size=size, tip=tip)
    return sheet.finish()


def _axis(name: str, trials: Sequence[Trial]) -> Axis:
    values = in_order(trial.cells[name] for trial in trials)
    return Axis(name=name, values=values, numeric=True)
