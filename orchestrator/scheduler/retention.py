"""Which repaired models stay in the store."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from orchestrator.plan.columns import column_of
from orchestrator.plan.plan import Trial
from orchestrator.scheduler.callbacks import StudyCallback
from orchestrator.scheduler.decisions import Status, Verdict
from orchestrator.scheduler.results_table import ResultRows
from orchestrator.scheduler.scheduler import StudyScheduler, point_of
from orchestrator.search.best import Choice
from orchestrator.spec.model import AuditedModels, LogModels
from orchestrator.spec.space import is_open
from orchestrator.store.store import Store


class ModelRetention(StudyCallback):
    """Finds each scenario's best trial; with ``log_models: best`` only its weights stay stored.

    Where a study audits repaired models, so do those of each repair method's best trial. With
    ``all`` every repaired model stays; with ``none`` the workers delete each one once it is
    evaluated.
    """

    def __init__(self, scheduler: StudyScheduler, results: ResultRows, store: Store) -> None:
        self._scheduler, self._results, self._store = scheduler, results, store
        study = scheduler.plan.study
        axis = study.grid.settings.get("defence_seed")
        # With several defence seeds the best trial depends on the other seeds of its setting.
        self._several = axis is not None and is_open(axis)
        self._searching = study.search is not None
        self._deletes = study.mlflow.log_models is LogModels.BEST
        self._done: dict[int, list[Trial]] = defaultdict(list)  # with weights, by scenario
        self._decided: Counter[int] = Counter()  # by scenario
        self._planned = Counter(trial.scenario.number for trial in scheduler.plan.trials)
        self._best: dict[int, Trial] = {}
        self._each = bool(study.audits) and study.audited is not AuditedModels.VICTIM
        self._best_of_methods: dict[int, list[Trial]] = {}  # by scenario, where they are audited

    @property
    def best(self) -> Mapping[int, Trial]:
        """Each scenario's best trial by the scenario's number; final after `finish`."""
        return self._best

    def audited(self) -> list[Trial]:
        """Return the trials whose repaired models the study audits, once all are decided."""
        self.finish()
        plan, verdicts = self._scheduler.plan, self._scheduler.decisions
        if plan.study.audited is AuditedModels.ALL:
            decided = ((trial, verdicts.verdict(trial)) for trial in plan.rows)
            return [t for t, verdict in decided if verdict and verdict.status is Status.DONE]
        return [
            trial
            for number in sorted(self._best_of_methods)
            for trial in self._best_of_methods[number]
        ]

    def decided(self, verdict: Verdict) -> None:
        scenario = verdict.trial.scenario.number
        self._decided[scenario] += 1
        done = verdict.status is Status.DONE
        if done:
            self._done[scenario].append(verdict.trial)
        if self._several:
            if not self._undecided(scenario):
                self._choose(scenario, self._scheduler.plan.rows)
        elif done:
            self._choose(scenario, sorted(self._done[scenario], key=lambda trial: trial.number))

    def finish(self) -> None:
        """Choose where that needs the whole study; what is undecided still deletes nothing."""
        if self._several:
            for scenario in list(self._done):
                self._choose(scenario, self._scheduler.plan.rows)

    def _undecided(self, scenario: int) -> int:
        """Return how many trials are to come; while settings are drawn, of the whole study."""
        if self._searching:
            return self._scheduler.plan.most_trials - self._decided.total()
        return self._planned[scenario] - self._decided[scenario]

    def _choose(self, scenario: int, planned: Sequence[Trial]) -> None:
        """Find the best of a scenario's done trials, and delete the weights of the others.

        Args:
            scenario: Its number.
            planned: All trials that say what a setting is, in the order of the results' rows.
        """
        trials = self._done[scenario]
        best = self._best_of(scenario, trials, planned)
        if best is not None:
            self._best[scenario] = best
        stay = [] if best is None else [best]
        if self._each:
            stay = self._best_of_methods[scenario] = self._best_of_each(scenario, trials, planned)
        if self._several:
            if self._undecided(scenario):
                return  # a later trial may make another one the best
            del self._done[scenario]  # that was the last choice
        else:
            self._done[scenario] = stay
        if self._deletes:
            scores = self._scheduler.scores
            keys = {scores[trial.number].relearn_key for trial in trials}
            for key in keys - {scores[trial.number].relearn_key for trial in stay}:
                self._store.delete("repaired", key)

    def _best_of_each(
        self, scenario: int, trials: Sequence[Trial], planned: Sequence[Trial]
    ) -> list[Trial]:
        """Return the best trial of each repair method that has one.

        Without an attack it is the one that keeps most of the accuracy, on the selection half.
        """
        plan, best = self._scheduler.plan, list[Trial | None]()
        for method in plan.methods:
            own = [trial for trial in trials if trial.method_name == method]
            if plan.scenarios[scenario].benign:
                rows = [(self._results.row(trial), trial) for trial in own]
                whole = [(row["acc_after_selection"], t) for row, t in rows if not row["wrecked"]]
                best.append(max(whole, key=lambda pair: pair[0], default=(None, None))[1])
            else:
                alike = [trial for trial in planned if trial.method_name == method]
                best.append(self._best_of(scenario, own, alike))
        return [trial for trial in best if trial is not None]

    def _best_of(
        self, scenario: int, trials: Sequence[Trial], planned: Sequence[Trial]
    ) -> Trial | None:
        """Return the best trial of the best setting, by the rule of `orchestrator.search.best`."""
        objective = self._scheduler.plan.study.objective
        reached = {trial.number: self._reached(trial) for trial in trials}
        choice = Choice(
            point_of(trial, objective, reached.get(trial.number), took=None) for trial in planned
        )
        ranked = choice.within(scenario)
        if not ranked:
            return None
        own = [
            (point.value, trial)
            for trial, point in zip(planned, choice.points, strict=True)
            if trial.number in reached
            and point.value is not None
            and choice.name(point) == ranked[0].name
        ]
        return max(own, key=lambda pair: pair[0])[1]

    def _reached(self, trial: Trial) -> float | None:
        """Return a done trial's objective on the selection half; None for a collapsed model."""
        row = self._results.row(trial)
        if row["wrecked"]:
            return None
        objective = self._scheduler.plan.study.objective
        value: float | None = row[column_of(objective.value, "selection")]
        return value
