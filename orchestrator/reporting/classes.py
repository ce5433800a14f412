"""Class by class: predictions of the models, and the rows of the head that phase 1 flags.

A row of the last linear layer belongs to a class: what is flagged says which class is suspected.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from orchestrator.errors import SpecError
from orchestrator.plan.columns import MODELS, SCENARIO, count
from orchestrator.reporting import svg
from orchestrator.reporting.figures import room, short
from orchestrator.reporting.read_folder import (
    ScenarioRow,
    StudyResults,
    TrialRow,
    distinct,
    grouped,
    in_order,
)
from orchestrator.reporting.summary import Repair, Summary
from orchestrator.reporting.text import (
    NOTHING,
    Names,
    label_of,
    listed,
    number_text,
    setting_text,
    signed,
)

_VICTIM, _REPAIRED = MODELS
_WHEN = {_VICTIM: "before", _REPAIRED: "after"}  # in the columns of results.csv
_WHOLE = ("trial", "true_class", "wanted_class", "predicted_class", "count")
_COLUMNS = (*_WHOLE, "model", "half", "images")
ALIVE, DEAD = 0.3, 0.1  # ACC of a class that a victim knows, and of one that is lost
NEARLY_ALL = 0.9  # of the triggered images
_RATES = {"acc": ("clean", "true_class"), "asr": ("triggered", "wanted_class")}
_RATES["ra"] = ("triggered", "true_class")


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired:
    """A scenario's victim, and the models that the one setting for all makes of it together.

    Attributes:
        cells: How many images of a kind (``clean`` or ``triggered``) and class a model predicts
            as a class: `model`, `images`, `true_class`, `wanted_class`, `predicted_class`,
            `count`. A triggered image is of the class that it has without the trigger;
            `wanted_class`, the class that the attacker wants for it, is -1 for a clean one.
        classes: A row per class from 0: ``wanted_class``; ``clean_images`` and
            ``triggered_images`` of the victim; ``acc_before``, ``acc_after`` and so on, NaN
            where it has no image.
    """

    repair: Repair
    cells: pd.DataFrame
    classes: pd.DataFrame


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassResults:
    """What the one setting for all does to classes.

    Attributes:
        shown: The first scenarios; the first of each family precedes others, for seeds resemble
            each other.
        killed: Those of them in which the target's class is lost: ACC of it falls from at least
            `ALIVE` to at most `DEAD`.
        diverted: Those in which at least `NEARLY_ALL` of the triggered images go to one class
            that is not the target, most of them wrongly.
    """

    shown: Sequence[Repaired] = ()
    scenarios: int = 0  # how many have counts
    killed: Sequence[ScenarioRow] = ()
    diverted: Sequence[ScenarioRow] = ()

    def warning(self, names: Names) -> str:
        """Return in which scenarios a low ASR is no repair, or nothing."""
        lost = f"leaves the target's class an ACC of at most {100 * DEAD:.0f}\u00a0%"
        sent = f"sends {100 * NEARLY_ALL:.0f}\u00a0% or more of the triggered images to one"
        found = []
        for effect, where in ((lost, self.killed), (f"{sent} wrong class", self.diverted)):
            attacks = Counter(names.attack(scenario.family) for scenario in where)
            places = ", ".join(
                f"{label_of(attack)}: {number}" for attack, number in attacks.items()
            )
            of_all = f"{len(where)} of {count(self.scenarios, 'scenario')} ({places})"
            found += [f"{effect} in {of_all}"] if where else []
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
    first = {t.scenario: t.place for t in reversed(results.trials)}
    models = [
        (place, trial, model)
        for place, repair in enumerate(repairs)
        for trial, model in (
            (first[repair.scenario], _VICTIM),
            *((trial.place, _REPAIRED) for trial in repair.judged),
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
    kinds = ["model", "images", "true_class", "wanted_class", "predicted_class"]
    cells = cells.groupby(kinds)["count"].sum().reset_index()
    labels = range(1 + int(cells[kinds[2:]].max().max()))
    victim = cells[cells["model"] == _VICTIM]
    wanted = victim[victim["wanted_class"] >= 0].groupby("true_class")["wanted_class"].last()
    table = pd.DataFrame({"wanted_class": wanted.reindex(labels).astype("Int64")})
    for images in ("clean", "triggered"):
        sizes = victim[victim["images"] == images].groupby("true_class")["count"].sum()
        table[f"{images}_images"] = sizes.reindex(labels, fill_value=0)
    for model, when in _WHEN.items():
        rates = rates_by(cells[cells["model"] == model], ["true_class"])
        table = table.join(rates.add_suffix(f"_{when}"))
    return Repaired(repair=repair, cells=cells, classes=table)


def _killed(cells: pd.DataFrame) -> list[int]:
    """Return the places whose repaired models no longer know the target's class."""
    triggered = cells[cells["images"] == "triggered"]
    wanted = triggered.groupby("place")["wanted_class"].agg(["min", "max"])
    targets = wanted["min"][wanted["min"] == wanted["max"]]  # all-to-all has none
    own = cells[cells["true_class"] == cells["place"].map(targets)]
    acc = rates_by(own, ["model", "place"])["acc"]
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
    return cells


def rates_by(cells: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return ACC, ASR and RA in [0, 1] of the counts of each group; NaN without an image."""
    found = {}
    for metric, (images, aim) in _RATES.items():
        own = cells[cells["images"] == images]
        hits = own["count"].where(own["predicted_class"] == own[aim], 0)
        sums = own.assign(hits=hits).groupby(list(by))[["hits", "count"]].sum()
        found[metric] = sums["hits"] / sums["count"].where(sums["count"] > 0)
    return pd.DataFrame(found)


def _check(path: Path, results: StudyResults, cells: pd.DataFrame) -> None:
    """Refuse counts of other models than those of the results: rows may have moved."""
    found = rates_by(cells, ["trial", "model"])
    numbers_of = {trial.place: trial.numbers for trial in results.trials}
    for (number, model), *rates in found.itertuples(name=None):
        numbers = numbers_of[number]
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
MOST_TIED = 4  # classes that a summary names
_WANTED = "#d55e00"  # the outline of what the attacker wants
_CSV = (
    *("class", "wanted_class", "clean_images", "acc_before", "acc_after", "triggered_images"),
    *("asr_before", "asr_after", "ra_before", "ra_after"),
)
_LEFT, _BOTTOM, _RIGHT, _TOP = 44.0, 34.0, 8.0, 22.0


def draw_classes(shown: Repaired) -> svg.SvgFigure | None:
    """Draw four confusion matrices in percent of their rows, unless they are too large."""
    classes = len(shown.classes)
    if classes > MOST_DRAWN:
        return None
    written = classes <= _MOST_WRITTEN
    width, height, columns = (21, 19, 4) if written else (13, 13, 2)
    sheet = svg.SvgCanvas(
        columns=columns,
        width=_LEFT + max(classes, 8) * width + _RIGHT,
        height=_BOTTOM + max(classes, 6) * height + _TOP,
    )
    labels = [str(label) for label in range(classes)]
    for images, model in product(("triggered", "clean"), MODELS):
        across = svg.cell_axis(labels, "predicted class")
        up = svg.cell_axis(labels[::-1], "class of the image")
        title = [f"{images.capitalize()}, {model}"]
        panel = sheet.panel((_LEFT, _BOTTOM, _RIGHT, _TOP), across, up, title, frame=())
        own = shown.cells[(shown.cells["images"] == images) & (shown.cells["model"] == model)]
        sizes = own.groupby("true_class")["count"].sum()
        for label in sizes.index:
            panel.box((0, classes - 1 - label), (classes, classes - label), fill=svg.colour_at(0))
        cells = {}
        found = own[["true_class", "predicted_class", "count"]].itertuples(index=False, name=None)
        for true, predicted, number in found:
            share = float(number / sizes[true])
            tip = f"class {true} as class {predicted}: {number} of {sizes[true]}"
            cells[predicted, classes - 1 - true] = svg.Cell(
                share=share,
                text=f"{100 * share:.0f}" if written and share >= 0.005 else "",
                tip=f"{tip} ({100 * share:.1f} %)",
            )
        svg.draw_cells(panel, cells)
        wanted = shown.classes["wanted_class"].fillna(-1).tolist()
        for row, aim in enumerate(reversed(wanted)):
            if images == "triggered" and aim >= 0:
                low, high = (aim + 0.04, row + 0.04), (aim + 0.96, row + 0.96)
                panel.box(low, high, fill="none", stroke=_WANTED, stroke_width=1)
    return sheet.finish()


def class_tables(shown: Repaired) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Return all classes, or of many those that lost most ACC and those that keep most ASR.

    Returns:
        Tables with a title and rows: class; ACC of the victim, of the repaired model and the
        difference; ASR of the two.
    """
    table = shown.classes
    if len(table) <= MOST_DRAWN:
        return [("", _rows(table))]
    ends = {
        "Classes that lost most ACC": table["acc_before"] - table["acc_after"],
        "Classes with the highest remaining ASR": table["asr_after"],
    }
    return [
        (title, _rows(table.loc[_largest(values)[:MOST_LISTED]])) for title, values in ends.items()
    ]


def extremes(shown: Repaired) -> str:
    """Return which classes lost most ACC, and which have the highest ASR left."""
    table = shown.classes
    acc, asr = "no class lost ACC", "no class has an ASR above 0"
    if lost := _most(table["acc_before"] - table["acc_after"]):
        acc = f"{_named(lost)} lost most ACC ({_ends(table, lost, 'acc')})"
    if left := _most(table["asr_after"]):
        verb = "has" if len(left) == 1 else "have"
        asr = f"{_named(left)} {verb} the highest ASR ({_ends(table, left, 'asr')})"
    return f"{acc}, {asr}"


def _most(values: "pd.Series[float]") -> list[int]:
    """Return the classes with the largest value, if that is above 0."""
    rounded = values.round(9)
    return rounded.index[(rounded == rounded.max()) & (rounded > 0)].tolist()


def _named(labels: Sequence[int]) -> str:
    names = [str(label) for label in labels[:MOST_TIED]]
    more = [f"{len(labels) - MOST_TIED} more"] if len(labels) > MOST_TIED else []
    return f"{'class' if len(labels) == 1 else 'classes'} {listed([*names, *more])}"


def _ends(table: pd.DataFrame, labels: Sequence[int], metric: str) -> str:
    first = labels[0]
    before, after = (_percent(table[f"{metric}_{when}"][first]) for when in _WHEN.values())
    return f"{before} → {after}" if len(labels) == 1 else f"{first}: {before} → {after}"


def classes_csv(shown: Repaired, setting_axes: Sequence[str]) -> str:
    """Return every class of a scenario; counts of images are the victim's, NaN is empty."""
    judged = shown.repair.judged
    cells = {name: judged[0].cells[name] for name in (*SCENARIO, *setting_axes)}
    if len(judged) > 1:  # which the defence seed tells apart
        cells["defence_seed"] = " ".join(one.cells["defence_seed"] for one in judged)
    table = shown.classes.rename_axis("class").reset_index()
    return pd.DataFrame({**cells, **table[list(_CSV)]}).to_csv(index=False)


def _rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    columns = ["acc_before", "acc_after", "asr_before", "asr_after"]
    rows = []
    for label, *rates in table[columns].itertuples(name=None):
        before, after, *asr = map(_percent, rates)
        gain = rates[1] - rates[0]
        change = NOTHING if np.isnan(gain) else signed(gain, "acc")
        rows.append((str(label), before, after, change, *asr))
    return rows


def _largest(values: "pd.Series[float]") -> list[int]:
    """Return the classes that have a value, the largest first; of equals the first class."""
    rounded = values.dropna().round(9)
    return rounded.sort_values(ascending=False, kind="stable").index.tolist()


def _percent(share: float) -> str:
    return NOTHING if np.isnan(share) else number_text(share, "acc")


MOST_THRESHOLDS = 12  # that are counted one by one
_BINS = 8  # of equal width, where there are more
_ALL_TO_ALL = "all_to_all"  # every class is a target, so no row is *the* target's


class FlagCount(NamedTuple):
    """How many done trials of an attack at a threshold flagged a kind of row."""

    attack: str
    unlearn_threshold: str  # or a range where there are many
    trials: int
    target: int  # the target's row
    others: int  # any other
    nothing: int  # none
    short: int  # the ascent ended above its threshold


def count_flags(results: StudyResults, names: Names) -> list[FlagCount]:
    """Return the counts by attack and threshold of trials that can flag the target's row.

    All-to-all attacks have no such row, plain fine-tuning flags none, and where all layers
    are watched the head's rows are a few among many.
    """
    bins = _bins(trial.cells["unlearn_threshold"] for trial in results.trials)
    groups = grouped(
        filter(can_flag, results.trials),
        lambda t: (names.attack(t.scenario.family), bins[t.cells["unlearn_threshold"]]),
    )
    return [
        FlagCount(
            *place,
            trials=len(group),
            target=sum(_target(t) in (t.flagged or ()) for t in group),
            others=sum(bool((t.flagged or frozenset()) - {_target(t)}) for t in group),
            nothing=sum(not t.flagged for t in group),
            short=sum(t.cells["threshold_reached"] == "False" for t in group),
        )
        for place, group in groups.items()
    ]


def draw_flagged(counts: Sequence[FlagCount]) -> svg.SvgFigure:
    """Draw the share of trials in which the target's row was flagged."""
    attacks = distinct(count.attack for count in counts)[::-1]  # the first attack on top
    thresholds = in_order(count.unlearn_threshold for count in counts)
    width = room(attacks) + 8 + 52.0 * max(4, len(thresholds))
    sheet = svg.SvgCanvas(columns=1, width=width, height=60 + 26.0 * len(attacks))
    panel = sheet.panel(
        (room(attacks), 34, 8, 22),
        svg.cell_axis(thresholds, "unlearn_threshold", fewest=4),
        svg.cell_axis([short(label_of(attack)) for attack in attacks]),
        ["Target's row flagged, % of done trials"],
        frame=(),
    )
    cells = {
        (thresholds.index(count.unlearn_threshold), attacks.index(count.attack)): svg.Cell(
            share=count.target / count.trials,
            text=f"{100 * count.target / count.trials:.1f}",
            tip=f"{label_of(count.attack)}, "
            f"{setting_text([('unlearn_threshold', count.unlearn_threshold)])}\n"
            f"{count.trials} done trial{'s' * (count.trials != 1)}: the target's row flagged in "
            f"{count.target}, another in {count.others}, none in {count.nothing}",
        )
        for count in counts
    }
    svg.draw_cells(panel, cells)
    return sheet.finish()


def missed(results: StudyResults, names: Names) -> list[str]:
    """Return a sentence on each ascent that did not flag the target's row, in plan order.

    Older results do not say what an ascent ended in; there are none of those. Nor do some say
    what rank the target's row had.
    """
    pairs = {(t.scenario, t.cells["defence_seed"]) for t in results.trials}
    seeds = [scenario for scenario, _ in pairs]
    return distinct(
        f"{names.scenario(t.scenario)}"
        + (f" · defence seed {t.cells['defence_seed']}" if seeds.count(t.scenario) > 1 else "")
        + f": phase 1 ended, after epoch {t.cells['stop_epoch']}, in class "
        f"{t.cells['collapse_class']} ({100 * float(t.cells['collapse_share']):.0f}\u00a0% of "
        f"predictions); the target{_ranked(t)}"
        for t in results.trials
        if can_flag(t) and t.cells.get("collapse_class") and _target(t) not in (t.flagged or ())
    )


def _ranked(trial: TrialRow) -> str:
    """Return the target of a trial, with the rank of its row where that is known."""
    target, rank = trial.scenario.family.target_label, trial.cells.get("target_rank")
    return f", {target}, had rank {rank}" if rank else f" is {target}"


def _target(trial: TrialRow) -> int:
    return int(float(trial.scenario.family.target_label))


def _bins(thresholds: Iterable[str]) -> dict[str, str]:
    """Return where each threshold is counted: by itself, or if there are many among others.

    The last bin takes its upper end too.
    """
    values = in_order(thresholds)
    if len(values) <= MOST_THRESHOLDS:
        return {value: value for value in values}
    low, high = float(values[0]), float(values[-1])
    width = (high - low) / _BINS
    ends = [f"{low + width * number:.3g}" for number in range(_BINS + 1)]
    places = {value: min(_BINS - 1, int((float(value) - low) / width)) for value in values}
    return {value: f"{ends[place]}–{ends[place + 1]}" for value, place in places.items()}


def can_flag(trial: TrialRow) -> bool:
    """Whether the trial's phase 1 could have flagged the row of *the* target's class."""
    cells = trial.cells
    return (
        trial.done
        and trial.flagged is not None
        and json.loads(trial.scenario.family.attack_options).get("labels") != _ALL_TO_ALL
        and cells.get("preset") != "fine_tuning"
        and cells.get("max_suspects") != "0"
        and cells.get("layers") != "all"
        and not trial.is_oracle  # its rows are named
    )
