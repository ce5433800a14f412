"""What has to be there before a scenario's trials: helpers of its attack, then its victim."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from orchestrator.catalogue import Catalogue
from orchestrator.errors import Vanished
from orchestrator.findings import Findings
from orchestrator.plan import Scenario
from orchestrator.work import HelperItem, Item, StageRun, VictimItem

T = TypeVar("T")


class Preparation:
    """Which scenarios are on their way to a victim, and which will have none.

    Attributes:
        broken: Scenarios without a victim by their number, and why.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        findings: Findings,
        push: Callable[[float, Item], None],
        account: Callable[[Iterable[StageRun]], None],
    ) -> None:
        self._catalogue, self._findings = catalogue, findings
        self._push, self._account = push, account
        self._ranks: dict[int, float] = {}
        self._places: dict[int, int] = {}  # among victims to make, by the scenario's number
        self._waiting: dict[int, list[Scenario]] = defaultdict(list)  # by the helper's number
        self.broken: dict[int, str] = {}

    def ordered(
        self, scenarios: Sequence[Scenario], length: Callable[[Scenario], float] | None
    ) -> list[Scenario]:
        """Return scenarios as they should begin: of what is to be made, the longest first."""
        if length is None:
            return list(scenarios)
        missing = [s for s in scenarios if self._findings.victim(s) is None]
        if len(missing) > 1:
            missing.sort(key=length, reverse=True)
        self._places = {scenario.number: place for place, scenario in enumerate(missing)}
        return [*(s for s in scenarios if s.number not in self._places), *missing]

    def rank(self, scenario: Scenario, first: int) -> int:
        """Return how soon to do what comes before a trial of rank `first`.

        A scenario whose victim was made early goes on early, as far as its first setting.
        """
        early = first < len(self._ranks)
        return min(first, self._places.get(scenario.number, first)) if early else first

    def has_begun(self, scenario: Scenario) -> bool:
        """Whether a scenario's victim is there, on its way, or has failed."""
        return scenario.number in self._ranks

    def begin(self, scenario: Scenario, first: float) -> bool:
        """Have a scenario's victim made, and return whether it is there already.

        Args:
            scenario: With a trial.
            first: Rank of the first of its trials.
        """
        self._ranks[scenario.number] = self._places.get(scenario.number, first)
        if self._findings.victim(scenario) is not None:
            return True
        self._push_victim(scenario)
        return False

    def helper_ready(self, item: HelperItem) -> None:
        """Go on with the scenarios that wait for a helper.

        Raises:
            Vanished: It is not in the store.
        """
        if self._findings.helper(item.scenario, item.helper) is None:
            raise Vanished(item.name)
        for scenario in self._waiting.pop(item.number, []):
            self._push_victim(scenario)

    def failed(self, item: HelperItem | VictimItem, error: str) -> list[Scenario]:
        """Return the scenarios that will have no victim because an item failed."""
        scenarios = [item.scenario]
        if isinstance(item, HelperItem):
            scenarios = self._waiting.pop(item.number, [])
        self.broken |= {scenario.number: error for scenario in scenarios}
        return scenarios

    def _push_victim(self, scenario: Scenario) -> None:
        """Make a victim ready, or let it wait for a helper that its attack needs first."""
        first = self._ranks[scenario.number]
        for item in self._catalogue.helpers_of(scenario):
            run = self._findings.helper(scenario, item.helper)
            if run is None:
                self._waiting[item.number].append(scenario)
                if len(self._waiting[item.number]) == 1:
                    self._push(first - 0.75, item)
                return
            self._account([run])
        self._push(first - 0.5, VictimItem(scenario=scenario))


class Turns(Generic[T]):
    """Of those that would make the same result, one does and the others wait for it."""

    def __init__(self) -> None:
        self._waiting: dict[object, list[T]] = {}

    def take(self, result: object, one: T) -> bool:
        """Return whether `one` is to make a result; if not, it waits."""
        if result in self._waiting:
            self._waiting[result].append(one)
            return False
        self._waiting[result] = []
        return True

    def end(self, result: object) -> list[T]:
        """Return who waited for a result that is made, or will not be by whoever was at it."""
        return self._waiting.pop(result, [])
