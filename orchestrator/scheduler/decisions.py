"""Ordered decisions on trials and settings, and the pruning decisions in words."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from orchestrator.files import csv_text, write_text
from orchestrator.plan.columns import METRICS, count, spoken
from orchestrator.plan.plan import Plan, Trial
from orchestrator.search.pruners import Evidence, PruningStudy
from orchestrator.spec.model import Objective, OwnObjective
from orchestrator.spec.space import plainly

COLUMNS = (
    *("level", "setting", "scenario", "step", "value", "reference", "p_value", "pairs"),
    *("worse", "against"),
)


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """One act of pruning, for the record.

    Attributes:
        level: ``setting``: abandoned for all further scenarios; ``curve``: one trial cut.
        trial: The trial after which a setting was abandoned, or that was cut.
    """

    level: str
    trial: Trial
    evidence: Evidence


def sentence(plan: Plan, pruning: Pruning) -> str:
    """Return a decision and its evidence in one line."""
    found, trial, objective = pruning.evidence, pruning.trial, plan.study.objective
    name = spoken(objective.value)
    value = amount(objective, found.value)
    if pruning.level == "curve":
        what = f"{trial.name} cut after epoch {found.step}: {name} {value}"
        if found.reference is None:
            return what
        return (
            f"{what}, worse than {found.worse} of {count(found.pairs or 0, 'setting')} there "
            f"(median {amount(objective, found.reference)})"
        )
    what = (
        f"setting {trial.setting.text} abandoned after {count(found.step, 'scenario')} as unlikely "
        f"to be the best of this grid"
    )
    if found.against is None or found.reference is None or found.p_value is None:
        return f"{what}: mean {name} {value}"
    return (
        f"{what}: worse than {plan.settings[found.against].text} "
        f"on {found.worse} of {found.pairs}, "
        f"nominal p = {found.p_value:.2g} (mean {name} {value} against "
        f"{amount(objective, found.reference)})"
    )


def amount(objective: Objective | OwnObjective, value: float) -> str:
    """Return a value of the objective as people read it: ACC, ASR and RA in percent."""
    return f"{value:.1%}" if objective.value in METRICS else f"{value:.3f}"


def write_prunings(plan: Plan, prunings: Iterable[Pruning], path: Path) -> None:
    """Write the decisions as a table, in the order of the plan, whole."""
    places = {number: place for place, number in enumerate(plan.setting_order)}
    turns = {number: turn for turn, number in enumerate(plan.scenario_order)}

    def rank(pruning: Pruning) -> tuple[int, int]:
        trial = pruning.trial
        return places[trial.setting.number], turns[trial.scenario.number]

    rows = [
        asdict(pruning.evidence)
        | {
            "level": pruning.level,
            "setting": pruning.trial.setting.text,
            "scenario": pruning.trial.scenario.text,
            "against": None
            if (rival := pruning.evidence.against) is None
            else plan.settings[rival].text,
        }
        for pruning in sorted(prunings, key=rank)
    ]
    write_text(path, csv_text(COLUMNS, rows))


class Status(StrEnum):
    """What a row of the results says of its trial."""

    DONE = "done"
    PRUNED = "pruned"
    SKIPPED = "skipped"  # its repair method does not apply to the network
    FAILED = "failed"
    PENDING = "pending"


@dataclass(frozen=True, kw_only=True)
class TrialOutcome:
    """What is known of a trial once it ran, before anyone decides whether it counts.

    Attributes:
        value: The objective on the selection half; None if the trial failed or was cut, or there
            is none: without an attack, or of a metric of the user's that is not finite.
        curve: The objective on the monitor subset after each epoch there was.
        error: One line, if it failed or was skipped.
        skipped: Whether it was.
        sound: Whether its victim is one: what a defence does to a weak one proves nothing.
        measured: Whether its repaired model is there, whatever its value.
    """

    value: float | None = None
    curve: tuple[float, ...] = ()
    error: str = ""
    skipped: bool = False
    sound: bool = True
    measured: bool = False


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A trial's final status.

    Attributes:
        pruning: What was decided by this trial's outcome, if something was: it is cut, or its
            setting is abandoned for all that follow.
    """

    trial: Trial
    status: Status
    error: str = ""
    pruning: Pruning | None = None


class Decisions:
    """Takes outcomes in any order and gives verdicts in the plan's.

    With setting pruning, trials are judged setting by setting, each through the shuffled
    scenarios, and a verdict waits for all before it. Without, scenarios are judged apart. A
    setting is compared with those of its own repair method alone, so that no method is dropped
    because another is better.
    What ran ahead of a decision that then abandons it counts as pruned. Trials without an attack
    have no objective, so that nothing is decided by them.

    Attributes:
        sure: Numbers of the scenarios in which no setting can be abandoned yet.
    """

    def __init__(self, plan: Plan) -> None:
        prune, objective = plan.study.prune, plan.study.objective
        self._plan = plan
        self._outcomes: dict[int, TrialOutcome] = {}
        self._verdicts: dict[int, Verdict] = {}
        self._abandoned: set[int] = set()
        self._incomplete: set[int] = set()
        self._values: dict[int, list[float]] = {}
        self._widest: Counter[str] = Counter()  # scenarios of each method's widest reference
        self._settings: dict[str, PruningStudy] = {}  # by the method's name
        self._curves: dict[tuple[int, str], PruningStudy] = {}  # by scenario and method
        methods, startup = plan.methods, None
        of = {method: f" of {method}" if len(methods) > 1 else "" for method in methods}
        if prune.setting is not None:
            self._settings = {
                method: PruningStudy(f"settings{of[method]}", prune.setting, objective)
                for method in methods
            }
            startup = prune.setting.arguments["n_startup_steps"]
        self.sure = frozenset(plan.scenario_order[:startup])
        if prune.curve is not None:
            self._curves = {
                (scenario.number, method): PruningStudy(
                    f"scenario{of[method]}: {scenario.text}", prune.curve, objective
                )
                for scenario in plan.scenarios
                if not scenario.benign
                for method in methods
            }
        self._chains: dict[int, deque[Trial]] = defaultdict(deque)  # undecided
        self._in_scenario: dict[int, list[Trial]] = defaultdict(list)
        for setting in plan.setting_order:
            self.grow(setting)
        self.prunings: list[Pruning] = []
        self.unsettled: list[Trial] = []  # cut once, for reasons that no longer hold

    def grow(self, setting: int) -> None:
        """Take in a setting, which follows all others."""
        for trial in self._plan.trials_of(setting):
            self._in_scenario[trial.scenario.number].append(trial)
            self._chain_of(trial).append(trial)

    @property
    def order(self) -> list[Trial]:
        """All trials in the order in which work on them is most useful."""
        return [t for setting in self._plan.setting_order for t in self._plan.trials_of(setting)]

    @property
    def judges(self) -> list[PruningStudy]:
        """The Optuna studies, that of the settings first."""
        return [*self._settings.values(), *self._curves.values()]

    def verdict(self, trial: Trial) -> Verdict | None:
        """Return what was decided of a trial, if anything."""
        return self._verdicts.get(trial.number)

    def value_of(self, trial: Trial) -> float | None:
        """Return what a trial says of its setting: nothing if it failed or its victim is weak."""
        verdict = self._verdicts.get(trial.number)
        if verdict is None or verdict.status is not Status.DONE:
            return None
        outcome = self._outcomes[trial.number]
        return outcome.value if outcome.sound else None

    def attributes(self, setting: int) -> dict[str, Any]:
        """Return the user attributes of a setting's trial in Optuna's studies.

        Returns:
            ``trials``: a line for each of the setting's trials that has a verdict, in the order
            of decisions. ``reason``: why the setting is pruned or has no value, or what its value
            leaves out; absent if every trial counts.
        """
        verdicts = [v for t in self._plan.trials_of(setting) if (v := self.verdict(t)) is not None]
        lost = {
            "failed": [v for v in verdicts if v.status is Status.FAILED],
            "skipped": [v for v in verdicts if v.status is Status.SKIPPED],
        }
        weak = sum(self._is_weak(v) for v in verdicts)
        of_all = f"of {count(len(verdicts), 'trial')}"
        reasons = [sentence(self._plan, v.pruning) for v in verdicts if v.pruning is not None]
        for word, found in lost.items():
            if found:
                first = f"first {found[0].trial.name}: {found[0].error}"
                reasons.append(f"{len(found)} {of_all} {word}, {first}")
        if weak:
            reasons.append(f"{weak} {of_all} left out, because the victim is weak")
        attributes: dict[str, Any] = {"trials": [self._line(v) for v in verdicts]}
        return attributes | ({"reason": "; ".join(reasons)} if reasons else {})

    def _is_weak(self, verdict: Verdict) -> bool:
        return verdict.status is Status.DONE and not self._outcomes[verdict.trial.number].sound

    def _line(self, verdict: Verdict) -> str:
        """Return what became of a trial in one line."""
        trial, objective = verdict.trial, self._plan.study.objective
        text = f"{trial.name}: {trial.scenario.text}: {verdict.status}"
        if verdict.error:
            return f"{text}: {verdict.error}"
        value = self._outcomes[trial.number].value if verdict.status is Status.DONE else None
        if value is None:
            return text
        weak = ", weak victim" if self._is_weak(verdict) else ""
        return f"{text}, {spoken(objective.value)} {amount(objective, value)}{weak}"

    def awaits(self, trial: Trial) -> bool:
        """Whether a trial has neither a verdict nor an outcome."""
        return trial.number not in self._verdicts and trial.number not in self._outcomes

    def complete(self) -> bool:
        """Whether every trial has its verdict."""
        return len(self._verdicts) == len(self._plan.trials)

    def offer(self, trial: Trial, outcome: TrialOutcome) -> list[Verdict]:
        """Take an outcome and return the verdicts that it makes possible, in order."""
        self._outcomes[trial.number] = outcome
        return list(self._advance(self._chain_of(trial)))

    def hopeless(self, trial: Trial, curve: tuple[float, ...]) -> bool:
        """Whether a running trial may stop: it is pruned already, or its curve is cut now.

        A curve is judged live only if all that comes before it in its scenario is decided;
        otherwise it runs to its end and is judged then, with the same result.
        """
        if trial.number in self._verdicts or trial.setting.number in self._abandoned:
            return True
        judge = self._curves.get((trial.scenario.number, trial.method_name))
        if judge is None:
            return False
        undecided = (t for t in self._in_scenario[trial.scenario.number] if not self.verdict(t))
        if next(undecided).number != trial.number:
            return False
        self._begin(judge, trial)
        return judge.cut(trial.setting.number, list(curve)) is not None

    def _advance(self, chain: deque[Trial]) -> Iterator[Verdict]:
        while chain and (verdict := self._decide(chain[0])) is not None:
            trial = chain.popleft()
            self._verdicts[trial.number] = verdict
            if not chain or chain[0].setting.number != trial.setting.number:
                self._close(trial)
            yield verdict

    def _decide(self, trial: Trial) -> Verdict | None:
        setting = trial.setting.number
        if setting in self._abandoned:
            self._forget(trial)
            return Verdict(trial=trial, status=Status.PRUNED)
        outcome = self._outcomes.get(trial.number)
        if outcome is None:
            return None
        cut = self._cut(trial, outcome)  # before an error: watched, it would have stopped there
        if cut is not None:
            self._incomplete.add(setting)
            return Verdict(trial=trial, status=Status.PRUNED, pruning=cut)
        if outcome.error:
            self._forget(trial)
            status = Status.SKIPPED if outcome.skipped else Status.FAILED
            return Verdict(trial=trial, status=status, error=outcome.error)
        if outcome.value is None and not outcome.measured:
            del self._outcomes[trial.number]
            self.unsettled.append(trial)
            return None
        abandoned = None
        if outcome.sound and outcome.value is not None:
            abandoned = self._weigh(trial, outcome.value)
        return Verdict(trial=trial, status=Status.DONE, pruning=abandoned)

    def _forget(self, trial: Trial) -> None:
        """What a trial reported while it ran is no evidence if it does not count."""
        judge = self._curves.get((trial.scenario.number, trial.method_name))
        if judge is not None:
            judge.forget(trial.setting.number)

    def _cut(self, trial: Trial, outcome: TrialOutcome) -> Pruning | None:
        judge = self._curves.get((trial.scenario.number, trial.method_name))
        if judge is None:
            return None
        number = trial.setting.number
        self._begin(judge, trial)
        if judge.cut(number, list(outcome.curve)) is not None:
            pruning = self._record("curve", trial, judge)
            judge.finish(number, None, {"reason": sentence(self._plan, pruning)})
            return pruning
        if outcome.value is not None:
            judge.finish(number, outcome.curve[-1])
        return None

    @staticmethod
    def _begin(judge: PruningStudy, trial: Trial) -> None:
        judge.begin(trial.setting.number, {**_plain(trial), "trial": trial.name})

    def _record(self, level: str, trial: Trial, judge: PruningStudy) -> Pruning:
        evidence = judge.evidence(trial.setting.number)
        pruning = Pruning(level=level, trial=trial, evidence=evidence)
        self.prunings.append(pruning)
        return pruning

    def _weigh(self, trial: Trial, value: float) -> Pruning | None:
        judge = self._settings.get(trial.method_name)
        if judge is None:
            return None
        number = trial.setting.number
        judge.begin(number, _plain(trial))
        self._values.setdefault(number, []).append(value)
        if not judge.report(number, trial.scenario.number, value):
            return None
        self._abandoned.add(number)
        return self._record("setting", trial, judge)

    def _close(self, trial: Trial) -> None:
        """Finish the setting of its last trial in the pruner's study.

        One that was cut somewhere, or has fewer scenarios than the present reference, is
        none: its mean may be over the easier ones.
        """
        setting, method = trial.setting.number, trial.method_name
        values = self._values.get(setting)
        if not self._settings or not values:
            return
        counted, widest = len(values), self._widest[method]
        whole = setting not in self._abandoned | self._incomplete and counted >= widest
        self._widest[method] = max(widest, counted if whole else 0)
        attributes = self.attributes(setting)
        if counted < widest and setting not in self._abandoned:
            fewer = f"it has results in {count(counted, 'scenario')}, another setting in {widest}"
            attributes["reason"] = "; ".join(filter(None, [attributes.get("reason"), fewer]))
        self._settings[method].finish(setting, sum(values) / counted if whole else None, attributes)

    def _chain_of(self, trial: Trial) -> deque[Trial]:
        """Return the trials of which each waits for those before it."""
        if self._settings:
            return self._chains[0]
        return self._chains[trial.scenario.number if self._curves else trial.number]


def _plain(trial: Trial) -> dict[str, Any]:
    """Return a trial's setting as Optuna's attributes hold it."""
    return {name: plainly(value) for name, value in trial.setting.values.items()}
