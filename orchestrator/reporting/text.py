"""Labels, sentences, tooltips and table rows of the report."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from orchestrator.plan.columns import METRICS, Family, column_of, count
from orchestrator.plan.labels import setting_text, value_text
from orchestrator.reporting.read_results import ScenarioRow, Setting, StudyResults, TrialRow
from orchestrator.reporting.summary import (
    HIGHEST_ASR,
    LARGEST_ACC_DROP,
    Repair,
    ScenarioOutcome,
    Spread,
    Summary,
    sound,
    spread,
    spread_of,
)
from orchestrator.search.inference import LEVEL, sample_text

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of attacks, families and scenarios.

    Attributes:
        options: Per attack, the options in which its variants differ.
        families: The scenario axes, of poison ratio and target label, that vary.
    """

    options: Mapping[str, tuple[str, ...]]
    families: tuple[str, ...]

    def attack(self, family: Family) -> str:
        """Return the attack with the options that tell its variants apart."""
        chosen = json.loads(family.attack_options)
        told = [
            f"{name}={_plain(chosen[name])}"
            for name in self.options[family.attack]
            if name in chosen
        ]
        return f"{family.attack}({', '.join(told)})" if told else family.attack

    def details(self, family: Family) -> tuple[str, ...]:
        """Return dataset and architecture, poison ratio and target label where they vary."""
        words = {"poison_ratio": "poison ratio", "target_label": "target"}
        told = (f"{words[axis]} {getattr(family, axis)}" for axis in self.families)
        return (family.dataset, family.architecture, *told)

    def family(self, family: Family) -> str:
        return " · ".join((self.attack(family), *self.details(family)))

    def scenario(self, scenario: ScenarioRow) -> str:
        return f"{self.family(scenario.family)} · seed {scenario.seed}"


def names_of(results: StudyResults) -> Names:
    """Return how this study's things are called."""
    families = distinct(trial.scenario.family for trial in results.trials)
    variants: dict[str, list[dict[str, Any]]] = {}
    for attack, text in distinct((family.attack, family.attack_options) for family in families):
        variants.setdefault(attack, []).append(json.loads(text))
    return Names(
        options={attack: _differing(entries) for attack, entries in variants.items()},
        families=tuple(
            axis
            for axis in ("poison_ratio", "target_label")
            if len({getattr(family, axis) for family in families}) > 1
        ),
    )


def distinct(values: Iterable[T]) -> list[T]:
    """Return each value once, in the order of first appearance."""
    return list(dict.fromkeys(values))


def in_order(values: Iterable[str]) -> list[str]:
    """Return the values of an axis once each: numbers by size, words as they come."""
    found = distinct(values)
    try:
        return sorted(found, key=float)
    except ValueError:
        return found


def printable(text: str) -> str:
    """Return `text` without control characters and others that no XML may hold."""
    if text.isprintable():  # which admits none of them, and is what texts nearly always are
        return text
    return "".join(char for char in text if unicodedata.category(char) not in {"Cc", "Cn", "Cs"})


def _differing(variants: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the options that not all variants give the same value."""
    options = distinct(name for variant in variants for name in variant)
    texts = {
        name: {json.dumps(variant.get(name), sort_keys=True) for variant in variants}
        for name in options
    }
    return tuple(name for name in options if len(texts[name]) > 1)


def _plain(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


NOTHING = "–"
VALUE_FREE = ("random", "qmc")  # samplers that use no value
MOST_NAMED = 4  # settings that a sentence lists
PLUS_MINUS = "\u00a0±\u00a0"  # no line breaks here


def percent(found: Spread | None) -> str:
    """Return a fraction's mean and spread in percent, without the sign."""
    if found is None:
        return NOTHING
    text = f"{100 * found.mean:.1f}"
    return text if found.sd is None else f"{text}{PLUS_MINUS}{100 * found.sd:.1f}"


def fraction(found: Spread | None) -> str:
    """Return a mean and its spread as they are."""
    if found is None:
        return NOTHING
    text = f"{found.mean:.3f}"
    return text if found.sd is None else f"{text}{PLUS_MINUS}{found.sd:.3f}"


def duration(seconds: float) -> str:
    """Return a time in the largest unit that leaves a whole number of them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def asked(results: StudyResults, summary: Summary) -> str:
    """Return the question that the study put."""
    settings = len(distinct(summary.named(trial.setting) for trial in results.trials))
    axes = [axis for axis in summary.axes if len({t.cells[axis] for t in results.trials}) > 1]
    over = f" of {listed(axes)}" if axes else ""
    families = len(summary.families())
    scenarios = len(summary.outcomes)
    spread_over = "" if families == scenarios else f" ({families} but for the seed)"
    sought = "low ASR" if summary.objective == "asr" else f"high {summary.objective.upper()}"
    return (
        f"Which of {count(settings, 'setting')}{over} repairs {count(scenarios, 'scenario')}"
        f"{spread_over} best, by {sought}, and what depends on the choice?"
    )


def answer(summary: Summary, names: Names) -> list[str]:
    """Return what the study found, in sentences that the data bear out."""
    if summary.all_weak:
        sentences = [weak_sentence(summary), sampler_sentence(summary), f"{_trials(summary)}."]
    else:
        sentences = [_best(summary), peers_sentence(summary), seeds_sentence(summary)]
        sentences += [sampler_sentence(summary), _progress(summary), _failures(summary, names)]
    return [sentence for sentence in sentences if sentence]


def weak_sentence(summary: Summary) -> str:
    """Say that no victim took, what that means, and what to do; nothing if one took."""
    if not summary.all_weak:
        return ""
    total = sum(outcome.took is not None for outcome in summary.outcomes)
    which = "The only victim is weak" if total == 1 else f"All {total} victims are weak"
    return (
        f"{which}: ACC or ASR is below what the study demands of a victim. So no setting is "
        f"best, and no number here says anything about a defence. Train victims for more epochs "
        f"(victim.epochs) or raise the poison ratio (poison_ratio)."
    )


def sampler_sentence(summary: Summary) -> str:
    """Say that a sampler learned nothing, because no setting has a value; else nothing."""
    if summary.sampler is None or summary.sampler in VALUE_FREE:
        return ""
    if any(trial.done for outcome in summary.outcomes if outcome.took for trial in outcome.trials):
        return ""
    return (
        f"The sampler ({summary.sampler}) has learned nothing: no trial on a victim that took is "
        f"done, so no setting has a value."
    )


def peers_sentence(summary: Summary) -> str:
    """Say from which settings the best one does not clearly differ, by which test."""
    if summary.common is None:
        return ""
    others, fewer = len(summary.rivals), summary.ranked - 1 - len(summary.rivals)
    left = ""
    if fewer:
        verbs = ("lacks", "is") if fewer == 1 else ("lack", "are")
        left = (
            f" {count(fewer, 'setting')} {verbs[0]} results that it has (pruned, failed or pending "
            f"there) and {verbs[1]} not compared."
        )
    if not others:
        return left.strip()
    lead = summary.rivals[0][1].lead
    if lead.p is None:
        noun = "the other setting is" if others == 1 else f"the {others} other settings are"
        return f"One scenario cannot show whether {noun} worse.{left}"
    close = unclear(summary)
    sample = (
        f"{lead.attacks} attacks' mean differences, {lead.scenarios} scenarios"
        if lead.attacks > 1
        else sample_text(lead.attacks, lead.scenarios).removeprefix("over ")
    )
    sign = ">" if close else "\u2264"
    test = (
        f"paired t-test over {sample}, selection half; p {sign} {LEVEL:.2g} after "
        f"Holm's adjustment for {count(others, 'comparison')}"
    )
    if not close:
        compared = "the other setting" if others == 1 else f"all {others} other settings"
        return f"It is clearly ahead of {compared} ({test}).{left}"
    named = "; ".join(setting_text(setting) for setting in close[:MOST_NAMED])
    if len(close) > MOST_NAMED:
        named += f"; and {len(close) - MOST_NAMED} more"
    if others == 1:
        which = "the other setting"
    elif len(close) == others:
        which = f"any of the {others} other settings"
    else:
        which = f"{len(close)} of {others} other settings"
    return f"No clear difference to {which}: {named} ({test}).{left}"


def unclear(summary: Summary) -> list[Setting]:
    """Return the settings from which the best one does not clearly differ, the nearest first."""
    return [setting for setting, rival in summary.rivals if not rival.clear]


def seeds_sentence(summary: Summary) -> str:
    """Say which defence seeds chose and which judge, if they are not the same ones."""
    if not summary.choosing:
        return ""
    chose, judge = (
        listed([str(s) for s in seeds]) for seeds in (summary.choosing, summary.judging)
    )
    return (
        f"Settings were chosen with defence {_seeds(summary.choosing)} {chose} and are judged with "
        f"{judge}: on other clean samples and re-initialisations."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return "seed" if len(seeds) == 1 else "seeds"


def difference_text(
    found: tuple[float, float | None, float | None], metric: str, p: float | None
) -> str:
    """Return a difference with its interval: points of percent, or DER with three digits.

    Args:
        found: Mean and bounds, as fractions.
        metric: Which it is of.
        p: Of its test, adjusted; a star marks a clear difference.
    """
    form, times = ("{:+.3f}", 1) if metric == "der" else ("{:+.1f}", 100)
    told = [signed(form.format(times * number)) for number in found if number is not None]
    star = "*" if p is not None and p <= LEVEL else ""
    return told[0] + star if len(told) < 3 else f"{told[0]} ({told[1]} to {told[2]}){star}"


def _best(summary: Summary) -> str:
    if summary.common is None:
        return "No trial is done, so there is no answer yet."
    outcomes = [outcome for outcome in sound(summary.outcomes) if outcome.common]
    trials = [outcome.common for outcome in outcomes]
    acc, asr, der = (spread_of(trials, column_of(name, "report")) for name in ("acc", "asr", "der"))
    acc_before, asr_before = (
        spread([outcome.victim[f"{name}_before_report"] for outcome in outcomes])
        for name in ("acc", "asr")
    )
    sought = (
        "lowest mean ASR"
        if summary.objective == "asr"
        else f"best mean {summary.objective.upper()}"
    )
    if not outcomes:
        return (
            f"{setting_text(summary.common)} has the {sought} on the selection half. No trial is "
            f"done with a defence seed that judges, so what it reaches is not known yet."
        )
    over = count(len(outcomes), "scenario")
    eligible = len(sound(summary.outcomes))
    if len(outcomes) < eligible:
        over = f"{len(outcomes)} of {count(eligible, 'scenario')}"
    spoken = "" if len(trials) == 1 else " (mean ± standard deviation over trained victims)"
    return (
        f"{setting_text(summary.common)} has the {sought} on the selection half, over {over}; "
        f"on the report half, whose images had no part in the choice, it takes ACC from "
        f"{percent(acc_before)}\u00a0% to {percent(acc)}\u00a0% and ASR from "
        f"{percent(asr_before)}\u00a0% to {percent(asr)}\u00a0%, a DER of {fraction(der)}{spoken}."
    )


def _progress(summary: Summary) -> str:
    return f"{_trials(summary)}; {_victims(summary.outcomes)}."


def _trials(summary: Summary) -> str:
    counts = summary.counts
    total = count(sum(counts.values()), "trial")
    others = [status for status in ("pruned", "failed", "pending") if counts[status]]
    if not others:
        return "The only trial is done" if total == "1 trial" else f"All {total} are done"
    told = ", ".join(f"{counts[status]} {status}" for status in others)
    return f"Of {total} {counts['done']} {'is' if counts['done'] == 1 else 'are'} done, {told}"


def _victims(outcomes: Sequence[ScenarioOutcome]) -> str:
    total = len(outcomes)
    weak = sum(outcome.took is False for outcome in outcomes)
    missing = sum(outcome.took is None for outcome in outcomes)
    told = [f"{weak} did not take"] if weak else []
    told += [f"{missing} {'is' if missing == 1 else 'are'} missing"] if missing else []
    if not told:
        return "the victim took" if total == 1 else f"all {total} victims took"
    left = ""
    if weak and any(outcome.took for outcome in outcomes):
        left = f", and the means leave {'it' if weak == 1 else 'them'} out"
    return f"of {count(total, 'victim')} {' and '.join(told)}{left}"


def _failures(summary: Summary, names: Names) -> str:
    judged = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    if not judged:
        return "No victim that took has been repaired, so where ULRL fails is not known."
    attacks = distinct(names.attack(outcome.scenario.family) for outcome in judged)
    stays, falls = [], []
    for attack in attacks:
        group = [o for o in judged if names.attack(o.scenario.family) == attack]
        stays += _share(attack, group, [o for o in group if o.asr_stays], "asr")
        falls += _share(attack, group, [o for o in group if o.acc_falls], "acc")
    marks = (
        f"ASR stays above {100 * HIGHEST_ASR:.0f}\u00a0%",
        f"ACC falls by more than {100 * LARGEST_ACC_DROP:.0f} points",
    )
    found = [
        f"{mark} for {listed(where)}"
        for mark, where in zip(marks, (stays, falls), strict=True)
        if where
    ]
    if not found:
        return (
            f"With each scenario's own best setting, nowhere does it happen that "
            f"{marks[0]} or {marks[1]}."
        )
    return (
        f"Even with each scenario's own best setting, an upper bound, ULRL fails in places: "
        f"{'; '.join(found)}."
    )


def _share(
    attack: str, group: Sequence[ScenarioOutcome], bad: Sequence[ScenarioOutcome], metric: str
) -> list[str]:
    if not bad:
        return []
    if metric == "asr":
        worst = max(o.best.numbers["asr_after_report"] for o in bad if o.best)
        extent = f"up to {100 * worst:.1f}\u00a0%"
    else:
        extent = f"by up to {100 * max(o.acc_drop for o in bad):.1f} points"
    return [f"{attack} ({len(bad)} of {count(len(group), 'scenario')}, {extent})"]


def listed(parts: Sequence[str]) -> str:
    """Return parts as a sentence lists them."""
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last


def signed(text: str) -> str:
    """Return a number with a real minus, and without any where it rounds to nothing."""
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


_MOST_ROWS = 6  # flagged neurons that are listed


def repair_tip(trial: TrialRow | Repair, names: Names) -> str:
    """Return a done trial in some lines: what, from where to where, which neurons.

    Of a repair that several defence seeds judge, metrics are means over them.
    """
    numbers = trial.numbers
    told = [
        f"{metric.upper()} {100 * numbers[f'{metric}_before_report']:.1f} → "
        f"{100 * numbers[f'{metric}_after_report']:.1f} %"
        for metric in METRICS
    ]
    judged = (trial,) if isinstance(trial, TrialRow) else trial.judged
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


def _flagged(trial: TrialRow) -> str:
    if trial.flagged is None:
        return f"repaired by {trial.cells.get('repair', 'another method')}"
    rows = sorted(map(str, trial.flagged))
    if not rows:
        return "no neuron flagged: plain fine-tuning"
    more = f" and {len(rows) - _MOST_ROWS} more" if len(rows) > _MOST_ROWS else ""
    return f"flagged {', '.join(rows[:_MOST_ROWS])}{more}"


@dataclass(frozen=True, kw_only=True)
class FamilyRow:
    """A row of the table of repairs, in words."""

    title: str
    details: tuple[str, ...]
    n: int
    weak: str
    victim: tuple[str, ...]  # ACC, ASR
    own: tuple[str, ...]  # ACC, ASR, RA, DER
    settings: tuple[str, ...]
    common: tuple[str, ...]  # ACC, ASR, DER


def repair_rows(summary: Summary, names: Names) -> list[FamilyRow]:
    """Return a row per family, and the last one for all scenarios."""
    return [*(_row(group, names) for group in summary.families().values()), _total(summary)]


def weak_text(outcomes: Sequence[ScenarioOutcome]) -> str:
    """Return a warning about victims that did not take, or nothing."""
    weak = [outcome for outcome in outcomes if outcome.took is False]
    if not weak:
        return ""
    if len(outcomes) == len(weak) > 1:
        return "no victim took"
    if len(outcomes) > 1:
        seeds = ", ".join(outcome.scenario.seed for outcome in weak)
        return f"victim of seed {seeds} did not take: left out of the means"
    acc, asr = (100 * weak[0].victim[f"{name}_before_report"] for name in ("acc", "asr"))
    return f"victim did not take: ACC {acc:.1f} %, ASR {asr:.1f} %"


def _row(group: Sequence[ScenarioOutcome], names: Names) -> FamilyRow:
    family = group[0].scenario.family
    counted = [outcome for outcome in sound(group) if outcome.best]
    # What a defence does to victims that did not take makes no setting the best one.
    settings = distinct(
        outcome.best.setting for outcome in counted if outcome.best and outcome.took
    )
    return _family_row(
        names.attack(family),
        names.details(family),
        counted or sound(group),
        weak=weak_text(group),
        settings=tuple(
            ", ".join(value_text(value) for _, value in setting) for setting in settings
        ),
    )


def _total(summary: Summary) -> FamilyRow:
    counted = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    settings = ("each its own",) if counted else ()
    return _family_row("All scenarios", (), counted, weak="", settings=settings)


def _family_row(
    title: str,
    details: tuple[str, ...],
    counted: Sequence[ScenarioOutcome],
    *,
    weak: str,
    settings: tuple[str, ...],
) -> FamilyRow:
    bests = [outcome.best for outcome in counted]
    commons = [outcome.common for outcome in counted if outcome.common]
    victims = [outcome.victim for outcome in counted if outcome.victim]
    fewer = f" (n = {len(commons)})" if 0 < len(commons) < len(counted) else ""
    return FamilyRow(
        title=title,
        details=details,
        n=sum(best is not None for best in bests),
        weak=weak,
        victim=tuple(
            percent(spread([victim[f"{metric}_before_report"] for victim in victims]))
            for metric in ("acc", "asr")
        ),
        own=_metrics(bests, ("acc", "asr", "ra", "der")),
        settings=settings,
        common=tuple(text + fewer for text in _metrics(commons, ("acc", "asr", "der"))),
    )


def _metrics(trials: Sequence[Repair | None], metrics: Sequence[str]) -> tuple[str, ...]:
    spreads = ((metric, spread_of(trials, column_of(metric, "report"))) for metric in metrics)
    return tuple(
        fraction(found) if metric == "der" else percent(found) for metric, found in spreads
    )


def half_rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Return metric, selection half, report half and their mean difference."""
    trials = [outcome.best for outcome in sound(summary.outcomes) if outcome.best]
    told = []
    for metric in ("acc", "asr", "ra", "der"):
        columns = [column_of(metric, half) for half in ("selection", "report")]
        say = fraction if metric == "der" else percent
        gaps = spread([t.numbers[columns[1]] - t.numbers[columns[0]] for t in trials])
        selection, report = (say(spread_of(trials, column)) for column in columns)
        told.append((metric.upper(), selection, report, _signed(gaps, metric)))
    return told


def _signed(gaps: Spread | None, metric: str) -> str:
    if gaps is None:
        return NOTHING
    return signed(f"{gaps.mean:+.3f}" if metric == "der" else f"{100 * gaps.mean:+.1f}")
