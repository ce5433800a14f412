"""What a running study has come to: counts, who does what, what leads, what is left."""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.best import Choice, margin
from orchestrator.decisions import Status, Verdict
from orchestrator.names import scenario_text
from orchestrator.outcomes import point_of
from orchestrator.outlook import Outlook
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.plural import count
from orchestrator.prunings import amount
from orchestrator.work import Finished, Item, Progress
from ulrl.metrics import Metrics

RECENT = 3  # finished trials that a screen shows


@dataclass(frozen=True, kw_only=True)
class Reached:
    """What a trial reached on the selection half."""

    value: float  # of the objective
    metrics: Metrics


@dataclass(frozen=True, kw_only=True)
class Leader:
    """Which setting is best so far, by the rule of `orchestrator.best`.

    Attributes:
        text: The setting's values.
        value: Its mean of the objective.
        scenarios: Behind that mean.
        lead: On the next best, never below 0; None as long as no other setting has results
            in as many places.
    """

    text: str
    value: float
    scenarios: int
    lead: float | None


class Tally:
    """Counts of a running study, from what its observer hears."""

    def __init__(self, plan: Plan, reached: Callable[[Trial], Reached | None]) -> None:
        self.plan = plan
        self.statuses: Counter[Status] = Counter()
        self.running: dict[str, tuple[Item, Progress | None]] = {}
        self.recent: deque[tuple[Trial, Reached]] = deque(maxlen=RECENT)
        self.abandoned: set[int] = set()
        self.weak: set[int] = set()
        self.victims_left = len(plan.scenarios)
        self._reached = reached
        self._values: dict[int, float] = {}  # by the trial's number
        self._leader: tuple[int, Leader | None] = (-1, None)
        self._outlook = Outlook(plan)
        self._started = time.monotonic()
        self._workers: dict[str, str] = {}
        self._names = _short_names(plan)

    def begin(self) -> None:
        """Start the clock."""
        self._started = time.monotonic()
        self._outlook.begin()

    def start(self, item: Item) -> None:
        self.running[item.name] = (item, None)

    def progress(self, item: Item, progress: Progress) -> None:
        if item.name in self.running:
            self.running[item.name] = (item, progress)
        now = time.monotonic()
        self._outlook.heard(item, progress.place, now, progress.epoch, progress.epochs)
        self._seen(progress.place)

    def end(self, item: Item, result: Finished) -> None:
        self.running.pop(item.name, None)
        self._outlook.ended(item, result.place, time.monotonic(), result.spent)

    def victim(self, scenario: Scenario, *, weak: bool) -> None:
        self.victims_left -= 1
        self._outlook.victim(scenario)
        if weak:
            self.weak.add(scenario.number)

    def decided(self, verdict: Verdict) -> None:
        trial = verdict.trial
        self.running.pop(trial.name, None)  # stopped, if it still runs
        self.statuses[verdict.status] += 1
        self._outlook.decided(trial)
        if verdict.pruning is not None and verdict.pruning.level == "setting":
            self.abandoned.add(trial.setting.number)
        reached = self._reached(trial) if verdict.status is Status.DONE else None
        if reached is not None:
            self.recent.append((trial, reached))
            self._values[trial.number] = reached.value

    @property
    def decided_count(self) -> int:
        return self.statuses.total()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._started

    @property
    def left(self) -> float | None:
        """Seconds until the end, once something is known."""
        return self._outlook.left(time.monotonic(), len(self._workers))

    def worker(self, place: str) -> str:
        """Return a short name of a worker: a number, with its machine where there are several."""
        return self._workers.get(place, "")

    def name(self, scenario: Scenario) -> str:
        """Return what tells a scenario from the others, in few words."""
        return self._names[scenario.number]

    @property
    def leader(self) -> Leader | None:
        """Which setting is best so far; None without a result on a victim that took."""
        if self._leader[0] != self.decided_count:
            self._leader = (self.decided_count, self._lead())
        return self._leader[1]

    def _lead(self) -> Leader | None:
        objective = self.plan.study.objective
        choice = Choice(
            point_of(
                trial,
                objective,
                self._values.get(trial.number),
                took=trial.scenario.number not in self.weak,
            )
            for trial in self.plan.rows
        )
        ranked = choice.overall()
        if not ranked:
            return None
        best = ranked[0]
        texts = (
            trial.setting.text
            for trial, point in zip(self.plan.rows, choice.points, strict=True)
            if choice.name(point) == best.name
        )
        return Leader(
            text=next(texts),
            value=abs(best.mean),
            scenarios=best.scenarios,
            lead=margin(ranked),
        )

    def _seen(self, place: str) -> None:
        if place not in self._workers:
            hosts = {known.partition(":")[0] for known in (*self._workers, place)}
            self._workers[place] = ""
            for number, known in enumerate(self._workers, start=1):
                host = f"{known.partition(':')[0]}/" if len(hosts) > 1 else ""
                self._workers[known] = f"{host}{number}"

    def counts(self) -> str:
        """Return how many trials are decided, and how."""
        counts = ", ".join(
            f"{self.statuses[status]} {status}" for status in Status if self.statuses[status]
        )
        text = f"{self.decided_count}/{self.plan.most_trials} trials"
        return f"{text} ({counts})" if counts else text

    def best(self) -> str:
        """Return the best setting so far, or nothing."""
        leader, objective = self.leader, self.plan.study.objective
        if leader is None:
            return ""
        ahead = ""
        if leader.lead is not None:
            lead = amount(objective, leader.lead)
            level = lead == amount(objective, 0.0)
            ahead = ", level with the next" if level else f", {lead} ahead"
        return (
            f"best {objective.value.upper()} {amount(objective, leader.value)} in "
            f"{count(leader.scenarios, 'scenario')}{ahead}: {leader.text}"
        )


def _short_names(plan: Plan) -> list[str]:
    """Return each scenario's name; options of an attack only where it is there twice."""
    variants: dict[str, set[str]] = defaultdict(set)
    for scenario in plan.scenarios:
        variants[scenario.columns["attack"]].add(scenario.columns["attack_options"])
    columns = [scenario.columns for scenario in plan.scenarios]
    constant = frozenset(
        name for name in columns[0] if name != "attack" and len({c[name] for c in columns}) == 1
    )
    return [
        scenario_text(
            {**c, "attack_options": json.dumps(_telling(c, variants[c["attack"]]))}, constant
        )
        for c in columns
    ]


def _telling(columns: Mapping[str, object], variants: set[str]) -> dict[str, object]:
    """Return the options in which an attack's entries differ."""
    entries = [json.loads(text) for text in variants]
    own: dict[str, object] = json.loads(str(columns["attack_options"]))
    return {
        name: value
        for name, value in own.items()
        if any(entry.get(name) != value for entry in entries)
    }
