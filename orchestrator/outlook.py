"""When a study will be done, from what its items have taken so far."""

from collections import defaultdict
from dataclasses import dataclass
from typing import TypeAlias

from orchestrator.catalogue import Catalogue
from orchestrator.experience import Pace
from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import AscentItem, Item, TrialItem, VictimItem
from orchestrator.workload import Workload, machine_of

ENOUGH = 0.05  # share of an item that must be done before its pace says anything
Machine: TypeAlias = tuple[str, str]


@dataclass
class _Run:
    item: Item
    since: float
    load: float
    share: float = 0.0  # of the item that is done

    def rate(self, now: float) -> float | None:
        """Return its own seconds per unit of load, once it is far enough."""
        return (now - self.since) / (self.load * self.share) if self.share >= ENOUGH else None


class Outlook:
    """Time left, by stage: seconds per unit of load, for each network and dataset apart.

    Trials that others made unnecessary (shared results, pruned settings) count as load that
    took no time, so sharing and pruning are expected to go on as they did.
    """

    def __init__(self, plan: Plan) -> None:
        self._load = Workload(plan)
        self._catalogue = Catalogue(plan)
        self._paces: dict[tuple[str, Machine | None], Pace] = defaultdict(Pace)
        self._running: dict[str, _Run] = {}
        self._places: dict[str, float] = {}  # when each was last heard of
        self._counting = False
        self._open: dict[str, float] = {}  # loads of what is to be done, by the item's name
        self._ahead: dict[tuple[str, Machine], float] = defaultdict(float)  # their sums
        for item in self._catalogue.helpers:
            self._add(item.name, item.scenario, self._load.helper(item).passes)
        for scenario in plan.scenarios:
            victim = VictimItem(scenario=scenario)
            self._add(victim.name, scenario, self._load.victim(scenario).passes)
        self._plan = plan
        self._known: set[int] = set()
        self._ascents: set[object] = set()
        self._trials: dict[Machine, Pace] = defaultdict(Pace)  # their loads, and how many
        for trial in plan.trials:
            self._know(trial)

    def begin(self) -> None:
        """Count from now on: what was decided before was stored."""
        self._counting = True

    def heard(self, item: Item, place: str, now: float, done: int = 0, of: int = 0) -> None:
        """Take news of a running item."""
        if isinstance(item, AscentItem | TrialItem):
            self._know(item.trial)
        run = self._running.get(item.name)
        if run is None:
            since, load = self._places.get(place, now), self._load.of(item).passes
            run = self._running[item.name] = _Run(item=item, since=since, load=load)
        if of:
            run.share = done / of
        self._places[place] = now

    def ended(self, item: Item, place: str, now: float, spent: float = 0.0) -> None:
        """Take the end of an item; `spent` seconds on its worker, if somebody counted."""
        run = self._running.pop(item.name, None)
        since = run.since if run is not None else self._places.get(place, now)
        self._places[place] = now
        load = 0.0 if isinstance(item, TrialItem) else self._load.of(item).passes
        self._note(item.name, item.scenario, spent or now - since, load)
        if not isinstance(item, TrialItem):  # a trial's verdict follows
            self._remove(item.name, item.scenario)
        if isinstance(item, VictimItem):
            self.victim(item.scenario)

    def victim(self, scenario: Scenario) -> None:
        """Take note that a victim is there."""
        self._remove(VictimItem(scenario=scenario).name, scenario)
        for helper in self._catalogue.helpers_of(scenario):
            self._remove(helper.name, helper.scenario)

    def decided(self, trial: Trial) -> None:
        """Take a verdict on a trial; it may come without the trial ever having run."""
        self._know(trial)
        group = self._catalogue.group_of(trial)
        load = self._open.get(trial.name, 0.0)
        self._remove(trial.name, trial.scenario)
        self._remove(group.item.name, group.scenario)
        self._remove(VictimItem(scenario=trial.scenario).name, trial.scenario)
        run = self._running.pop(trial.name, None)
        if self._counting:
            self._note(trial.name, trial.scenario, 0.0, load * (run.share if run else 1.0))

    def left(self, now: float, workers: int) -> float | None:
        """Return the seconds until the end, or None as long as nothing is known."""
        to_come = self._to_come()
        if not self._open and not to_come:
            return 0.0
        total = 0.0
        ahead = [*self._ahead.items(), *((("trial", m), load) for m, load in to_come.items())]
        for (kind, machine), load in ahead:
            rate = self._rate(kind, machine, now)
            if rate is None:
                return None
            total += rate * load
        for run in self._running.values():
            rate = self._rate(_kind(run.item.name), machine_of(run.item.scenario), now)
            total -= (rate or 0.0) * run.load * run.share
        return max(0.0, total) / max(1, min(workers, len(self._open)))

    def _know(self, trial: Trial) -> None:
        """Take in a trial, of the plan from the start or drawn since; once is enough."""
        if trial.number in self._known:
            return
        self._known.add(trial.number)
        group = self._catalogue.known(trial) or self._catalogue.add(trial)
        if group.shared not in self._ascents:
            self._ascents.add(group.shared)
            self._add(group.item.name, group.scenario, self._load.ascent(trial).passes)
        load = self._load.relearn(trial).passes
        self._add(trial.name, trial.scenario, load)
        self._trials[machine_of(trial.scenario)].add(load, 1)

    def _to_come(self) -> dict[Machine, float]:
        """Return the loads of trials whose settings are not drawn yet, as of those that are."""
        settings = self._plan.most_settings - len(self._plan.settings)
        found: dict[Machine, float] = defaultdict(float)
        if settings:
            for scenario in self._plan.scenarios:
                machine = machine_of(scenario)
                found[machine] += settings * (self._trials[machine].rate or 0.0)
        return found

    def _add(self, name: str, scenario: Scenario, load: float) -> None:
        self._open[name] = load
        self._ahead[_kind(name), machine_of(scenario)] += load

    def _remove(self, name: str, scenario: Scenario) -> None:
        load = self._open.pop(name, 0.0)
        self._ahead[_kind(name), machine_of(scenario)] -= load

    def _note(self, name: str, scenario: Scenario, seconds: float, load: float) -> None:
        for machine in (machine_of(scenario), None):
            self._paces[_kind(name), machine].add(seconds, load)

    def _rate(self, kind: str, machine: Machine, now: float) -> float | None:
        """Return seconds per unit of load: the nearest that is known.

        First the stage's own on this network and dataset, then elsewhere, then what runs of
        it now, then what any other stage took or takes.
        """
        own = [self._paces[kind, machine].rate, self._paces[kind, None].rate]
        running = [(run, run.rate(now)) for run in self._running.values()]
        own += [rate for run, rate in running if _kind(run.item.name) == kind]
        other = [self._paces[k, m].rate for k, m in list(self._paces) if m is None]
        known = [rate for rate in (*own, *other, *(r for _, r in running)) if rate is not None]
        return known[0] if known else None


def _kind(name: str) -> str:
    return name.partition("-")[0]
