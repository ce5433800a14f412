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
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from orchestrator.spec.model import Objective, OwnObjective, Search
from orchestrator.spec.space import (
    Axis,
    DrawnMethod,
    Range,
    Values,
    identity,
    is_open,
    plainly,
)
from ulrl.methods import RepairMethod

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
    """One Optuna study in which a trial is a setting of a repair method; it lives in memory.

    What was drawn is on record elsewhere, so a new sampler is given it and goes on. Where an entry
    of `repair` has ranges, its options are drawn after the entry, and for it alone.
    """

    def __init__(
        self,
        search: Search,
        axes: Mapping[str, Axis],
        objective: Objective | OwnObjective,
        name: str = "search",
    ) -> None:
        self.name = name
        self._search = search
        self._axes = axes
        entries = axes.get("repair", ())
        self._entries = entries if isinstance(entries, tuple) else ()
        self._distributions = {
            name: _distribution(axis)
            for name, axis in axes.items()
            if is_open(axis) and not (name == "repair" and len(self._entries) == 1)
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
            values = self._values(trial)
            params, shapes = self._params(values)
            for name, value in params.items():  # rounded, as they are tried
                shape = shapes[name]
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
        params, shapes = self._params(values)
        if proposed is not None and proposed[0] == identity(values):
            self._trials[number] = proposed[1]
        elif self._search.sampler in REMEMBERING:
            self.study.sampler = make_sampler(self._search, len(self._trials))
            self.study.enqueue_trial(params)
            trial = self.study.ask(self._distributions)
            self._values(trial)
            self._trials[number] = trial.number
        else:
            self._trials[number] = len(self.study.trials)
            self.study.add_trial(
                create_trial(state=TrialState.RUNNING, params=params, distributions=shapes)
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

    def _params(self, values: Values) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        """Return what Optuna calls a setting, and what each of it was drawn from."""
        params, shapes = {}, dict(self._distributions)
        for name in self._distributions:
            value, axis = values[name], self._axes[name]
            params[name] = _choice(_entry(axis, value)) if isinstance(axis, tuple) else value
        entry = _entry(self._entries, values.get("repair"))
        for option, axis in entry.ranges if isinstance(entry, DrawnMethod) else ():
            name = self._name(entry, option)
            params[name], shapes[name] = getattr(values["repair"], option), _distribution(axis)
        return params, shapes

    def _values(self, trial: Trial) -> dict[str, Any]:
        """Return a setting from Optuna's trial, which goes on to draw the options of an entry."""
        values, params = {}, dict(trial.params)
        for name, axis in self._axes.items():
            if isinstance(axis, Range):
                values[name] = axis.settle(params[name])
                continue
            one = axis[0]
            if name in params:
                one = next(one for one in axis if _choice(one) == params[name])
            if isinstance(one, DrawnMethod):
                found = {
                    option: axis.settle(_suggest(trial, self._name(one, option), axis))
                    for option, axis in one.ranges
                }
                one = one.at(found)
            values[name] = one
        return values

    def _name(self, entry: DrawnMethod, option: str) -> str:
        """Return what Optuna calls an option; ranges of two entries may differ."""
        drawn = [one for one in self._entries if isinstance(one, DrawnMethod)]
        return option if len(drawn) == 1 else f"{option} of {entry.label}"


def _entry(axis: Sequence[Any], value: Any) -> Any:
    """Return the entry with ranges that a method was drawn from, or a value as it is."""
    drawn = [one for one in axis if isinstance(one, DrawnMethod) and value in one]
    return drawn[0] if drawn and value not in axis else value


def _suggest(trial: Trial, name: str, axis: Range) -> float:
    if axis.whole:
        low, high, step = int(axis.low), int(axis.high), int(axis.step or 1)
        return trial.suggest_int(name, low, high, log=axis.log, step=step)
    return trial.suggest_float(name, axis.low, axis.high, log=axis.log, step=axis.step)


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, tuple):
        return CategoricalDistribution([_choice(value) for value in axis])
    if axis.whole:
        low, high, step = int(axis.low), int(axis.high), int(axis.step or 1)
        return IntDistribution(low, high, log=axis.log, step=step)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _choice(value: Any) -> bool | int | float | str | None:
    """Return a value of a list as Optuna can hold it."""
    if isinstance(value, RepairMethod | DrawnMethod):
        return value.label
    plain = plainly(value)
    return json.dumps(plain) if isinstance(plain, list) else plain
