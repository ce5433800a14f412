"""Every job that a plan may need, and the trials that share a first stage."""

from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from orchestrator.pipeline.chain import chain_of
from orchestrator.plan.jobs import (
    Drawn,
    Job,
    JobKind,
    audit_job,
    audit_of,
    helper_job,
    trial_job,
    victim_job,
)
from orchestrator.plan.plan import Plan, Scenario, Trial
from orchestrator.spec.space import Axis
from ulrl.attacks import Helper


@dataclass(eq=False)
class StageGroup:
    """Trials of a scenario that share the first stage of their repair method.

    Attributes:
        shared: What the stage depends on: of groups that agree in it, one makes it for all.
        axes: The setting axes, where later settings may ask more of the same stage.
    """

    number: int
    scenario: Scenario
    shared: Hashable
    axes: Mapping[str, Axis] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)

    @cached_property
    def job(self) -> Job:
        """The job that makes the stage; a method of one stage has none but its trials'."""
        stage = chain_of(self.trials[0])[0]
        return Job(
            name=f"{stage.noun}-{self.number:05d}",
            kind=JobKind.STAGE,
            stage="unlearn",
            text=stage.noun,
            scenario=self.scenario,
            trials=tuple(self.trials),
            axes=self.axes,
        )


class JobCatalog:
    """Every job that a plan may need.

    Where settings are drawn each has groups of its own, so that a worker which knows a
    setting knows its jobs.

    Attributes:
        helpers: In the order in which scenarios need them; one for all that can share it.
        groups: Trials that share a first stage.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._drawn = plan.study.search is not None
        self._axes = plan.study.grid.settings if self._drawn else {}
        self.helpers: list[Job] = []
        self._helper_of: dict[Hashable, Job] = {}
        for scenario in plan.scenarios:
            for helper in scenario.helpers:
                place = _shared_by(scenario, helper)
                if place not in self._helper_of:
                    job = helper_job(len(self.helpers), scenario, helper)
                    self._helper_of[place] = job
                    self.helpers.append(job)
        self.groups: list[StageGroup] = []
        self._by_number: dict[int, StageGroup] = {}
        self._in_scenario: dict[int, list[StageGroup]] = defaultdict(list)
        self._group_of: dict[int, StageGroup] = {}
        self._found: dict[Hashable, StageGroup] = {}
        for trial in plan.trials:
            self.add(trial)

    def add(self, trial: Trial) -> StageGroup:
        """Take in a trial and return its group."""
        shared = chain_of(trial)[0].shared(trial)
        name: Hashable = trial.number if self._drawn else shared
        if name not in self._found:
            number = trial.number if self._drawn else len(self._found)
            group = StageGroup(
                number=number, scenario=trial.scenario, shared=shared, axes=self._axes
            )
            self._found[name] = self._by_number[number] = group
            self.groups.append(group)
            self._in_scenario[trial.scenario.number].append(group)
        self._found[name].trials.append(trial)
        self._group_of[trial.number] = self._found[name]
        return self._found[name]

    def helpers_of(self, scenario: Scenario) -> list[Job]:
        """Return what trains a scenario's helpers, in order."""
        return [self._helper_of[_shared_by(scenario, helper)] for helper in scenario.helpers]

    def group_of(self, trial: Trial) -> StageGroup:
        """Return the trials that share their first stage with `trial`."""
        return self._group_of[trial.number]

    def known(self, trial: Trial) -> StageGroup | None:
        """Return the group of a trial, if the catalog has the trial."""
        return self._group_of.get(trial.number)

    def groups_in(self, scenario: int) -> list[StageGroup]:
        """Return the groups of the scenario of that number."""
        return self._in_scenario[scenario]

    def job(self, trial: Trial, position: int) -> Job:
        """Return the job that makes a stage of a trial's chain."""
        chain = chain_of(trial)
        if position == len(chain) - 1:
            curve = self._plan.study.prune.curve
            return trial_job(trial, position, axes=self._axes, stream=curve is not None)
        if position == 0:
            return self._group_of[trial.number].job
        return Job(
            name=f"{chain[position].noun}-{trial.number:05d}",
            kind=JobKind.STAGE,
            stage="unlearn",
            text=chain[position].noun,
            scenario=trial.scenario,
            trials=(trial,),
            position=position,
        )

    def drawn_for(self, job: Job) -> Drawn | None:
        """Return what a worker has to know to find a job by its name."""
        trials = (job.audit.trial,) if job.audit is not None else job.trials
        if not self._drawn or not trials:
            return None
        return trials[0].setting.number, trials[0].setting.values

    def named(self, name: str, drawn: Drawn | None = None) -> Job:
        """Return the job of that name; `drawn` is what `drawn_for` said of it.

        Raises:
            KeyError: The plan has no such job.
        """
        noun, _, digits = name.rpartition("-")
        number = int(digits)
        if noun == JobKind.HELPER:
            return self.helpers[number]
        if noun == JobKind.VICTIM:
            return victim_job(self._plan.scenarios[number])
        if drawn is not None and number not in self._group_of:
            for trial in self._plan.with_setting(*drawn):
                self.add(trial)
        group = self._by_number.get(number)
        if group is not None and len(chain_of(group.trials[0])) > 1 and group.job.name == name:
            return group.job
        trial = group.trials[0] if self._drawn and group is not None else self._plan.trials[number]
        if (target := audit_of(noun, trial, self._plan.study.audits)) is not None:
            return audit_job(target)
        nouns = [stage.noun for stage in chain_of(trial)]
        return self.job(trial, len(nouns) - 1 if noun == JobKind.TRIAL else nouns.index(noun))


def _shared_by(scenario: Scenario, helper: Helper) -> Hashable:
    """Return what two scenarios must have in common to share a helper."""
    chain: list[Helper] = [helper]
    while (needed := chain[-1].needs) is not None:
        chain.append(needed)
    tied = any(one.of_victim for one in chain)
    architecture = scenario.architecture if tied else None
    return (helper, scenario.dataset, scenario.seed, architecture)
