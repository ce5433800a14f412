"""Optuna: which settings and which trials are not worth their time."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import optuna
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from orchestrator.spec.model import Objective, PrunerChoice

EXACT_UNTIL = 50  # pairs; beyond, SciPy takes the normal approximation

optuna.logging.set_verbosity(optuna.logging.ERROR)

PRUNERS: dict[str, type[BasePruner]] = {
    "wilcoxon": optuna.pruners.WilcoxonPruner,
    "median": optuna.pruners.MedianPruner,
    "percentile": optuna.pruners.PercentilePruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "threshold": optuna.pruners.ThresholdPruner,
    "patient": optuna.pruners.PatientPruner,
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Why something was pruned.

    Attributes:
        step: Scenarios, or epochs, seen until then.
        value: Mean of what it reached in them; for a curve its last value.
        reference: Mean of the best setting on the same scenarios; for a curve the median
            of the others at that epoch.
        p_value: One-sided, of Wilcoxon's signed-rank test; nominal: corrected neither for
            the looks before it nor for the choice of the rival.
        pairs: Scenarios that the test paired; for a curve the others that came as far.
        worse: In how many of them it was the worse one.
        against: The best setting, by its number; None for a curve.
    """

    step: int
    value: float
    reference: float | None = None
    p_value: float | None = None
    pairs: int | None = None
    worse: int | None = None
    against: int | None = None


def make_pruner(choice: PrunerChoice) -> BasePruner:
    """Return Optuna's pruner for a choice whose arguments have been checked."""
    arguments = dict(choice.arguments)
    if "wrapped" in arguments:
        wrapped = arguments.pop("wrapped")
        arguments["wrapped_pruner"] = None if wrapped is None else make_pruner(wrapped)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return PRUNERS[choice.pruner](**arguments)


class _Study(optuna.Study):
    """A study that copies its best trial once, not at each question.

    A pruner asks for it at every step, and a copy of a hundred values costs as much as the test.
    """

    _best: FrozenTrial | None = None

    @property
    def best_trial(self) -> FrozenTrial:
        if self._best is None:
            self._best = super().best_trial
        return self._best

    def tell(self, *args: Any, **kwargs: Any) -> FrozenTrial:
        self._best = None
        return super().tell(*args, **kwargs)


class PruningStudy:
    """One Optuna study, fed in the order of the plan.

    It lives in memory: given the same values in the same order it decides the same, so
    nothing of it needs to survive a kill.
    """

    def __init__(self, name: str, choice: PrunerChoice, objective: Objective) -> None:
        self.name = name
        self._choice = choice
        self._direction: Literal["maximize", "minimize"] = (
            "maximize" if objective.maximise else "minimize"
        )
        self._study = self._new_study()
        self._trials: dict[int, optuna.Trial] = {}
        self._cuts: dict[int, int] = {}

    def begin(self, number: int, params: Mapping[str, Any]) -> None:
        """Enter a setting, by its number; entering twice changes nothing."""
        if number not in self._trials:
            trial = self._study.ask()
            for name, value in params.items():
                trial.set_user_attr(name, value)
            self._trials[number] = trial

    def forget(self, number: int) -> None:
        """Undo all that was said of a setting: it ran ahead, and turned out not to count.

        Some pruners look at every trial that ever reported, so the study is built again
        without it.
        """
        if self._trials.pop(number, None) is None:
            return
        self._cuts.pop(number, None)
        told = [(n, self.trials[trial.number]) for n, trial in self._trials.items()]
        self._study, self._trials = self._new_study(), {}
        for other, former in told:
            self.begin(other, former.user_attrs)
            for step, value in former.intermediate_values.items():
                self.report(other, step, value)
            if former.state.is_finished():
                self.finish(other, former.value if former.state is TrialState.COMPLETE else None)

    def _new_study(self) -> optuna.Study:
        storage = optuna.storages.InMemoryStorage()
        optuna.create_study(study_name=self.name, direction=self._direction, storage=storage)
        return _Study(
            study_name=self.name,
            storage=storage,
            sampler=optuna.samplers.RandomSampler(seed=0),  # never asked for a value
            pruner=make_pruner(self._choice),
        )

    def report(self, number: int, step: int, value: float) -> bool:
        """Take one value of a setting and return whether the pruner gives it up."""
        trial = self._trials[number]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a ragged grid's missing pairs are no news
            trial.report(value, step)
            return not self._surely_stays(trial.number) and trial.should_prune()

    def _surely_stays(self, number: int) -> bool:
        """Whether Wilcoxon's pruner is sure to keep a trial, by a test that is 20 times cheaper.

        A resume asks for every result once more, and SciPy's test is the most of it. This is the
        same normal approximation, which SciPy takes for more than 50 pairs; near the threshold,
        and where two values are equal, Optuna's pruner is asked.
        """
        if not isinstance(self._study.pruner, optuna.pruners.WilcoxonPruner):
            return False
        own = self.trials[number].intermediate_values
        if len(own) <= EXACT_UNTIL or not any(t.value is not None for t in self.trials):
            return False
        best = self._study.best_trial.intermediate_values
        if not own.keys() <= best.keys():
            return False
        sign = 1.0 if self._study.direction is StudyDirection.MAXIMIZE else -1.0
        differences = sign * np.array([value - best[step] for step, value in own.items()])
        sizes, places, counts = np.unique(
            np.abs(differences), return_inverse=True, return_counts=True
        )
        if not sizes[0] > 0 or not np.isfinite(sizes[-1]):
            return False
        ranks = (counts.cumsum() - (counts - 1) / 2)[places]
        pairs = len(differences)
        mean, tied = pairs * (pairs + 1) / 4, (counts**3 - counts).sum() / 48
        deviation = (mean * (2 * pairs + 1) / 6 - tied) ** 0.5
        p_value = NormalDist(mean, deviation).cdf(ranks[differences > 0].sum())
        return p_value > 2 * float(self._choice.arguments["p_threshold"])

    def cut(self, number: int, values: list[float]) -> int | None:
        """Return the epoch (from 1) after which the pruner gives a curve up, if it does.

        Values already seen are passed over, so a growing curve may be given again.
        """
        if number in self._cuts:
            return self._cuts[number]
        trial = self._trials[number]
        seen = len(self.trials[trial.number].intermediate_values)
        for epoch, value in enumerate(values[seen:], start=seen + 1):
            if self.report(number, epoch, value):
                self._cuts[number] = epoch
                return epoch
        return None

    def finish(
        self, number: int, value: float | None, attributes: Mapping[str, Any] | None = None
    ) -> None:
        """Close a setting: with its value if it may serve as a reference, or as pruned.

        Args:
            number: The setting's.
            value: Its value; None if it is pruned.
            attributes: What Optuna's trial shows besides, as user attributes.
        """
        for name, attribute in (attributes or {}).items():
            self._trials[number].set_user_attr(name, attribute)
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(self._trials[number], value, state, skip_if_finished=True)

    def evidence(self, number: int) -> Evidence:
        """Return what stood against a setting when it was last reported."""
        own = self._values(self._trials[number].number)
        if not isinstance(self._study.pruner, optuna.pruners.WilcoxonPruner):
            return self._evidence_of_curve(number, own)
        from scipy.stats import wilcoxon  # more than half a second of import

        maximise = self._study.direction is StudyDirection.MAXIMIZE
        rival = self._study.best_trial
        best = rival.intermediate_values
        shared = [name for name in own if name in best]
        differences = [own[name] - best[name] for name in shared]
        tail: Literal["less", "greater"] = "less" if maximise else "greater"
        p_value = wilcoxon(np.array(differences), alternative=tail, zero_method="zsplit").pvalue
        (against,) = (n for n, trial in self._trials.items() if trial.number == rival.number)
        return Evidence(
            step=len(own),
            value=sum(own[name] for name in shared) / len(shared),
            reference=sum(best[name] for name in shared) / len(shared),
            p_value=float(p_value),
            pairs=len(shared),
            worse=sum(d < 0 if maximise else d > 0 for d in differences),
            against=against,
        )

    def _evidence_of_curve(self, number: int, own: Mapping[int, float]) -> Evidence:
        step, value = list(own.items())[-1]
        curves = (self._values(t.number) for n, t in self._trials.items() if n != number)
        others = [curve[step] for curve in curves if step in curve]
        maximise = self._study.direction is StudyDirection.MAXIMIZE
        return Evidence(
            step=step,
            value=value,
            reference=float(np.median(others)) if others else None,
            pairs=len(others),
            worse=sum(value < other if maximise else value > other for other in others),
        )

    def _values(self, number: int) -> dict[int, float]:
        return dict(self.trials[number].intermediate_values)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The settings as Optuna's trials, in the order in which they were entered."""
        return self._study.get_trials(deepcopy=False)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study behind this judge."""
        return self._study
