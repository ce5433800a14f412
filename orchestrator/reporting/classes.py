"""Predictions class by class: confusion matrices, ACC and ASR of each class."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd

from orchestrator.errors import SpecError
from orchestrator.plan.columns import METRICS, MODELS, SCENARIO, count
from orchestrator.reporting import svg
from orchestrator.reporting.read_results import ScenarioRow, StudyResults
from orchestrator.reporting.summary import Repair, Summary
from orchestrator.reporting.text import NOTHING, Names, listed, number_text, signed

_VICTIM, _REPAIRED = MODELS
_WHEN = {_VICTIM: "before", _REPAIRED: "after"}  # in the columns of results.csv
_WHOLE = ("trial", "true_class", "wanted_class", "predicted_class", "count")
_COLUMNS = (*_WHOLE, "model", "half", "images")
_LARGEST = 100_000  # classes; a table of them fits in memory, and no dataset here has more
ALIVE, DEAD = 0.5, 0.1  # ACC of a class that a victim knows, and of one that is lost
NEARLY_ALL = 0.9  # of the triggered images
_RATES = (
    ("acc", "clean", "true_class"),
    ("asr", "triggered", "wanted_class"),
    ("ra", "triggered", "true_class"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions of one model, or of several together, on the report half.

    Attributes:
        cells: How many images of a kind (``clean`` or ``triggered``) and class are predicted as
            a class: `images`, `true_class`, `wanted_class`, `predicted_class`, `count`. A
            triggered image is of the class that it has without the trigger; `wanted_class`,
            the class that the attacker wants for it, is -1 for a clean one.
        classes: A row per class from 0: ``clean_images``, ``triggered_images``,
            ``wanted_class``, and ``acc``, ``asr``, ``ra``, NaN where it has no image.
    """

    cells: pd.DataFrame
    classes: pd.DataFrame

    def of(self, images: str) -> pd.DataFrame:
        """Return the cells of clean or of triggered images."""
        return self.cells[self.cells["images"] == images]


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired:
    """A scenario's victim, and the models that the one setting for all makes of it together."""

    repair: Repair
    before: Predictions
    after: Predictions

    @property
    def classes(self) -> int:
        return len(self.before.classes)

    @property
    def acc_lost(self) -> "pd.Series[float]":
        return self.before.classes["acc"] - self.after.classes["acc"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassResults:
    """What the one setting for all does to classes.

    Attributes:
        shown: The first scenarios; the first of each family precedes others, for seeds resemble
            each other.
        scenarios: How many have counts.
        killed: Those of them in which the target's class is lost: ACC of it falls from at least
            `ALIVE` to at most `DEAD`.
        diverted: Those in which at least `NEARLY_ALL` of the triggered images go to one class
            that is not the target, most of them wrongly.
    """

    shown: Sequence[Repaired] = ()
    scenarios: int = 0
    killed: Sequence[ScenarioRow] = ()
    diverted: Sequence[ScenarioRow] = ()

    def warning(self, names: Names) -> str:
        """Return in which scenarios a low ASR is no repair, or nothing."""
        lost = f"leaves the target's class an ACC of at most {_plain(DEAD)}"
        sent = f"sends {_plain(NEARLY_ALL)} or more of the triggered images to one wrong class"
        found = [
            f"{what} in {len(where)} of {count(self.scenarios, 'scenario')} "
            f"({_where(where, names)})"
            for what, where in ((lost, self.killed), (sent, self.diverted))
            if where
        ]
        if not found:
            return ""
        return f"A low ASR is no repair everywhere: the setting {' and '.join(found)}."


def read_classes(path: Path, results: StudyResults, summary: Summary) -> ClassResults:
    """Return what the file of counts says about the one setting for all; there need be no file.

    A scenario that the file lacks a model of is left out.

    Raises:
        SpecError: The file is there, but is no such table, or is not of these results.
    """
    families = summary.families().values()
    by_seed = chain.from_iterable(zip_longest(*families))  # the first of each family, then others
    repairs = [outcome.common for outcome in by_seed if outcome and outcome.common]
    if not path.exists() or not repairs:
        return ClassResults()
    number = {id(trial): place for place, trial in enumerate(results.trials)}
    first = {t.scenario: number[id(t)] for t in reversed(results.trials)}
    models = [
        (place, trial, model)
        for place, repair in enumerate(repairs)
        for trial, model in (
            (first[repair.scenario], _VICTIM),
            *((number[id(trial)], _REPAIRED) for trial in repair.judged),
        )
    ]
    wanted = pd.DataFrame(models, columns=["place", "trial", "model"])
    cells = _read(path, sorted(set(wanted["trial"])))
    _check(path, results, cells)
    found = wanted.merge(cells, on=["trial", "model"], how="left")
    lacking = found["place"][found["count"].isna()]
    found = found[~found["place"].isin(lacking)].astype(cells.dtypes)
    places = found["place"].unique().tolist()
    return ClassResults(
        shown=[_repaired(repairs[p], found[found["place"] == p]) for p in places[:MOST_SCENARIOS]],
        scenarios=len(places),
        killed=[repairs[place].scenario for place in _killed(found)],
        diverted=[repairs[place].scenario for place in _diverted(found)],
    )


def _repaired(repair: Repair, cells: pd.DataFrame) -> Repaired:
    classes = 1 + int(cells[list(_WHOLE[1:4])].max().max())
    before, after = (
        _predictions(cells[cells["model"] == model], classes) for model in (_VICTIM, _REPAIRED)
    )
    return Repaired(repair=repair, before=before, after=after)


def _predictions(models: pd.DataFrame, classes: int) -> Predictions:
    """Return the predictions of one or more models on the same images together."""
    kinds = ["images", "true_class", "wanted_class", "predicted_class"]
    cells = models.groupby(kinds)["count"].sum().reset_index()
    table = _rates(cells, ["true_class"]).reindex(range(classes))
    for images in ("clean", "triggered"):
        sizes = cells[cells["images"] == images].groupby("true_class")["count"].sum()
        table[f"{images}_images"] = sizes.reindex(range(classes), fill_value=0)
    triggered = cells[cells["images"] == "triggered"]
    wanted = triggered.groupby("true_class")["wanted_class"].last()
    table["wanted_class"] = wanted.reindex(range(classes), fill_value=-1)
    return Predictions(cells=cells, classes=table)


def _killed(cells: pd.DataFrame) -> list[int]:
    """Return the places whose repaired models no longer know the target's class."""
    triggered = cells[cells["images"] == "triggered"]
    wanted = triggered.groupby("place")["wanted_class"].agg(["min", "max"])
    targets = wanted["min"][wanted["min"] == wanted["max"]]  # all-to-all has none
    own = cells[cells["true_class"] == cells["place"].map(targets)]
    acc = _rates(own, ["model", "place"])["acc"]
    known, lost = (acc[acc.index.get_level_values(0) == model] for model in (_VICTIM, _REPAIRED))
    return sorted(
        {place for _, place in known.index[known >= ALIVE]}
        & {place for _, place in lost.index[lost <= DEAD]}
    )


def _diverted(cells: pd.DataFrame) -> list[int]:
    """Return the places whose repaired models see one other class in triggered images."""
    own = cells[(cells["images"] == "triggered") & (cells["model"] == _REPAIRED)]
    total = own.groupby("place")["count"].sum()
    other = own[own["predicted_class"] != own["wanted_class"]]
    wrong = other["count"].where(other["predicted_class"] != other["true_class"], 0)
    sums = other.assign(wrong=wrong).groupby(["place", "predicted_class"])[["count", "wrong"]].sum()
    most = sums["count"] >= NEARLY_ALL * total.reindex(sums.index, level="place")
    return sorted(set(sums.index[most & (2 * sums["wrong"] > sums["count"])].get_level_values(0)))


def _plain(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _where(scenarios: Sequence[ScenarioRow], names: Names) -> str:
    attacks = Counter(names.attack(scenario.family) for scenario in scenarios)
    return ", ".join(f"{attack}: {number}" for attack, number in attacks.items())


def _read(path: Path, trials: Sequence[int]) -> pd.DataFrame:
    """Return the cells of some trials on the report half."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
        if missing := [name for name in _COLUMNS if name not in schema.names]:
            raise SpecError([f"{path}: lacks the column {missing[0]}"])
        filters = [("trial", "in", trials), ("half", "=", "report")]
        table = pq.read_table(path, columns=list(_COLUMNS), filters=filters)
        cells = pd.DataFrame({name: table[name].to_pandas() for name in ("model", "images")})
        for name in _WHOLE:
            cells[name] = table[name].cast(pa.int64()).fill_null(-1).to_numpy()
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SpecError([f"{path}: cannot be read as a table of counts; {reason}"]) from None
    for name in _WHOLE[1:]:
        low = -1 if name == "wanted_class" else 0  # which clean images have none of
        high = np.iinfo(np.int64).max if name == "count" else _LARGEST
        if not cells[name].between(low, high).all():
            raise SpecError([f"{path}: {name}: is missing or out of range somewhere"])
    return cells


def _rates(cells: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return ACC, ASR and RA of the cells of each group; NaN without an image."""
    found = {}
    for metric, images, aim in _RATES:
        own = cells[cells["images"] == images]
        hits = own["count"].where(own["predicted_class"] == own[aim], 0)
        sums = own.assign(hits=hits).groupby(list(by))[["hits", "count"]].sum()
        found[metric] = sums["hits"] / sums["count"].where(sums["count"] > 0)
    return pd.DataFrame(found)


def _check(path: Path, results: StudyResults, cells: pd.DataFrame) -> None:
    """Refuse counts of other models than those of the results: rows may have moved."""
    found = _rates(cells, ["trial", "model"])
    for (number, model), *rates in found.itertuples(name=None):
        numbers = results.trials[number].numbers
        for metric, rate in zip(found.columns, rates, strict=True):
            column = f"{metric}_{_WHEN.get(model)}_report"
            if column in numbers and not abs(numbers[column] - rate) < 1e-9:
                text = (
                    f"{path}: trial {number}, {model}: its counts make {column} {rate:.6g}, and "
                    f"results.csv has {numbers[column]:.6g}; run the study's command again"
                )
                raise SpecError([text])


MOST_DRAWN = 20  # classes of a confusion matrix that is drawn
MOST_LISTED = 10  # classes at either end, where there are more than that
MOST_SCENARIOS = 12
_MOST_WRITTEN = 12  # classes beyond which cells are too small for numbers
_WANTED = "#d55e00"  # the outline of what the attacker wants
MOST_TIED = 4  # classes that a summary names
_SAME = 1e-9  # shares that differ by less are equal
_CSV = (
    *("class", "wanted_class", "clean_images", "acc_before", "acc_after", "triggered_images"),
    *("asr_before", "asr_after", "ra_before", "ra_after"),
)
_LEFT, _BOTTOM, _RIGHT, _TOP = 44.0, 34.0, 8.0, 22.0


@dataclass(frozen=True, kw_only=True)
class ClassTable:
    """Classes of a scenario, in words.

    Attributes:
        rows: Class; ACC of the victim, of the repaired model and the difference; ASR of the two.
    """

    title: str
    rows: Sequence[tuple[str, ...]]


def draw_classes(shown: Repaired) -> svg.SvgFigure | None:
    """Draw four confusion matrices in percent of their rows, unless they are too large."""
    classes = shown.classes
    if classes > MOST_DRAWN:
        return None
    width, height, columns = (21, 19, 4) if classes <= _MOST_WRITTEN else (13, 13, 2)
    sheet = svg.SvgCanvas(
        columns=columns,
        width=_LEFT + max(classes, 8) * width + _RIGHT,
        height=_BOTTOM + max(classes, 6) * height + _TOP,
    )
    labels = [str(label) for label in range(classes)]
    models = {"victim": shown.before, "repaired": shown.after}
    for images, (model, predictions) in product(("triggered", "clean"), models.items()):
        across = svg.cell_axis(labels, "predicted class")
        up = svg.cell_axis(labels[::-1], "class of the image")
        title = [f"{images.capitalize()}, {model}"]
        panel = sheet.panel((_LEFT, _BOTTOM, _RIGHT, _TOP), across, up, title, frame=())
        sizes = predictions.classes[f"{images}_images"]
        for label in np.flatnonzero(sizes).tolist():
            panel.box((0, classes - 1 - label), (classes, classes - label), fill=svg.colour_at(0))
        svg.draw_cells(panel, _cells(predictions, images, classes))
        if images == "triggered":
            _outline(panel, predictions, classes)
    return sheet.finish()


def class_tables(shown: Repaired) -> list[ClassTable]:
    """Return all classes, or of many those that lost most ACC and those that keep most ASR."""
    if shown.classes <= MOST_DRAWN:
        return [ClassTable(title="", rows=_rows(shown, range(shown.classes)))]
    return [
        ClassTable(title=title, rows=_rows(shown, _largest(values).index[:MOST_LISTED]))
        for title, values in (
            ("Classes that lost most ACC", shown.acc_lost),
            ("Classes with the highest remaining ASR", shown.after.classes["asr"]),
        )
    ]


def extremes(shown: Repaired) -> str:
    """Return which classes lost most ACC, and which have the highest ASR left."""
    before, after = shown.before.classes, shown.after.classes
    acc, asr = "no class lost ACC", "no class has an ASR above 0"
    if lost := _most(shown.acc_lost):
        each = f"{100 * shown.acc_lost[lost[0]]:.1f} points each"
        acc = f"{_named(lost)} lost most ACC ({_ends(lost, before['acc'], after['acc'], each)})"
    if left := _most(after["asr"]):
        verb = "has" if len(left) == 1 else "have"
        ends = _ends(left, before["asr"], after["asr"], f"{_percent(after['asr'][left[0]])} each")
        asr = f"{_named(left)} {verb} the highest ASR ({ends})"
    return f"{acc}, {asr}"


def _ends(
    labels: Sequence[int], before: "pd.Series[float]", after: "pd.Series[float]", each: str
) -> str:
    """Return where a single class goes from and to, else `each`."""
    if len(labels) > 1:
        return each
    return f"{_percent(before[labels[0]])} → {_percent(after[labels[0]])}"


def _most(values: "pd.Series[float]") -> list[int]:
    """Return the classes with the largest value, if that is above 0."""
    largest = values.max()
    return values.index[values > max(0.0, largest - _SAME)].tolist() if largest > 0 else []


def _named(labels: Sequence[int]) -> str:
    names = [str(label) for label in labels[:MOST_TIED]]
    more = [f"{len(labels) - MOST_TIED} more"] if len(labels) > MOST_TIED else []
    return f"class {names[0]}" if len(labels) == 1 else f"classes {listed([*names, *more])}"


def classes_csv(shown: Repaired, setting_axes: Sequence[str]) -> str:
    """Return every class of a scenario; counts of images are the victim's, NaN is empty."""
    before, after = shown.before.classes, shown.after.classes
    judged = shown.repair.judged
    cells = {name: judged[0].cells[name] for name in (*SCENARIO, *setting_axes)}
    if len(judged) > 1:  # which the defence seed tells apart
        cells["defence_seed"] = " ".join(one.cells["defence_seed"] for one in judged)
    metrics = [
        before[list(METRICS)].add_suffix("_before"),
        after[list(METRICS)].add_suffix("_after"),
    ]
    wanted = before["wanted_class"].astype("Int64").where(before["wanted_class"] >= 0)
    sizes = before[["clean_images", "triggered_images"]].assign(wanted_class=wanted)
    table = pd.concat([sizes, *metrics], axis=1).rename_axis("class").reset_index()
    return pd.DataFrame({**cells, **table[list(_CSV)]}).to_csv(index=False)


def _cells(predictions: Predictions, images: str, classes: int) -> dict[tuple[int, int], svg.Cell]:
    sizes = predictions.classes[f"{images}_images"]
    found = {}
    cells = predictions.of(images)[["true_class", "predicted_class", "count"]]
    for true, predicted, number in cells.itertuples(index=False):
        share = float(number / sizes[true])
        written = classes <= _MOST_WRITTEN and share >= 0.005
        found[predicted, classes - 1 - true] = svg.Cell(
            share=share,
            text=f"{100 * share:.0f}" if written else "",
            tip=f"class {true} as class {predicted}: {number} of {sizes[true]} "
            f"({100 * share:.1f} %)",
        )
    return found


def _outline(panel: svg.Panel, predictions: Predictions, classes: int) -> None:
    """Outline in each row what the attacker wants."""
    for label, wanted in enumerate(predictions.classes["wanted_class"].tolist()):
        if wanted >= 0:
            row = classes - 1 - label
            low, high = (wanted + 0.04, row + 0.04), (wanted + 0.96, row + 0.96)
            panel.box(low, high, fill="none", stroke=_WANTED, stroke_width=1)


def _rows(shown: Repaired, labels: Iterable[int]) -> list[tuple[str, ...]]:
    before, after = shown.before.classes, shown.after.classes
    return [
        (
            str(label),
            *(_percent(part["acc"][label]) for part in (before, after)),
            NOTHING if np.isnan(lost := shown.acc_lost[label]) else signed(-lost, "acc"),
            *(_percent(part["asr"][label]) for part in (before, after)),
        )
        for label in labels
    ]


def _largest(values: "pd.Series[float]") -> "pd.Series[float]":
    """Return the classes that have a value, the largest first; of equals the first class."""
    return values.dropna().sort_values(ascending=False, kind="stable")


def _percent(share: float) -> str:
    return NOTHING if np.isnan(share) else number_text(share, "acc")
