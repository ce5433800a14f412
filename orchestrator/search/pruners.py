"""Optuna: which settings and which trials are not worth their time."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from orchestrator.search.inference import signed_rank_p
from orchestrator.spec.model import Objective, OwnObjective, PrunerChoice

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


class PruningStudy:
    """One Optuna study, fed in the order of the plan.

    It lives in memory: given the same values in the same order it decides the same, so
    nothing of it needs to survive a kill.
    """

    def __init__(
        self, name: str, choice: PrunerChoice, objective: Objective | OwnObjective
    ) -> None:
        self.name = name
        self._choice = choice
        self._maximise = objective.maximise
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
        others = [(n, self.trials[trial.number]) for n, trial in self._trials.items()]
        self._study, self._trials = self._new_study(), {}
        for other, former in others:
            self.begin(other, former.user_attrs)
            for step, value in former.intermediate_values.items():
                self.report(other, step, value)
            if former.state.is_finished():
                self.finish(other, former.value if former.state is TrialState.COMPLETE else None)

    def _new_study(self) -> optuna.Study:
        return optuna.create_study(
            study_name=self.name,
            direction="maximize" if self._maximise else "minimize",
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

        A resume asks again for every result, and SciPy's test is the most of its time. Near the
        threshold Optuna's pruner decides.
        """
        if self._choice.pruner != "wilcoxon":
            return False
        whole = [trial for trial in self.trials if trial.state is TrialState.COMPLETE]
        if not whole:
            return False
        sign = 1.0 if self._maximise else -1.0
        best = max(whole, key=lambda trial: sign * (trial.value or 0.0)).intermediate_values
        own = self.trials[number].intermediate_values
        if not own.keys() <= best.keys():
            return False
        differences = sign * np.array([value - best[step] for step, value in own.items()])
        return signed_rank_p(differences) > 2 * float(self._choice.arguments["p_threshold"])

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
        own = self.trials[self._trials[number].number].intermediate_values
        if not isinstance(self._study.pruner, optuna.pruners.WilcoxonPruner):
            return self._evidence_of_curve(number, own)
        from scipy.stats import wilcoxon  # more than half a second of import

        rival = self._study.best_trial
        best = rival.intermediate_values
        shared = [step for step in own if step in best]
        ours, theirs = (np.array([values[step] for step in shared]) for values in (own, best))
        tail: Literal["less", "greater"] = "less" if self._maximise else "greater"
        (against,) = (n for n, trial in self._trials.items() if trial.number == rival.number)
        return Evidence(
            step=len(own),
            value=sum(ours.tolist()) / len(shared),
            reference=sum(theirs.tolist()) / len(shared),
            p_value=float(wilcoxon(ours - theirs, alternative=tail, zero_method="zsplit").pvalue),
            pairs=len(shared),
            worse=self._worse(ours, theirs),
            against=against,
        )

    def _evidence_of_curve(self, number: int, own: Mapping[int, float]) -> Evidence:
        step, value = list(own.items())[-1]
        rivals = (self.trials[t.number] for n, t in self._trials.items() if n != number)
        curves = [rival.intermediate_values for rival in rivals]
        others = np.array([curve[step] for curve in curves if step in curve])
        return Evidence(
            step=step,
            value=value,
            reference=float(np.median(others)) if others.size else None,
            pairs=others.size,
            worse=self._worse(np.array(value), others),
        )

    def _worse(self, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> int:
        return int((ours < theirs if self._maximise else ours > theirs).sum())

    @property
    def trials(self) -> list[FrozenTrial]:
        """The settings as Optuna's trials, in the order in which they were entered."""
        return self._study.get_trials(deepcopy=False)

    @property
    def study(self) -> optuna.Study:
        """The Optuna study itself."""
        return self._study
