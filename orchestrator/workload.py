"""How much there is to compute in an item, before anything is computed: images, not seconds."""

from dataclasses import dataclass

from orchestrator.plan import Plan, Scenario, Trial
from orchestrator.work import AscentItem, HelperItem, Item, VictimItem
from ulrl.datasets import Dataset
from ulrl.poisoning import MONITOR_COUNT

ASCENT_EPOCHS = 8  # a typical ascent; it ends where the threshold is reached
BACKWARD = 2.0  # a step's way back costs about two ways forth


@dataclass(frozen=True, kw_only=True)
class Load:
    """What an item computes.

    Attributes:
        trained: Images in training steps, each as often as it is seen.
        tested: Images in forward passes alone.
        batch: Images per step.
        known: Whether `trained` is sure: an ascent's length is not.
        replayed: Whether a GPU replays its steps, for networks that are `replayable`.
    """

    trained: float
    tested: float
    batch: int
    known: bool = True
    replayed: bool = True

    @property
    def passes(self) -> float:
        """All of it in forward passes of one image."""
        return (1 + BACKWARD) * self.trained + self.tested


class Workload:
    """The loads of a plan's items, by arithmetic on the study alone; no network is built."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts: dict[Dataset, tuple[int, int]] = {}

    def of(self, item: Item) -> Load:
        """Return what an item computes."""
        if isinstance(item, HelperItem):
            return self.helper(item)
        if isinstance(item, VictimItem):
            return self.victim(item.scenario)
        return self.ascent(item.trial) if isinstance(item, AscentItem) else self.relearn(item.trial)

    def helper(self, item: HelperItem) -> Load:
        """Return the load of what attacks train first."""
        train, _ = self.counts(item.scenario)
        config = self._plan.study.victim.config(
            item.scenario.dataset.name, item.scenario.poison.attack.name
        )
        return Load(
            trained=item.helper.cost(config) * train,
            tested=0.0,
            batch=config.batch_size,
            replayed=item.helper.plain,
        )

    def victim(self, scenario: Scenario) -> Load:
        """Return the load of a victim and its evaluation; an imported one is only evaluated."""
        train, test = self.counts(scenario)
        config = self._plan.study.victim.config(scenario.dataset.name, scenario.poison.attack.name)
        epochs = config.epochs if scenario.source is None else 0
        return Load(
            trained=epochs * train,
            tested=2.0 * test,
            batch=config.batch_size,
            replayed=not scenario.poison.stamps_in_training,
        )

    def ascent(self, trial: Trial) -> Load:
        """Return the load of an ascent of typical length."""
        config = trial.hyperparameters.unlearn
        epochs = min(ASCENT_EPOCHS, config.unlearn_epochs)
        load = self._phase(trial, epochs, config.unlearn_batch_size)
        return Load(trained=load.trained, tested=load.tested, batch=load.batch, known=False)

    def relearn(self, trial: Trial) -> Load:
        """Return the load of a relearning and its evaluation."""
        config = trial.hyperparameters.relearn
        _, test = self.counts(trial.scenario)
        load = self._phase(trial, config.relearn_epochs, config.relearn_batch_size)
        return Load(trained=load.trained, tested=load.tested + 2.0 * test, batch=load.batch)

    def counts(self, scenario: Scenario) -> tuple[int, int]:
        """Return training and test images; CIFAR-10's where the file that tells is missing."""
        dataset = scenario.dataset
        if dataset not in self._counts:
            facts = dataset.facts()
            found = (facts.train_count, facts.test_count) if facts else (50_000, 10_000)
            self._counts[dataset] = found
        return self._counts[dataset]

    def _phase(self, trial: Trial, epochs: int, batch: int) -> Load:
        train, test = self.counts(trial.scenario)
        samples = max(1, int(train * trial.hyperparameters.clean.clean_ratio))
        monitored = 2.0 * min(MONITOR_COUNT, test // 2)
        return Load(trained=epochs * samples, tested=epochs * monitored, batch=min(batch, samples))


def machine_of(scenario: Scenario) -> tuple[str, str]:
    """Return what seconds per image depend on, besides the machine."""
    return scenario.architecture.label, scenario.dataset.label
