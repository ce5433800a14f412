"""What a running study has come to: counts, who does what, what leads, what is left."""

import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean

from orchestrator.decisions import Status, Verdict
from orchestrator.names import scenario_text
from orchestrator.outlook import Outlook
from orchestrator.plan import Plan, Scenario, Setting, Trial
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
class Standing:
    """Which setting leads.

    Attributes:
        setting: The one that no other beats on the scenarios that both have.
        value: Its mean of the objective.
        scenarios: Behind that mean.
        margin: By how much it beats the next best, on the scenarios that both have; None
            as long as there is no other.
    """

    setting: Setting
    value: float
    scenarios: int
    margin: float | None


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
        self._values: dict[int, dict[int, float]] = defaultdict(dict)
        self._standing: tuple[int, Standing | None] = (-1, None)
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
            self._values[trial.setting.number][trial.scenario.number] = reached.value

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
    def standing(self) -> Standing | None:
        """Which setting leads, by the scenarios whose victims took."""
        if self._standing[0] != self.decided_count:
            self._standing = (self.decided_count, self._lead())
        return self._standing[1]

    def _lead(self) -> Standing | None:
        sound = {
            number: {s: value for s, value in values.items() if s not in self.weak} or values
            for number, values in self._values.items()
            if number not in self.abandoned
        }
        widest = max((len(values) for values in sound.values()), default=0)
        rivals = [n for n in self.plan.setting_order if 2 * len(sound.get(n, ())) >= max(1, widest)]
        if not rivals:
            return None
        leader = rivals[0]
        for rival in rivals[1:]:
            ahead = self._ahead(sound[rival], sound[leader])
            if ahead is not None and ahead > 0:
                leader = rival
        margins = [self._ahead(sound[leader], sound[n]) for n in rivals if n != leader]
        known = [margin for margin in margins if margin is not None]
        return Standing(
            setting=self.plan.settings[leader],
            value=fmean(sound[leader].values()),
            scenarios=len(sound[leader]),
            margin=min(known, default=None),
        )

    def _ahead(self, one: Mapping[int, float], other: Mapping[int, float]) -> float | None:
        """Return by how much one setting beats another where both were tried."""
        shared = one.keys() & other.keys()
        if not shared:
            return None
        sign = 1 if self.plan.study.objective.maximise else -1
        return sign * fmean(one[number] - other[number] for number in shared)

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
        """Return the setting that leads, or nothing."""
        lead, objective = self.standing, self.plan.study.objective
        if lead is None:
            return ""
        ahead = "" if lead.margin is None else f", {amount(objective, lead.margin)} ahead"
        return (
            f"best {objective.value.upper()} {amount(objective, lead.value)} in {lead.scenarios} "
            f"scenario{'s' if lead.scenarios > 1 else ''}{ahead}: {lead.setting.text}"
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
