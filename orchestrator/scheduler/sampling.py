"""Settings that a sampler draws, one when there is nothing else to do."""

import random
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from orchestrator.plan.plan import Plan, Trial, name_of_method, own_setting
from orchestrator.scheduler.decisions import Decisions, Status
from orchestrator.search.samplers import Sampler
from orchestrator.spec.model import Study
from orchestrator.spec.space import Values, identity, plainly
from orchestrator.store.study_folder import StudyFolder

TRIES = 8  # of a sampler, until a setting that it repeats is drawn evenly instead
EVEN_TRIES = 1000  # of those, until what is left of a small space is listed


class SettingSampling:
    """The settings of a study that are drawn: which, when, and what the sampler learns.

    A setting's value is the mean objective of its trials on the selection half, those of
    weak victims left out; one that was abandoned, cut or failed in part is reported as
    pruned, with the mean of its results so far. Each repair method has a sampler of its own, and
    methods take turns.
    """

    def __init__(self, plan: Plan, folder: StudyFolder, decisions: Decisions) -> None:
        self._plan, self._folder, self._decisions = plan, folder, decisions
        self._spaces = plan.study.grid.spaces
        self._drawn = plan.settings_of_methods
        self._left: dict[int, set[int]] = defaultdict(set)  # a setting's undecided trials
        self._untouched: set[int] = set()  # settings of which nothing was begun
        self._ended: list[int] = []
        self._exhausted: set[str] = set()  # methods of which no other setting is found
        for trial in plan.trials:
            self._left[trial.setting.number].add(trial.number)

    @property
    def possible(self) -> bool:
        """Whether there are settings to draw."""
        return self._next_method is not None

    @property
    def timely(self) -> bool:
        """Whether something of every setting drawn so far has been begun."""
        return not self._untouched

    @property
    def samplers(self) -> list[Sampler]:
        """Optuna's studies of the settings, one per repair method, if they are drawn."""
        return [] if self._plan.study.search is None else [*self._samplers.values()]

    def begun(self, trial: Trial) -> None:
        """Note that a trial, or a job it needs, was handed out."""
        self._untouched.discard(trial.setting.number)

    def decided(self, trial: Trial) -> None:
        """Note a verdict; after a setting's last one the sampler learns its value."""
        number = trial.setting.number
        self.begun(trial)
        left = self._left[number]
        left.discard(trial.number)
        if left or self._plan.study.search is None:
            return
        self._ended.append(number)
        if "_samplers" in self.__dict__:
            self._tell(self._samplers[trial.method_name], number)

    def draw(self) -> list[Trial]:
        """Draw a setting, record it, and return its trials; none if no setting is left.

        They are in the plan then, and in the order in which decisions meet them.
        """
        while (method := self._next_method) is not None:
            values = next(self._candidates(method), None)
            if values is not None:
                return self._take(method, values)
            self._exhausted.add(method)
        return []

    def _take(self, method: str, values: dict[str, Any]) -> list[Trial]:
        """Record a setting that was drawn, and return its trials."""
        self._folder.record_setting({name: plainly(value) for name, value in values.items()})
        trials = self._plan.grow(values)
        number = trials[0].setting.number
        self._left[number] = {trial.number for trial in trials}
        self._untouched.add(number)
        self._drawn[method] += 1
        self._samplers[method].enter(number, values)
        self._decisions.grow(number)
        order = self._plan.scenario_order
        return sorted(trials, key=lambda trial: order.index(trial.scenario.number))

    @property
    def _next_method(self) -> str | None:
        """The repair method of the next setting: of those with the fewest, the file's first."""
        wanted = self._plan.to_draw.items()
        left = [m for m, most in wanted if self._drawn[m] < most and m not in self._exhausted]
        return min(left, key=self._drawn.__getitem__, default=None)

    @cached_property
    def _samplers(self) -> dict[str, Sampler]:
        """The sampler of each repair method, with all settings so far."""
        study = self._plan.study
        if study.search is None:
            raise TypeError("the settings of a grid are not drawn")
        samplers = {}
        for method, space in self._spaces.items():
            name = f"search of {method}" if len(self._spaces) > 1 else "search"
            samplers[method] = Sampler(study.search, space.axes, study.objective, name)
        of = [samplers[name_of_method(setting.values)] for setting in self._plan.settings]
        for setting, sampler in zip(self._plan.settings, of, strict=True):
            sampler.enter(setting.number, setting.values)
        for number in self._ended:
            self._tell(of[number], number)
        return samplers

    def _tell(self, sampler: Sampler, setting: int) -> None:
        """Report a setting's values to the sampler, scenario by scenario."""
        decisions, trials = self._decisions, self._plan.trials_of(setting)
        values = [value for t in trials if (value := decisions.value_of(t)) is not None]
        verdicts = [decisions.verdict(trial) for trial in trials]
        whole = all(verdict and verdict.status is Status.DONE for verdict in verdicts)
        sampler.tell(setting, values, whole=whole, attributes=decisions.attributes(setting))

    def _candidates(self, method: str) -> Iterator[dict[str, Any]]:
        """Yield settings of a method that are new and have a trial, the most wanted first."""
        known = {identity(setting.values) for setting in self._plan.settings}

        def is_new(values: Values) -> bool:
            return identity(values) not in known and bool(self._plan.with_setting(0, values))

        own = own_setting(self._plan.study, method)
        if own is not None and is_new(own):
            yield own
        number, space = self._drawn[method], self._spaces[method]
        for values in self._samplers[method].proposals(number, TRIES):
            if is_new(values):
                yield values
        source = random.Random(zlib.crc32(f"even {number}".encode()))  # noqa: S311 - no secret
        for _ in range(EVEN_TRIES):
            if is_new(values := space.draw(source)):
                yield values
        yield from filter(is_new, space.everything(source))


def foresee(plan: Plan) -> None:
    """Fill a plan with settings as they might be drawn, for an estimate of what they cost."""
    if plan.study.search is None:
        return
    source = random.Random("settings to come")  # noqa: S311 - no secret depends on it
    known = {identity(setting.values) for setting in plan.settings}
    counts = plan.settings_of_methods
    for method, space in plan.study.grid.spaces.items():
        wanted = plan.to_draw[method]
        values = own_setting(plan.study, method) or space.draw(source)
        for _ in range(EVEN_TRIES + 20 * wanted):
            if counts[method] == wanted:
                break
            if identity(values) not in known:
                known.add(identity(values))
                counts[method] += bool(plan.grow(values))
            values = space.draw(source)


def recorded(study: Study, folder: StudyFolder) -> Iterator[Values]:
    """Yield the settings drawn by former runs that the study still admits, each once."""
    if study.search is None:
        return
    spaces = study.grid.spaces.values()
    seen = set()
    for plain in folder.settings():
        found: Iterator[Mapping[str, Any] | None] = (space.read(plain) for space in spaces)
        values = next((one for one in found if one is not None), None)
        if values is not None and identity(values) not in seen:
            seen.add(identity(values))
            yield values
