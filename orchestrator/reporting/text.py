"""Labels, sentences, tooltips and table rows of the report."""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any

from orchestrator.plan.columns import (
    METHOD,
    METRICS,
    STATUSES,
    STOPPED,
    ULRL,
    Family,
    column_of,
    count,
    spoken,
)
from orchestrator.plan.labels import DAGGER, DAGGER_NOTE
from orchestrator.plan.labels import setting_text as plain_setting_text
from orchestrator.plan.labels import value_text as plain_text
from orchestrator.reporting.read_folder import (
    ScenarioRow,
    Setting,
    StudyResults,
    TrialRow,
    distinct,
    grouped,
)
from orchestrator.reporting.summary import (
    HIGHEST_ASR,
    LARGEST_ACC_DROP,
    BenignRepair,
    Repair,
    ScenarioOutcome,
    Spread,
    Summary,
    benign_repairs,
    is_wreck,
    sound,
    spread,
    spread_of,
)
from orchestrator.search.inference import LEVEL, MeanEstimate, holm, sample_text

_LABELS: ContextVar[Mapping[str, str]] = ContextVar("labels", default={})  # noqa: B039 - read only


@contextmanager
def labelled(labels: Mapping[str, str]) -> Iterator[None]:
    """Let texts, tables and figures that are made inside call names by their labels."""
    token = _LABELS.set(labels)
    try:
        yield
    finally:
        _LABELS.reset(token)


def label_of(name: str) -> str:
    """Return what to call an axis, a value or an attack, whose options in brackets stay."""
    labels = _LABELS.get()
    if name.endswith(DAGGER):
        return label_of(name.removesuffix(DAGGER)) + DAGGER
    head, bracket, options = name.partition("(")
    return labels.get(name) or f"{labels.get(head, head)}{bracket}{options}"


def value_text(value: str) -> str:
    """Return an axis value for a person."""
    return label_of(plain_text(value))


def setting_text(setting: Iterable[tuple[str, str]]) -> str:
    """Return axes and their values, as `orchestrator.plan.labels` does, by their labels."""
    return plain_setting_text(setting, label_of)


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of attacks, families and scenarios."""

    options: Mapping[str, tuple[str, ...]]  # per attack, the options in which its variants differ
    families: tuple[str, ...]  # the scenario axes, of poison ratio and target label, that vary

    def attack(self, family: Family) -> str:
        """Return the attack with the options that tell its variants apart."""
        chosen = json.loads(family.attack_options)
        own = [name for name in self.options[family.attack] if name in chosen]
        options = ", ".join(f"{name}={_plain(chosen[name])}" for name in own)
        return f"{family.attack}({options})" if own else family.attack

    def details(self, family: Family) -> tuple[str, ...]:
        """Return dataset and architecture, poison ratio and target label where they vary."""
        words = {"poison_ratio": "poison ratio", "target_label": "target"}
        varied = (
            f"{words[axis] if label_of(axis) == axis else label_of(axis)} {getattr(family, axis)}"
            for axis in self.families
            if getattr(family, axis)
        )
        return (label_of(family.dataset), label_of(family.architecture), *varied)

    def family(self, family: Family) -> str:
        return " · ".join((label_of(self.attack(family)), *self.details(family)))

    def scenario(self, scenario: ScenarioRow) -> str:
        return f"{self.family(scenario.family)} · seed {scenario.seed}"


def names_of(*studies: StudyResults) -> Names:
    """Return how the things of a study, or of several, are called."""
    families = distinct(t.scenario.family for results in studies for t in results.all)
    variants = {
        attack: [json.loads(text) for text in distinct(one.attack_options for one in group)]
        for attack, group in grouped(families, lambda family: family.attack).items()
    }
    return Names(
        options={attack: _differing(entries) for attack, entries in variants.items()},
        families=tuple(
            axis
            for axis in ("poison_ratio", "target_label")
            if len({getattr(family, axis) for family in families} - {""}) > 1
        ),
    )


def printable(text: str) -> str:
    """Return `text` without control characters and others that no XML may hold."""
    if text.isprintable():  # which admits none of them, and is what texts nearly always are
        return text
    return "".join(char for char in text if unicodedata.category(char) not in {"Cc", "Cn", "Cs"})


def _differing(variants: list[dict[str, Any]]) -> tuple[str, ...]:
    """Return the options that not all variants give the same value."""
    return tuple(
        name
        for name in distinct(name for variant in variants for name in variant)
        if len({json.dumps(variant.get(name), sort_keys=True) for variant in variants}) > 1
    )


def _plain(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


NOTHING = "–"
VALUE_FREE = ("random", "qmc")  # samplers that use no value
MOST_NAMED = 4  # settings that a sentence lists
PLUS_MINUS = "\u00a0±\u00a0"  # no line breaks here
_PERCENT = "\u00a0%"


def title_of(metric: str) -> str:
    """Return a metric's name with its unit."""
    return "DER" if metric == "der" else f"{metric.upper()}, %"


def number_text(value: float, metric: str, sign: str = "") -> str:
    """Return a metric as people read it: percent without the sign, or DER with three digits."""
    return f"{value:{sign}.3f}" if metric == "der" else f"{100 * value:{sign}.1f}"


def spread_text(found: Spread | None, metric: str) -> str:
    """Return a mean with its standard deviation, if there is one."""
    if found is None:
        return NOTHING
    text = number_text(found.mean, metric)
    return text if found.sd is None else f"{text}{PLUS_MINUS}{number_text(found.sd, metric)}"


def signed(value: float, metric: str) -> str:
    """Return a difference with a real minus, and without any sign where it rounds to nothing."""
    text = number_text(value, metric, sign="+")
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def report_texts(repairs: Sequence[Repair], metrics: Sequence[str]) -> list[str]:
    """Return mean and spread of each metric on the report half."""
    return [spread_text(spread_of(repairs, column_of(m, "report")), m) for m in metrics]


def duration(seconds: float) -> str:
    """Return a time in the largest unit that leaves a whole number of them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def asked(results: StudyResults, summary: Summary) -> str:
    """Return what the study compares, and on what."""
    trials = results.trials or results.benign
    settings = len({summary.named(trial.setting) for trial in trials})
    axes = [axis for axis in summary.axes if len({t.cells[axis] for t in trials}) > 1]
    if "repair_options" in axes:  # they belong to the method's name
        axes = [*dict.fromkeys("repair" if axis in METHOD else axis for axis in axes)]
    over = f" of {listed([*map(label_of, axes)])}" if axes else ""
    models = len({trial.scenario for trial in results.benign})
    benign = count(models, "benign model") if models else ""
    if not results.trials:
        return f"{count(settings, 'setting')}{over}, run on {benign}"
    scenarios = [outcome.scenario for outcome in summary.outcomes]
    values = zip(*((s.family[:2], *s.family[2:], s.seed) for s in scenarios), strict=True)
    words = ("attack", "dataset", "architecture", "poison ratio", "target label", "seed")
    sizes = {w: n for w, v in zip(words, values, strict=True) if (n := len(set(v))) > 1}
    grid = ""
    if sizes and prod(sizes.values()) == len(scenarios):
        grid = f" ({' × '.join(count(size, word) for word, size in sizes.items())})"
    compared = f"{count(settings, 'setting')}{over}, compared on "
    compared += f"{count(len(scenarios), 'scenario')}{grid}"
    return f"{compared}, and run on {benign}" if benign else compared


def answer(summary: Summary, names: Names) -> list[str]:
    """Return what the study found, in sentences that the data bear out."""
    if not summary.outcomes:
        sentences = [benign_sentence(summary), f"{_trials(summary)}."]
    elif summary.all_weak:
        sentences = [weak_sentence(summary), sampler_sentence(summary), f"{_trials(summary)}."]
    else:
        sentences = [unflagged_sentence(summary), short_sentence(summary)]
        sentences += [_best(summary), peers_sentence(summary)]
        sentences += [seeds_sentence(summary)]
        sentences += [sampler_sentence(summary), _progress(summary), _failures(summary, names)]
        sentences += [benign_sentence(summary)]
    return [sentence for sentence in sentences if sentence]


def benign_sentence(summary: Summary) -> str:
    """Say what the best setting does to benign models; nothing if there are none.

    Where no scenario has an attack, say that there is no best setting.
    """
    if not summary.benign:
        return ""
    if not summary.outcomes:
        return (
            "No scenario has an attack, so there is no objective and no setting is best. What each "
            "does to benign models stands below."
        )
    found = [one for one in benign_repairs(summary) if one.best]
    if not found:
        none = "The best setting has not been tried on a benign model."
        return "" if summary.common is None else none
    models = {model: own for one in found for model, own in one.trials.items()}
    whole = BenignRepair(family=found[0].family, setting=found[0].setting, best=True, trials=models)
    before, after = (whole.spread(f"acc_{when}_report") for when in ("before", "after"))
    which = count(len(models), "benign model")
    text = (
        f"On {which}, where there is nothing to remove, the best setting takes ACC from "
        f"{spread_text(before, 'acc')}{_PERCENT} to {spread_text(after, 'acc')}{_PERCENT}"
    )
    flagging = [trial for trial in whole.done if trial.flagged is not None]
    if flagging:
        alarms = sum(bool(trial.flagged) for trial in flagging)
        text += f", and flags a neuron in {alarms} of {count(len(flagging), 'trial')}"
    return f"{text}."


def weak_sentence(summary: Summary) -> str:
    """Say that no victim took, what that means, and what to do; nothing if one took."""
    if not summary.all_weak:
        return ""
    total = sum(outcome.took is not None for outcome in summary.outcomes)
    victims = [outcome.victim for outcome in summary.outcomes if outcome.took is not None]
    acc, asr = (100 * max(v[f"{m}_before_report"] for v in victims) for m in ("acc", "asr"))
    which = "The only victim is weak" if total == 1 else f"All {total} victims are weak"
    return (
        f"{which}: ACC or ASR is below what the study demands of a victim. So no setting is "
        f"best, and no number here says anything about a defence. The highest ACC is "
        f"{acc:.1f}{_PERCENT}, the highest ASR {asr:.1f}{_PERCENT}. "
        f"Against a low ACC train victims for more epochs (victim.epochs), against a low ASR raise "
        f"the poison ratio (poison_ratio)."
    )


def unflagged_sentence(summary: Summary) -> str:
    """Say that ULRL changed nothing beyond fine-tuning, where that is so in every done trial."""
    done = [trial for outcome in summary.outcomes for trial in outcome.trials if trial.done]
    if not done or any(trial.cells.get("plain_fine_tuning") != "True" for trial in done):
        return ""
    which = "the only done trial" if len(done) == 1 else f"any of the {len(done):,} done trials"
    return (
        f"No neuron is flagged in {which}: each is plain fine-tuning, and neither threshold nor "
        f"ratio makes a difference."
    )


def short_sentence(summary: Summary) -> str:
    """Say that phase 1 ended above its threshold, where it did in at least half of the trials."""
    trials = [trial for outcome in summary.outcomes for trial in outcome.trials]
    ended = [trial.cells.get("threshold_reached") for trial in trials if trial.done]
    short, all_ = ended.count("False"), ended.count("False") + ended.count("True")
    if 2 * short < all_ or not short:
        return ""
    return (
        f"Phase 1 ended at its last epoch, above the threshold, in {short:,} of {all_:,} done "
        f"trials of ULRL: it may flag the wrong neurons, or none. It needs more steps: a smaller "
        f"unlearn_batch_size where clean samples are few, or more unlearn_epochs."
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
            f" {count(fewer, 'setting')} {verbs[0]} results that it has (pruned, skipped, failed, "
            f"wrecked or pending there) and {verbs[1]} not compared."
        )
    if not others:
        return left.strip()
    level = sum(rival.lead.mean == 0 for _, rival in summary.rivals)
    if level:
        verb = "is" if level == 1 else "are"
        left = f" {count(level, 'setting')} {verb} exactly level with it; the first is named.{left}"
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
    named = "; ".join(map(setting_text, close[:MOST_NAMED]))
    if len(close) > MOST_NAMED:
        named += f"; and {len(close) - MOST_NAMED} more"
    which = f"{len(close)} of {others} other settings"
    if len(close) == others:
        which = "the other setting" if others == 1 else f"any of the {others} other settings"
    return f"No clear difference to {which}: {named} ({test}).{left}"


def unclear(summary: Summary) -> list[Setting]:
    """Return the settings from which the best one does not clearly differ, the nearest first."""
    return [setting for setting, rival in summary.rivals if not rival.clear]


def seeds_sentence(summary: Summary) -> str:
    """Say which defence seeds chose and which judge, if they are not the same ones."""
    if not summary.choosing:
        return ""
    chose, judge = (listed(list(map(str, s))) for s in (summary.choosing, summary.judging))
    noun = "seed" if len(summary.choosing) == 1 else "seeds"
    return (
        f"Settings were chosen with defence {noun} {chose} and are judged with {judge}: on other "
        f"clean samples and re-initialisations."
    )


def difference_texts(found: Sequence[tuple[MeanEstimate, str]]) -> list[str]:
    """Return differences of metrics with their intervals: points of percent, or DER.

    A star marks a clear difference after Holm's adjustment over all of them.
    """
    adjusted = iter(holm([gap.p for gap, _ in found if gap.p is not None]))
    texts = []
    for gap, metric in found:
        text = signed(gap.mean, metric)
        if gap.low is not None and gap.high is not None:
            text += f" ({signed(gap.low, metric)} to {signed(gap.high, metric)})"
        texts.append(f"{text}*" if gap.p is not None and next(adjusted) <= LEVEL else text)
    return texts


def _best(summary: Summary) -> str:
    if summary.common is None:
        if not summary.counts["done"]:
            return "No trial is done, so there is no answer yet."
        return (
            "No setting is best: every done trial on a victim that took wrecks its model, or its "
            "setting could be chosen by no defence (†)."
        )
    eligible = sound(summary.outcomes)
    outcomes = [outcome for outcome in eligible if outcome.common]
    repairs = [outcome.common for outcome in outcomes if outcome.common]
    sought = f"{'lowest' if summary.lowest else 'best'} mean {spoken(summary.objective)}"
    chosen = f"{setting_text(summary.common)} has the {sought} on the selection half"
    if not outcomes:
        return (
            f"{chosen}. No trial is done with a defence seed that judges, so what it reaches is "
            f"not known yet."
        )
    acc, asr, der = report_texts(repairs, ("acc", "asr", "der"))
    acc_before, asr_before = _victims(outcomes)
    over = f"{len(outcomes)} of " if len(outcomes) < len(eligible) else ""
    spread_of_victims = (
        "" if len(repairs) == 1 else " (mean ± standard deviation over trained victims)"
    )
    return (
        f"{chosen}, over {over}{count(len(eligible), 'scenario')}; on the report half, whose "
        f"images had no part in the choice, it takes ACC from {acc_before}{_PERCENT} to "
        f"{acc}{_PERCENT} and ASR from {asr_before}{_PERCENT} to {asr}{_PERCENT}, a DER of "
        f"{der}{spread_of_victims}.{_wrecks(repairs)}"
    )


def _wrecks(repairs: Sequence[Repair]) -> str:
    """Say how many of these repairs wreck the model; nothing if none does."""
    wrecks = sum(map(is_wreck, repairs))
    if not wrecks:
        return ""
    which = "that scenario" if len(repairs) == 1 else f"{wrecks} of these {len(repairs)}"
    return (
        f" In {which} it leaves the model at or below chance, which counts in the numbers and not "
        f"in the choice."
    )


def _victims(outcomes: Iterable[ScenarioOutcome]) -> list[str]:
    """Return ACC and ASR of the victims that there are."""
    victims = [outcome.victim for outcome in outcomes if outcome.victim]
    spreads = {m: spread([v[f"{m}_before_report"] for v in victims]) for m in ("acc", "asr")}
    return [spread_text(found, metric) for metric, found in spreads.items()]


def oracle_note(trials: Iterable[TrialRow]) -> str:
    """Say what the mark of an oracle's settings means; nothing if there is none."""
    return DAGGER_NOTE if any(trial.is_oracle for trial in trials) else ""


def _progress(summary: Summary) -> str:
    return f"{_trials(summary)}; {_taken(summary.outcomes)}."


def counted(summary: Summary) -> dict[str, int]:
    """Return how many trials ended how; those that the user stopped are no failures."""
    trials = [trial for outcome in summary.outcomes for trial in outcome.trials]
    stopped = sum(t.status == "failed" and t.cells["error"] == STOPPED for t in trials)
    counts = {**summary.counts, "stopped": stopped}
    counts["failed"] -= stopped
    return counts


def _trials(summary: Summary) -> str:
    counts = counted(summary)
    total = count(sum(counts.values()), "trial")
    others = [status for status in (*STATUSES, "stopped") if status != "done" and counts[status]]
    if not others:
        return "The only trial is done" if total == "1 trial" else f"All {total} are done"
    rest = ", ".join(f"{counts[status]} {status}" for status in others)
    return f"Of {total} {counts['done']} {'is' if counts['done'] == 1 else 'are'} done, {rest}"


def _taken(outcomes: Sequence[ScenarioOutcome]) -> str:
    total = len(outcomes)
    weak = sum(outcome.took is False for outcome in outcomes)
    missing = sum(outcome.took is None for outcome in outcomes)
    parts = [f"{weak} did not take"] if weak else []
    parts += [f"{missing} {'is' if missing == 1 else 'are'} missing"] if missing else []
    if not parts:
        return "the victim took" if total == 1 else f"all {total} victims took"
    left = ""
    if weak and any(outcome.took for outcome in outcomes):
        left = f", and the means leave {'it' if weak == 1 else 'them'} out"
    return f"of {count(total, 'victim')} {' and '.join(parts)}{left}"


def _failures(summary: Summary, names: Names) -> str:
    judged = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    trials = (trial for outcome in summary.outcomes for trial in outcome.trials)
    who = "ULRL" if all(t.cells.get("repair", ULRL) == ULRL for t in trials) else "repair"
    if not judged:
        return f"No victim that took has been repaired, so where {who} fails is not known."
    stays, falls = [], []
    for attack, group in grouped(judged, lambda o: names.attack(o.scenario.family)).items():
        pairs = [(outcome.victim, outcome.best.numbers) for outcome in group if outcome.best]
        asrs = [after["asr_after_report"] for _, after in pairs]
        drops = [before["acc_before_report"] - after["acc_after_report"] for before, after in pairs]
        size, worst = count(len(group), "scenario"), 100 * max(drops)
        if high := sum(asr > HIGHEST_ASR for asr in asrs):
            stays.append(
                f"{label_of(attack)} ({high} of {size}, up to {100 * max(asrs):.1f}{_PERCENT})"
            )
        if large := sum(drop > LARGEST_ACC_DROP for drop in drops):
            falls.append(f"{label_of(attack)} ({large} of {size}, by up to {worst:.1f} points)")
    marks = {
        f"ASR stays above {100 * HIGHEST_ASR:.0f}{_PERCENT}": stays,
        f"ACC falls by more than {100 * LARGEST_ACC_DROP:.0f} points": falls,
    }
    found = [f"{mark} for {listed(where)}" for mark, where in marks.items() if where]
    if not found:
        never = " or ".join(marks)
        return f"With each scenario's own best setting, nowhere does it happen that {never}."
    return (
        f"Even with each scenario's own best setting, an upper bound, {who} fails in places: "
        f"{'; '.join(found)}."
    )


def folded(name: str, width: int) -> list[str]:
    """Return a name in lines of `width` characters, broken where no number is, if possible."""
    lines = [""]
    parts = re.findall(r"[^\s(,=_-]+[\s(,=_-]*", name)
    for part in (p[i : i + width] for p in parts for i in range(0, len(p), width)):
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [line.rstrip() for line in lines]


def listed(parts: Sequence[str]) -> str:
    """Return parts as a sentence lists them."""
    *head, last = parts
    return f"{', '.join(head)} and {last}" if head else last


_MOST_ROWS = 6  # flagged neurons that are listed


def repair_tip(trial: TrialRow | Repair, names: Names) -> str:
    """Return a done trial in some lines: what, from where to where, which neurons.

    Of a repair that several defence seeds judge, metrics are means over them.
    """
    numbers = trial.numbers
    metrics = ", ".join(
        f"{metric.upper()} {100 * numbers[f'{metric}_before_report']:.1f} → "
        f"{100 * numbers[f'{metric}_after_report']:.1f} %"
        for metric in METRICS
    )
    judged = (trial,) if isinstance(trial, TrialRow) else trial.judged
    flagged = _flagged(judged[0]) if len(judged) == 1 else f"mean of {len(judged)} defence seeds"
    lines = [names.scenario(trial.scenario), setting_text(trial.setting), metrics]
    lines.append(f"DER {numbers['der_report']:.3f}; {flagged}")
    return "\n".join(lines if trial.victim_ok else [*lines, "the victim did not take"])


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
    details: Sequence[str]
    n: int
    weak: str
    victim: Sequence[str]  # ACC, ASR
    own: Sequence[str]  # ACC, ASR, RA, DER
    settings: Sequence[str]
    common: Sequence[str]  # ACC, ASR, DER


def setting_cell(setting: Setting) -> str:
    """Return a setting below `setting_head`: values alone, or with their axes if methods differ."""
    if any(axis in METHOD for axis, _ in setting):
        return setting_text(setting)
    return ", ".join(value_text(value) for _, value in setting)


def setting_head(summary: Summary) -> list[str]:
    """Return the axes whose values `setting_cell` lists."""
    return ["setting"] if {*METHOD} & {*summary.axes} else [*map(label_of, summary.axes)]


def repair_rows(summary: Summary, names: Names) -> list[FamilyRow]:
    """Return a row per family, and the last one for all scenarios."""
    rows = []
    for family, group in summary.families().items():
        counted = [outcome for outcome in sound(group) if outcome.best]
        # What a defence does to victims that did not take makes no setting the best one.
        settings = distinct(o.best.setting for o in counted if o.best and o.took)
        texts = [setting_cell(setting) for setting in settings]
        title, details = label_of(names.attack(family)), names.details(family)
        rows.append(_family_row(title, details, counted or sound(group), texts, weak_text(group)))
    rows += _benign_family_rows(summary, names)
    counted = [outcome for outcome in summary.outcomes if outcome.took and outcome.best]
    whole = _family_row("All scenarios", (), counted, ["each its own"] if counted else [], "")
    return [*rows, whole]


def _benign_family_rows(summary: Summary, names: Names) -> list[FamilyRow]:
    """Return a row per family of benign models, by the best setting if it is done there."""
    best = {one.family: one for one in benign_repairs(summary) if one.best}
    rows = []
    for family, group in grouped(summary.benign, lambda trial: trial.scenario.family).items():
        models = {t.scenario: t for t in group if t.victim_ok is not None}
        weak = [model.seed for model, trial in models.items() if not trial.victim_ok]
        whole = [model for model in models if model.seed not in weak] or models
        own = best[family].trials if family in best else whole
        before = spread([models[m].numbers["acc_before_report"] for m in own if m in models])
        after = best[family].spread("acc_after_report") if family in best else None
        rows.append(
            FamilyRow(
                title=label_of(names.attack(family)),
                details=names.details(family),
                n=len(best[family].trials) if family in best else 0,
                weak=f"model of seed {', '.join(weak)} is weak" if weak else "",
                victim=[spread_text(before, "acc"), NOTHING],
                own=[NOTHING] * 4,
                settings=[],
                common=[spread_text(after, "acc"), NOTHING, NOTHING],
            )
        )
    return rows


def _family_row(
    title: str,
    details: tuple[str, ...],
    counted: Sequence[ScenarioOutcome],
    settings: Sequence[str],
    weak: str,
) -> FamilyRow:
    bests = [outcome.best for outcome in counted if outcome.best]
    commons = [outcome.common for outcome in counted if outcome.common]
    fewer = f" (n = {len(commons)})" if 0 < len(commons) < len(counted) else ""
    return FamilyRow(
        title=title,
        details=details,
        n=len(bests),
        weak=weak,
        victim=_victims(counted),
        own=report_texts(bests, ("acc", "asr", "ra", "der")),
        settings=settings,
        common=[text + fewer for text in report_texts(commons, ("acc", "asr", "der"))],
    )


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


def half_rows(summary: Summary) -> list[tuple[str, ...]]:
    """Return metric, selection half, report half and their mean difference."""
    trials = [outcome.best for outcome in sound(summary.outcomes) if outcome.best]
    rows = []
    for metric in ("acc", "asr", "ra", "der"):
        one, other = (column_of(metric, half) for half in ("selection", "report"))
        gaps = spread([t.numbers[other] - t.numbers[one] for t in trials])
        halves = (spread_text(spread_of(trials, column), metric) for column in (one, other))
        rows.append((metric.upper(), *halves, signed(gaps.mean, metric) if gaps else NOTHING))
    return rows
