"""Which setting to try next: one of Optuna's samplers, with the results so far."""

import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.spec.model import Objective, OwnObjective, Search
from orchestrator.spec.space import Axis, Range, Values, identity, is_open, plainly

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "qmc": optuna.samplers.QMCSampler,
    "random": optuna.samplers.RandomSampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
}
QUIET = ("qmc", "cmaes", "gp")  # samplers that else warn of an axis which they draw at random
REMEMBERING = ("cmaes",)  # samplers that keep their state with the trials that they drew


def make_sampler(search: Search, number: int) -> BaseSampler:
    """Return Optuna's sampler for the setting of that number.

    Its seed depends on the number, so that a resumed study draws as one that went on would:
    a sequence goes on by itself.
    """
    arguments = dict(search.arguments)
    if search.sampler in QUIET:
        arguments["warn_independent_sampling"] = False
    seed = (
        search.seed if search.sampler == "qmc" else zlib.crc32(f"{search.seed} {number}".encode())
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[search.sampler](seed=seed, **arguments)


class Sampler:
    """One Optuna study in which a trial is a setting; it lives in memory.

    What was drawn is on record elsewhere, so a new sampler is given it and goes on.
    """

    name = "search"

    def __init__(
        self, search: Search, axes: Mapping[str, Axis], objective: Objective | OwnObjective
    ) -> None:
        self._search = search
        self._axes = axes
        self._distributions = {
            name: _distribution(axis) for name, axis in axes.items() if is_open(axis)
        }
        self.study = optuna.create_study(
            study_name=self.name,
            direction="maximize" if objective.maximise else "minimize",
            sampler=make_sampler(search, 0),
            pruner=optuna.pruners.NopPruner(),
        )
        self._trials: dict[int, int] = {}  # numbers in the study by the setting's
        self._proposed: tuple[str, int] | None = None  # a setting's identity, and its trial

    def proposals(self, number: int, tries: int) -> Iterator[dict[str, Any]]:
        """Yield settings that the sampler wants, the next if the former was of no use.

        Args:
            number: Of the setting that is looked for.
            tries: Settings at most; a sequence passes over what it gave before.
        """
        self.study.sampler = make_sampler(self._search, number)
        if self._search.sampler == "qmc":
            tries += len(self.study.trials)
        for _ in range(tries):
            trial = self.study.ask(self._distributions)
            values = self._values(trial.params)
            for name, value in self._params(values).items():  # rounded, as they are tried
                shape = self._distributions[name]
                shown = shape.to_internal_repr(value)
                self._storage.set_trial_param(trial._trial_id, name, shown, shape)  # noqa: SLF001
            self._proposed = identity(values), trial.number
            yield values
            self._proposed = None
            self.study.tell(trial.number, state=TrialState.FAIL)

    def enter(self, number: int, values: Values) -> None:
        """Enter a setting that was drawn, by the sampler or otherwise; once is enough."""
        if number in self._trials:
            return
        proposed, self._proposed = self._proposed, None
        params = self._params(values)
        if proposed is not None and proposed[0] == identity(values):
            self._trials[number] = proposed[1]
        elif self._search.sampler in REMEMBERING:
            self.study.sampler = make_sampler(self._search, number)
            self.study.enqueue_trial(params)
            self._trials[number] = self.study.ask(self._distributions).number
        else:
            self._trials[number] = len(self.study.trials)
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, params=params, distributions=self._distributions
                )
            )

    def tell(
        self,
        number: int,
        values: Sequence[float],
        *,
        whole: bool,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell what a setting reached.

        Args:
            number: The setting's.
            values: Of its trials, in the order of decisions; their running mean is kept.
            whole: Whether it is all that was meant to be, so that the mean is the setting's
                value; else it is pruned with the mean of what there is.
            attributes: What Optuna's trial shows besides, as user attributes.
        """
        trial = self.study.trials[self._trials[number]]
        for name, attribute in (attributes or {}).items():
            self._storage.set_trial_user_attr(trial._trial_id, name, attribute)  # noqa: SLF001
        means = [total / count for count, total in enumerate(accumulate(values), start=1)]
        for step, mean in enumerate(means, start=1):
            self._storage.set_trial_intermediate_value(trial._trial_id, step, mean)  # noqa: SLF001
        if not values:
            self.study.tell(trial.number, state=TrialState.FAIL)
        elif whole:
            self.study.tell(trial.number, means[-1])
        else:
            self.study.tell(trial.number, state=TrialState.PRUNED)

    @property
    def trials(self) -> list[FrozenTrial]:
        """The settings that were drawn, as Optuna's trials, in that order."""
        trials = self.study.get_trials(deepcopy=False)
        return [trials[number] for _, number in sorted(self._trials.items())]

    @property
    def _storage(self) -> optuna.storages.BaseStorage:
        return self.study._storage  # noqa: SLF001 - a trial's own methods would draw again

    def _params(self, values: Values) -> dict[str, Any]:
        return {
            name: _choice(values[name]) if isinstance(self._axes[name], tuple) else values[name]
            for name in self._distributions
        }

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        values = {}
        for name, axis in self._axes.items():
            if isinstance(axis, Range):
                values[name] = axis.settle(params[name])
            elif name in params:
                values[name] = next(one for one in axis if _choice(one) == params[name])
            else:
                (values[name],) = axis
        return values


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, tuple):
        return CategoricalDistribution([_choice(value) for value in axis])
    if axis.whole:
        low, high, step = int(axis.low), int(axis.high), int(axis.step or 1)
        return IntDistribution(low, high, log=axis.log, step=step)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _choice(value: Any) -> bool | int | float | str | None:
    """Return a value of a list as Optuna can hold it."""
    plain = plainly(value)
    return json.dumps(plain) if isinstance(plain, list) else plain
